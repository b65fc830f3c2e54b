"""A task's objects around a simulated arm, and what is told of them."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import mujoco
import numpy as np
import pytest

from pld_core.errors import ConfigError, ContractError, RobotUnavailableError
from pld_ros.benches.franka_simulator import HOME_RAD, FrankaSimulator, add_objects, drop_visuals
from pld_ros.benches.scenes import JointPublisher, JointWatch, Scene, load_scene
from pld_sim.tabletop import TabletopEnvironment, make_environments
from pld_sim.tabletop.models import FR3

SEED = 3


@pytest.fixture
def environment() -> Iterator[TabletopEnvironment]:
    (made,) = make_environments("cube_pickup", 1)
    yield made
    made.close()


@pytest.fixture
def scene() -> Scene:
    return load_scene("cube_pickup", SEED)


def joints_of(environment: TabletopEnvironment) -> dict[str, np.ndarray]:
    """As another simulator would tell them; its pads touch at 0."""
    model, snapshot = environment._world.model, environment.snapshot()
    told = {}
    for index in range(model.njnt):
        joint = model.joint(index)
        size = 7 if joint.type[0] == mujoco.mjtJoint.mjJNT_FREE else 1
        told[joint.name] = snapshot[joint.qposadr[0] : joint.qposadr[0] + size].copy()
    for finger in FR3.fingers:
        told[finger] += FR3.pad_gap / 2
    return told


def test_what_is_followed_looks_the_same(environment: TabletopEnvironment, scene: Scene) -> None:
    environment.reset(SEED)
    for action in np.random.default_rng(0).uniform(-1, 1, (5, 7)).astype(np.float32):
        seen = environment.step(action).observation
    scene.follow(joints_of(environment))
    for camera, picture in scene.pictures().items():
        np.testing.assert_allclose(picture.astype(int), seen.images[camera].astype(int), atol=1)  # fingers: 1e-18 m


def test_its_oracle_and_its_success_are_those_of_the_task(environment: TabletopEnvironment, scene: Scene) -> None:
    step, oracle = environment.reset(SEED), environment.oracle()
    while not step.last:
        scene.follow(joints_of(environment))
        assert not scene.succeeded()
        wanted, proprio = oracle.act(), environment._world.controller.proprio(environment._world.data)
        np.testing.assert_allclose(scene.act(proprio[7:10], proprio[10:13]), wanted, atol=1e-4)
        step = environment.step(wanted)
    assert step.success
    scene.follow(joints_of(environment))
    assert scene.succeeded()


def test_a_joint_that_is_not_told(environment: TabletopEnvironment, scene: Scene) -> None:
    environment.reset(SEED)
    joints = joints_of(environment)
    del joints["red_joint"]
    with pytest.raises(ContractError, match="red_joint"):
        scene.follow(joints)


def test_the_objects_stand_where_the_seed_puts_them(environment: TabletopEnvironment, scene: Scene) -> None:
    from franky_sim.mujoco_simulator import MujocoSimulator

    environment.reset(SEED)
    wanted = joints_of(environment)["red_joint"]
    with MujocoSimulator() as simulator:
        robot = simulator.add_robot(initial_q=HOME_RAD)
        drop_visuals(simulator.scene)
        add_objects(simulator, scene.objects())
        simulator.start()
        assert simulator.model is not None
        assert simulator.model.body("red_cube").mass[0] == pytest.approx(500 * 0.062**3)
        assert simulator.data is not None
        np.testing.assert_allclose(simulator.data.body("red_cube").xpos, wanted[:3], atol=1e-4)
        assert robot.inner_state.q == pytest.approx(HOME_RAD)


def test_a_simulator_tells_where_its_arm_and_objects_are(scene: Scene) -> None:
    with FrankaSimulator(scene="cube_pickup", seed=SEED) as simulator:
        watch = JointWatch(simulator.host)
        try:
            joints = watch.newest()
            assert [joints[name][0] for name in FR3.joints] == pytest.approx(HOME_RAD, abs=1e-2)
            scene.follow(joints)
            assert not scene.succeeded()
            simulator.kill()
            time.sleep(0.2)
            with pytest.raises(RobotUnavailableError, match="said nothing for"):
                watch.newest(max_age_s=0.1)
        finally:
            watch.close()


def test_nobody_tells_anything() -> None:
    watch = JointWatch("127.88.0.1")
    try:
        with pytest.raises(RobotUnavailableError, match="nothing at all"):
            watch.newest(timeout_s=0.2)
    finally:
        watch.close()


def test_joints_have_their_names_and_lengths() -> None:
    model = mujoco.MjModel.from_xml_string(
        "<mujoco><worldbody><body name='arm'><joint name='robot0_first'/><geom size='1'/></body>"
        "<body name='ball'><freejoint name='ball_joint'/><geom size='1'/></body></worldbody></mujoco>"
    )
    host = f"127.89.{np.random.default_rng().integers(255)}.7"
    teller, watch = JointPublisher(host, model, "robot0_"), JointWatch(host)
    try:
        deadline = time.monotonic() + 10
        while not watch._heard.wait(0.01) and time.monotonic() < deadline:
            teller.tell(np.arange(8.0))
        joints = watch.newest(max_age_s=10)
        assert joints["first"].tolist() == [0.0]
        assert joints["ball_joint"].tolist() == list(range(1, 8))
    finally:
        watch.close()
        teller.close()


def no_scene() -> None: ...


def test_scenes_that_do_not_exist() -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        load_scene("nowhere", 0)
    with pytest.raises(ConfigError, match="no_such_module"):
        load_scene("no_such_module:cube", 0)
    with pytest.raises(ConfigError, match="function of a seed"):
        load_scene(f"{__name__}:no_scene", 0)


def test_the_port_is_free_again_after_a_kill() -> None:
    """Where a simulator was killed, the next one serves the same address."""
    with FrankaSimulator() as simulator:
        simulator.kill()
        simulator.start()
        with socket.create_connection((simulator.host, 5799), 5.0):
            pass
