"""Names, types and QoS of everything that crosses between nodes, in one place. docs/ros.md explains them.

Names are relative: the graph puts all nodes into one namespace (``/pld`` by default).
"""

from __future__ import annotations

from rclpy.duration import Duration
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

ROBOT_STATE = "robot/state"
ROBOT_COMMAND = "robot/command"
ROBOT_RESET = "robot/reset"
ROBOT_ESTOP = "robot/estop"
TOOL_POSE = "robot/tool_pose"
JOINT_STATES = "joint_states"
SIMULATOR_STATE = "simulator/state"
CHUNK = "vla/chunk"
CHUNK_REQUEST = "vla/request"
LOAD_POLICY = "vla_server/load_policy"
STEP = "controller/step"
EPISODE = "controller/episode"
RUN_EPISODE = "controller/run_episode"
LABEL = "controller/label"
LATE_LABEL = "replay_logger/label"
SUCCESS = "reward/estimate"
OPERATOR_STATE = "operator/state"
OPERATOR_RESET = "operator/reset"
OPERATOR_START = "operator/start"
OPERATOR_SUCCESS = "operator/success"
OPERATOR_FAIL = "operator/fail"
OPERATOR_LABEL = "operator/label"
OPERATOR_PAUSE = "operator/pause"
OPERATOR_ESTOP = "operator/estop"
OPERATOR_DRIVE = "operator/drive"  # what a front end in another process wants; an empty action: let go
INTERVENTION = "operator/intervention"
HEALTH = "health"
MARKERS = "monitor/markers"
DIAGNOSTICS = "/diagnostics"


def camera_image(camera: str) -> str:
    """The picture that policies see, uint8 RGB."""
    return f"camera/{camera}/image"


def camera_raw(camera: str) -> str:
    """The picture as captured, for people."""
    return f"camera/{camera}/image_raw"


def camera_info(camera: str) -> str:
    return f"camera/{camera}/camera_info"


def _profile(depth: int, reliable: bool = True, latched: bool = False, deadline_s: float | None = None) -> QoSProfile:
    profile = QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=depth,
        reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
    )
    if deadline_s is not None:
        profile.deadline = Duration(seconds=deadline_s)
    return profile


SENSOR = _profile(5, reliable=False)  # pictures for people, poses: the newest counts
# What transitions are made of: a lost one would be a hole in the data. Latched, because in lockstep the
# next one comes only after everyone has seen this one, late joiners included.
OBSERVATION = _profile(60, latched=True)  # two seconds of a camera: a logger may wait that long for a processor
STATE = _profile(30, latched=True)
RECORD = _profile(1000, latched=True)  # a logger that restarts gets what it missed
LATCHED = _profile(1, latched=True)
EPISODES = _profile(50, latched=True)
HEALTHS = _profile(50)


def command(deadline_s: float | None) -> QoSProfile:
    """Commands: reliable, the newest only; the subscriber is told when none comes within the deadline."""
    return _profile(1, deadline_s=deadline_s)
