"""What RViz is sent: arrows of the step, box, trail, success, status; nothing that is no longer true."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import rclpy
from operator_graph import wait_until
from pld_msgs.msg import EpisodeSpec, EpisodeStatus, OperatorState, PolicyStep, RobotState, SuccessEstimate
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from visualization_msgs.msg import Marker, MarkerArray

from pld_core.errors import ConfigError
from pld_ros import topics
from pld_ros.convert import floats
from pld_ros.markers import ARROW_SCALE, LIFETIME_S, Scene, draw
from pld_ros.nodes.monitor import TRAIL_LENGTH, Monitor
from pld_ros.operating.graph_watch import FRESH_S, GraphWatch

BOX = ((0.3, -0.25, 0.0), (0.7, 0.25, 0.5))
TOOL = np.array([0.5, 0.1, 0.2])


def step(base=(1.0, 0, 0), residual=(0, 1.0, 0), action=(1.0, 0.5, 0), **more) -> PolicyStep:
    rows = {"base_action": base, "residual": residual, "action": action}
    filled = {name: floats(np.array([*row, 0, 0, 0, 1.0])) for name, row in rows.items()}
    return PolicyStep(episode_id="e-1", source=1, tick=12, **filled, **more)


def named(array: MarkerArray) -> dict[str, Marker]:
    return {marker.ns: marker for marker in array.markers}


def ends(marker: Marker) -> np.ndarray:
    return np.array([[p.x, p.y, p.z] for p in marker.points])


# -- markers -------------------------------------------------------------------------------------


def test_base_and_residual_add_up_to_the_executed_action():
    found = named(draw(Scene("base", 0.01, BOX, TOOL, step=step(), xi=0.5)))
    scale = 0.01 * ARROW_SCALE
    assert ends(found["base_action"]) == pytest.approx(np.array([TOOL, TOOL + [scale, 0, 0]]))
    assert ends(found["residual"]) == pytest.approx(np.array([TOOL + [scale, 0, 0], TOOL + [scale, scale / 2, 0]]))
    assert ends(found["executed_action"]) == pytest.approx(np.array([TOOL, TOOL + [scale, scale / 2, 0]]))
    assert len({str(found[name].color) for name in ("base_action", "residual", "executed_action")}) == 3


def test_no_arrow_without_length_tool_or_execution():
    assert "residual" not in named(draw(Scene("base", 0.01, BOX, TOOL, step=step(), xi=0.0)))
    assert "base_action" not in named(draw(Scene("base", 0.01, BOX, None, step=step())))
    closing = named(draw(Scene("base", 0.01, BOX, TOOL, step=step(closing=True))))
    assert "base_action" in closing
    assert "executed_action" not in closing
    empty = named(draw(Scene("base", 0.01, BOX, TOOL, step=PolicyStep(), xi=0.5)))
    assert set(empty) == {"workspace"}


def test_the_workspace_has_twelve_edges_on_its_corners():
    box = named(draw(Scene("base", 0.01, BOX)))["workspace"]
    corners = ends(box).reshape(12, 2, 3)
    assert box.type == Marker.LINE_LIST
    assert len(np.unique(corners, axis=0)) == 12
    assert (np.count_nonzero(corners[:, 0] != corners[:, 1], axis=1) == 1).all()
    assert corners.min((0, 1)) == pytest.approx(BOX[0])
    assert corners.max((0, 1)) == pytest.approx(BOX[1])


@pytest.mark.parametrize(("probability", "text"), [(0.0, "0 %"), (0.62, "62 %"), (1.0, "100 %")])
def test_the_bar_is_as_high_as_success_is_probable(probability, text):
    found = named(draw(Scene("base", 0.01, BOX, probability=probability)))
    assert found["success_text"].text == text
    filled = found["success_bar"].scale.z if probability else 0.0
    assert filled == pytest.approx(probability * found["success_frame"].scale.z)
    assert ("success_bar" in found) == (probability > 0), "RViz complains of cubes without height"


def test_every_marker_is_new_in_its_frame_and_vanishes():
    scene = Scene("table", 0.01, BOX, TOOL, [TOOL, TOOL + 0.1], step(), 0.5, 0.5, ("running",), ("E-STOP",))
    array = draw(scene)
    keys = [(marker.ns, marker.id) for marker in array.markers]
    assert len(set(keys)) == len(keys) == 10
    for marker in array.markers:
        assert marker.header.frame_id == "table"
        assert marker.lifetime.sec + 1e-9 * marker.lifetime.nanosec == pytest.approx(LIFETIME_S)
        assert 0 < marker.color.a <= 1
    assert named(array)["banner"].text == "E-STOP"
    assert named(array)["status"].text == "running"


def test_a_station_without_a_workspace_is_drawn_too():
    found = named(draw(Scene("base", 0.01, None, TOOL, probability=0.5, status=("idle",))))
    assert set(found) == {"success_frame", "success_bar", "success_text", "status"}


# -- node ----------------------------------------------------------------------------------------


class Senders(Node):
    def __init__(self) -> None:
        super().__init__("senders")
        self.pictures: list[MarkerArray] = []
        self.step = self.create_publisher(PolicyStep, topics.STEP, topics.RECORD)
        self.success = self.create_publisher(SuccessEstimate, topics.SUCCESS, topics.STATE)
        self.robot = self.create_publisher(RobotState, topics.ROBOT_STATE, topics.STATE)
        self.episode = self.create_publisher(EpisodeStatus, topics.EPISODE, topics.EPISODES)
        self.operator = self.create_publisher(OperatorState, topics.OPERATOR_STATE, topics.LATCHED)
        self.create_subscription(MarkerArray, topics.MARKERS, self.pictures.append, 10)

    def tell_robot(self, x: float, resets: int = 1) -> None:
        message = RobotState(mode="moving", resets=resets)
        message.tool_pose.position.x = x
        self.robot.publish(message)

    def everything(self) -> None:
        self.tell_robot(0.5)
        self.episode.publish(EpisodeStatus(state=EpisodeStatus.RUNNING, episode_id="e-1", spec=EpisodeSpec(xi=0.5)))
        self.operator.publish(OperatorState(estopped=True, paused=True))
        self.success.publish(SuccessEstimate(probability=0.62))
        self.step.publish(step())


@pytest.fixture
def executor() -> Iterator[SingleThreadedExecutor]:
    rclpy.init(args=[])
    executor = SingleThreadedExecutor()
    yield executor
    for node in executor.get_nodes():
        node.destroy_node()
    executor.shutdown()
    rclpy.try_shutdown()


def spin_until(executor: SingleThreadedExecutor, condition, what: str) -> None:
    def look() -> bool:
        executor.spin_once(timeout_sec=0.02)
        return bool(condition())

    wait_until(look, what)


@pytest.fixture
def pair(executor) -> tuple[Monitor, Senders]:
    monitor, senders = Monitor(), Senders()
    executor.add_node(monitor)
    executor.add_node(senders)
    publishers = (senders.step, senders.success, senders.robot, senders.episode, senders.operator)
    spin_until(executor, lambda: all(p.get_subscription_count() for p in publishers), "the monitor listens")
    spin_until(executor, lambda: senders.pictures, "the first picture")
    return monitor, senders


def test_a_running_episode_is_shown_whole(executor, pair):
    _, senders = pair
    assert {"workspace", "status"} == set(named(senders.pictures[-1])), "nothing is heard yet"

    def shown() -> bool:
        senders.everything()
        return {"base_action", "residual", "executed_action", "success_bar", "banner"} <= set(
            named(senders.pictures[-1])
        )

    spin_until(executor, shown, "everything is shown")
    found = named(senders.pictures[-1])
    assert found["status"].text == "episode e-1 running\ntick 12\nsuccess 62 %\nrobot moving"
    assert found["banner"].text == "E-STOP  PAUSED"
    assert ends(found["residual"])[1] - ends(found["residual"])[0] == pytest.approx([0, 0.05, 0])


def test_the_trail_is_short_and_begins_anew_with_each_reset(executor, pair):
    monitor, senders = pair
    for number in range(2 * TRAIL_LENGTH):
        senders.tell_robot(0.001 * number)
        spin_until(executor, lambda n=number: _tool(monitor) == pytest.approx(0.001 * n), "the position is heard")
    assert len(monitor.scene().trail) == TRAIL_LENGTH
    senders.tell_robot(0.5, resets=2)
    spin_until(executor, lambda: len(monitor.scene().trail) == 1, "another trail")


def _tool(monitor: Monitor) -> float:
    tool = monitor.scene().tool
    return float("nan") if tool is None else tool[0]


def test_at_most_twenty_pictures_a_second():
    rclpy.init(args=["--ros-args", "-p", "rate_hz:=50.0"])
    try:
        with pytest.raises(ConfigError, match=r"rate_hz is 50.0.*at most 20"):
            Monitor()
    finally:
        rclpy.try_shutdown()


# -- what people read ----------------------------------------------------------------------------


class NoNode:
    def create_subscription(self, *_: object) -> None: ...


NO_NODE: Any = NoNode()


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_what_is_old_is_not_told_as_if_it_were_now():
    clock = Clock()
    watch = GraphWatch(NO_NODE, clock=clock)
    assert watch.summary() == "no controller heard | robot not heard"
    watch.hear(RobotState(mode="fault", fault="joint 3 is hot"))
    watch.hear(step())
    watch.hear(SuccessEstimate(probability=0.5, drift=True))
    watch.hear(EpisodeStatus(state=EpisodeStatus.RUNNING, episode_id="e-1", spec=EpisodeSpec(mode="learn")))
    watch.hear(OperatorState(taking_over=True, starts=3))
    assert watch.summary() == (
        "HUMAN DRIVES | episode e-1 running (learn) | tick 12 | success 50 % (drift) | "
        "robot fault: joint 3 is hot | starts 3"
    )
    clock.now = FRESH_S
    assert watch.summary() == "HUMAN DRIVES | episode e-1 running (learn) | robot not heard | starts 3"


@pytest.mark.parametrize(
    ("outcome", "text"),
    [
        ({"success": True}, "success"),
        ({}, "failure"),
        ({"success": True, "voided": True, "reason": "no frames"}, "void | no frames"),
    ],
)
def test_how_an_episode_ended(outcome, text):
    watch = GraphWatch(NO_NODE)
    watch.hear(EpisodeStatus(state=EpisodeStatus.DONE, episode_id="e-1", ticks=40, **outcome))
    assert " | ".join(watch.episode()) == f"episode e-1 done | 40 ticks | {text}"
