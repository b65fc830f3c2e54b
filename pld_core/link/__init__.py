"""The actor-learner link: records go up to the learner, weights come down to the robot. No ROS.

Both directions survive the death of either side: records wait in the sender's spool until the learner
has acknowledged them, and a subscriber keeps its weights until it holds newer ones, complete.
"""

from pld_core.link.codec import decode, encode
from pld_core.link.receiver import Received, RecordReceiver
from pld_core.link.sender import RecordSender
from pld_core.link.weights import Weights, WeightsPublisher, WeightsSubscriber

__all__ = [
    "Received",
    "RecordReceiver",
    "RecordSender",
    "Weights",
    "WeightsPublisher",
    "WeightsSubscriber",
    "decode",
    "encode",
]
