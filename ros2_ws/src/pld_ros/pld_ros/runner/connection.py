"""A learner's node and its ends of the link: orders out, episodes in."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError
from functools import partial
from pathlib import Path
from typing import Any

import rclpy
from pld_msgs.action import RunEpisode
from pld_msgs.msg import EpisodeStatus
from pld_msgs.srv import LoadPolicy
from rclpy.action import ActionClient
from rclpy.context import Context
from rclpy.exceptions import InvalidHandle
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from pld_core.config import TrainConfig
from pld_core.errors import ContractError, RobotUnavailableError
from pld_ros import topics
from pld_ros.convert import id_of
from pld_ros.node import HealthWatch
from pld_ros.runner.inbox import Inbox
from pld_ros.spinner import Spinner

ANSWER_S = 30.0  # for a service, and for an episode's data after its end
ACCEPT_S = 3.0  # for an order to be heard; DDS may lose the answer to a client that it has just met
CONTROLLER_LOST_S = 3.0
BUSY = "the controller refused the order; see its log"
UNANSWERED = "the controller did not answer"
RESULT_S = 1.0  # after its last status, how long an order's answer may take
NAMESPACE = "/pld"
SETTLE_S = 0.1  # after the controller's first word, until all that it said before has come
ENDED_KEPT = 100
SILENCE = EpisodeStatus()  # before the controller's first word


class Refusal(str):
    """Why the controller did not carry out an order, in its own words."""

    __slots__ = ()


class Connection:
    """The learner's node and its ends of the link."""

    def __init__(self, config: TrainConfig, folder: Path, check: Callable[[], None]) -> None:
        """check: raises if it is no use to wait any longer."""
        self._check = check
        self._context = Context()
        rclpy.init(context=self._context, signal_handler_options=SignalHandlerOptions.NO)
        self.node = Node("learner", namespace=NAMESPACE, context=self._context)
        self._health = HealthWatch(self.node)
        self._status = SILENCE
        self._ended: dict[str, EpisodeStatus] = {}  # by order: DDS may lose the answer to one
        self.node.create_subscription(EpisodeStatus, topics.EPISODE, self._hear, topics.EPISODES)
        self._orders = ActionClient(self.node, RunEpisode, topics.RUN_EPISODE)
        self._loads = self.node.create_client(LoadPolicy, topics.LOAD_POLICY)
        self.inbox = Inbox(config.ros.records_address, folder / "link")
        from pld_core.link import WeightsPublisher

        self.weights = WeightsPublisher(config.ros.weights_address)
        self._spinner = Spinner(self.node)
        self._ready_timeout_s = config.ros.ready_timeout_s

    def order(self, goal: RunEpisode.Goal, stopping: threading.Event) -> tuple[str, str]:
        """``(id of the finished episode, "")`` or ``("", why there is none)``."""
        self._require_hearing()
        if not self._orders.server_is_ready():
            return "", f"no controller within {self._ready_timeout_s:.0f} s"
        # From this thread, an answer that comes at once finds rclpy 9.1 not ready for it: ros2/rclpy issue 1123.
        sent = self._spinner.call(partial(self._orders.send_goal_async, goal))
        try:
            if not self._wait(lambda: sent.done() and sent.result().done(), ACCEPT_S, stopping):
                return "", UNANSWERED
        finally:
            sent.cancel()  # what is not sent by now must not be sent later
        handle = sent.result().result()
        if handle is None or not handle.accepted:
            return self._finish_running(goal, stopping)
        result, boot = handle.get_result_async(), self._health.version("controller")
        order, accepted_at = id_of(handle), time.monotonic()
        lost, ended = partial(self._lost, boot, accepted_at), partial(self._ended.get, order)
        passed_over = partial(self._is_at_another, order, accepted_at)
        try:
            self._wait(lambda: result.done() or ended() or lost() or passed_over(), float("inf"), stopping)
            told = ended()
            self._wait(result.done, RESULT_S if told else 0.0, stopping)
        except CancelledError:
            handle.cancel_goal_async()
            raise
        if result.done():
            answer: RunEpisode.Result = result.result().result  # type: ignore[union-attr]  # it is done
            return (answer.outcome.episode_id, "") if answer.ok else ("", Refusal(answer.message))
        if told is not None:
            return told.episode_id, told.reason
        return "", "another order was carried out instead" if passed_over() else "the controller was lost"

    def _finish_running(self, goal: RunEpisode.Goal, stopping: threading.Event) -> tuple[str, str]:
        """The controller is busy: with the order of a learner that died, or with one whose answer got lost."""
        episode_id = self._running(goal)
        if not episode_id:
            self._wait(lambda: False, 1.0, stopping)
            return "", BUSY
        lost = partial(self._lost, self._health.version("controller"), 0.0)
        self._wait(lambda: self._running(goal) != episode_id or lost(), float("inf"), stopping)
        return episode_id, ""

    def _running(self, goal: RunEpisode.Goal) -> str:
        """The episode that is carried out for this very order; empty if there is none."""
        s = self._status
        running = s.state in (EpisodeStatus.RUNNING, EpisodeStatus.PAUSED)
        return s.episode_id if running and self._is_for(goal, s) else ""

    def meet_controller(self, stopping: threading.Event) -> None:
        """Wait until it takes orders and has told what it did last; gives up in silence."""
        self._wait(self._orders.server_is_ready, self._ready_timeout_s, stopping)
        if self._status is SILENCE and self._wait(lambda: self._status is not SILENCE, ACCEPT_S, stopping):
            self._wait(lambda: False, SETTLE_S, stopping)

    def finished(self, goal: RunEpisode.Goal) -> str:
        """The newest episode if it is whole, was for this very order and nobody here has it; else empty."""
        s = self._status
        whole = s.state == EpisodeStatus.DONE and not s.voided and self._is_for(goal, s)
        return s.episode_id if whole and not self.inbox.asked_for(s.episode_id) else ""

    @staticmethod
    def _is_for(goal: RunEpisode.Goal, s: EpisodeStatus) -> bool:
        asked = (goal.spec, goal.policy_version, goal.weights_version)
        return (s.spec, s.policy_version, s.weights_version) == asked

    @property
    def waits_for(self) -> str:
        """Why the controller does not begin with its order; empty unless it waits."""
        return self._status.reason if self._status.state == EpisodeStatus.WAITING else ""

    def _hear(self, message: EpisodeStatus) -> None:
        self._status = message
        if message.state in (EpisodeStatus.DONE, EpisodeStatus.IDLE):
            self._ended[message.order] = message
            while len(self._ended) > ENDED_KEPT:
                del self._ended[next(iter(self._ended))]

    def _is_at_another(self, order: str, accepted_at: float) -> bool:
        """The controller does one thing at a time: an order that it runs past is over, whether it says so or not."""
        s = self._status
        running = s.state in (EpisodeStatus.RUNNING, EpisodeStatus.PAUSED)
        return running and s.order != order and time.monotonic() - accepted_at > RESULT_S

    def served_version(self) -> str:
        return self._health.version("vla_server") if self._health.silent_s("vla_server") < CONTROLLER_LOST_S else ""

    def load_policy(self, name: str, version: str, stopping: threading.Event) -> None:
        """Have the VLA server serve a policy. Raises RobotUnavailableError, or ContractError at another version."""
        if not self._wait(self._loads.service_is_ready, self._ready_timeout_s, stopping):
            raise RobotUnavailableError("No VLA server answers. Is it running, in this ROS_DOMAIN_ID?")
        self._wait(lambda: self.served_version() != "", ACCEPT_S, stopping)
        if self.served_version() == version:  # as it was started: loading takes long and is not done twice
            return
        answer = self._loaded(LoadPolicy.Request(policy=name), version, stopping)
        if answer is None and self.served_version() == version:
            return
        if answer is None or not answer.ok:
            raise RobotUnavailableError(
                f"The VLA server does not serve {name}: {'no answer' if answer is None else answer.message}"
            )
        if answer.policy_version != version:
            raise ContractError(
                f"The VLA server serves {name} as version {answer.policy_version}, here it is {version}: its files "
                "differ from those of the learner."
            )
        self._wait(lambda: self.served_version() == version, ANSWER_S, stopping)

    def _loaded(
        self, request: LoadPolicy.Request, version: str, stopping: threading.Event
    ) -> LoadPolicy.Response | None:
        """The server's answer. None after ``ANSWER_S``, or where it was lost and the server is heard to serve
        ``version``: one that speaks again has answered, and is asked again if that is not what it serves."""
        deadline = time.monotonic() + ANSWER_S
        while (left := deadline - time.monotonic()) > 0.0:
            asked, answer = time.monotonic(), self._loads.call_async(request)
            lost = partial(self._has_spoken_since, "vla_server", asked + ACCEPT_S)
            self._wait(lambda: answer.done() or lost(), left, stopping)  # noqa: B023  # waited for right here
            if answer.done():
                return answer.result()
            self._loads.remove_pending_request(answer)
            if self.served_version() == version:
                return None
        return None

    def _has_spoken_since(self, node: str, moment: float) -> bool:
        return time.monotonic() - self._health.silent_s(node) > moment

    def _lost(self, boot: str, accepted_at: float) -> bool:
        """Silent, or another than the one that took the order: a restart may be quicker than any silence."""
        another = bool(boot) and self._health.version("controller") != boot
        silent_s = min(self._health.silent_s("controller"), time.monotonic() - accepted_at)
        return another or silent_s > CONTROLLER_LOST_S

    def _wait(self, condition: Any, timeout_s: float, stopping: threading.Event) -> bool:
        """Poll, for what comes from several sides; an episode lasts seconds, the poll 5 ms."""
        deadline = time.monotonic() + timeout_s
        while True:
            self._require_hearing()
            try:
                if condition():
                    return True
            except InvalidHandle:
                self._require_hearing()
                raise
            self._check()
            if stopping.wait(0.005):
                raise CancelledError("The runner was stopped.")
            if time.monotonic() > deadline:
                return False

    def _require_hearing(self) -> None:
        """Raise RobotUnavailableError if nothing that the station says comes here any more."""
        fault = self._spinner.fault
        if fault is not None:
            raise RobotUnavailableError(f"The learner hears the station no more: {fault!r}") from fault

    def close(self) -> None:
        self._spinner.close()
        self._orders.destroy()
        self.node.destroy_node()
        self.inbox.close()
        self.weights.close()
        rclpy.try_shutdown(context=self._context)
