"""One LIBERO task inside its process: the package's scene, controller and predicates, nothing computed twice.

The package's own ``step`` evaluates the dynamics three times per physics step, updates some forty observables
in each, and renders both cameras whether or not anybody looks. Here the dynamics are evaluated once and only
what is read is observed; ``tests/contract/test_libero_environment.py`` holds values, pixels and verdicts equal to
the package's to the last bit.
"""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np
from libero.libero import benchmark
from libero.libero.envs.env_wrapper import ControlEnv
from robosuite.utils.transform_utils import convert_quat, quat2axisangle

from pld_core.errors import ContractError
from pld_sim.libero.oracle import ScriptedExpert
from pld_sim.libero.pictures import Pictures, refuse_blank
from pld_sim.libero.suites import RENDERED, Order

SETTLE_TICKS = 10  # no-ops before the policy acts, as in the evaluation that OpenVLA and openpi share
VISIBLE_STATE = ("body_pos", "body_quat", "site_rgba")  # of the model: what resets and switches change


class Simulation:
    """Serves the requests of one environment; all answers are plain values and arrays."""

    def __init__(self, order: Order) -> None:
        suite = benchmark.get_benchmark(order.suite)()
        self._order = order
        self._states = suite.get_task_init_states(order.index)
        self._package = ControlEnv(
            suite.get_task_bddl_file_path(order.index), use_camera_obs=False, hard_reset=False,
            camera_heights=RENDERED, camera_widths=RENDERED,
        )  # fmt: skip
        self._instruction = suite.get_task(order.index).language
        self._domain = self._package.env
        # The package samples its observables inside of its step; nobody reads them.
        self._domain._update_observables = lambda force=False: None
        self._domain._get_observations = lambda force_update=False: {}
        self._sim = self._domain.sim
        self._model, self._data = self._sim.model._model, self._sim.data._data
        self._robot = self._domain.robots[0]
        self._substeps = int(self._domain.control_timestep / self._domain.model_timestep)
        self._pristine = {name: getattr(self._model, name).copy() for name in VISIBLE_STATE}
        self._pictures = Pictures(self._sim._render_context_offscreen, order)
        self._seen: dict[str, Any] = {}
        self._expert: ScriptedExpert | None = None

    def description(self) -> dict[str, Any]:
        arm, fingers = self._robot.robot_joints, self._robot.gripper_joints
        return {"instruction": self._instruction, "joints": [*arm, *fingers]}

    def reset(self, seed: int, images: bool, simplified: bool) -> dict[str, Any]:
        """Official start state ``seed`` modulo their number; what it leaves open depends on the seed alone.

        simplified: so are the pictures until the next reset.
        """
        self._pictures.simplify(simplified)
        np.random.seed(seed % 2**32)  # noqa: NPY002 the package places cabinets and stoves with it
        for name, values in self._pristine.items():
            getattr(self._model, name)[:] = values
        self._robot.gripper.current_action = np.zeros_like(self._robot.gripper.current_action)
        self._package.reset()
        self._package.set_init_state(self._states[seed % len(self._states)])
        self._expert = None
        idle = np.array([0, 0, 0, 0, 0, 0, 1.0])
        for tick in range(SETTLE_TICKS):
            self._advance(idle, images and tick == SETTLE_TICKS - 1)
        if images:
            refuse_blank(self._seen["images"], self._order.task)
        return self._seen

    def step(self, action: np.ndarray, images: bool) -> dict[str, Any]:
        """One control tick of 50 ms; action float64 [7], +1 opens the gripper."""
        self._advance(action, images)
        return {**self._seen, "success": bool(self._domain._check_success())}

    def snapshot(self) -> dict[str, Any]:
        """What the pictures of the present observation depend on: joint values, then VISIBLE_STATE."""
        return {"snapshot": self._seen_state.copy()}

    def picture_of(self, snapshot: np.ndarray) -> dict[str, Any]:
        if snapshot.shape != self._seen_state.shape or snapshot.dtype != np.float64:
            raise ContractError(
                f"picture_of was given {snapshot.dtype} of shape {snapshot.shape}; a snapshot of "
                f"{self._order.task} is float64 {self._seen_state.shape}."
            )
        now = self._visible_state(self._data.qpos)
        shown = mujoco.MjData(self._model)
        try:
            self._show(snapshot, shown)
            return {"images": self._pictures.draw(shown)}
        finally:
            self._show(now, shown)

    def render(self, height: int, width: int) -> dict[str, Any]:
        """The agent's view as the present observation has it, uint8 [height, width, 3]."""
        return {"image": self._pictures.large(self._data, height, width)}

    def arm(self) -> dict[str, Any]:
        """Joint values of the observation [rad], its fingers' [m], and its tool pose in LIBERO's world frame."""
        robot = self._robot
        joints = [*robot._ref_joint_pos_indexes, *robot._ref_gripper_joint_pos_indexes]
        position, quaternion = self._seen_tool
        return {"joints": self._seen_state[joints], "position": position, "quaternion": np.roll(quaternion, 1)}

    def begin_oracle(self) -> dict[str, Any]:
        """A scripted expert that remembers nothing; refused where the task's goal has no script."""
        self._expert = ScriptedExpert(self._domain, self._model, self._data)
        return {}

    def act(self) -> dict[str, Any]:
        """The scripted expert's action for the present state, float32 [7]."""
        return {"action": self._scripted().act()}

    def grounding(self) -> dict[str, Any]:
        """From the tool to the present target, float32 [5]; see ``ScriptedExpert.grounding``."""
        return {"grounding": self._scripted().grounding()}

    def _scripted(self) -> ScriptedExpert:
        if self._expert is None:
            self.begin_oracle()
        assert self._expert is not None
        return self._expert

    def _advance(self, action: np.ndarray, images: bool) -> None:
        """The package's ``step``, except that its calls of ``mj_forward``, which change nothing, are left out.

        As there, the tick's observation is read a little before its end: after the 24th of 25 physics steps, bodies
        and tool as they were before it, the fingers' joints as they are after it. (The package's clock of
        observables runs ahead by the two readings that setting a start state forces.)
        """
        native = np.array(action, np.float64)
        native[6] = -native[6]
        self._sim.forward = lambda: None  # between the halves of a step everything is up to date
        try:
            for substep in range(self._substeps):
                if substep == self._substeps - 2:
                    self._seen_state = self._visible_state(self._data.qpos)
                mujoco.mj_step1(self._model, self._data)
                self._domain._pre_action(native, policy_step=substep == 0)
                mujoco.mj_step2(self._model, self._data)
                if substep == self._substeps - 2:
                    self._seen = self._observe(images)
        finally:
            del self._sim.forward
        self._domain._check_success()  # as the package's reward does: it also turns on what a switch controls
        self._domain._post_process()

    def _observe(self, images: bool) -> dict[str, Any]:
        position, quaternion = self._seen_tool = self._tool()
        fingers = self._data.qpos[self._robot._ref_gripper_joint_pos_indexes]
        proprio = np.concatenate([position, quat2axisangle(quaternion.copy()), fingers]).astype(np.float32)
        return {"proprio": proprio, "images": self._pictures.draw(self._data) if images else {}}

    def _tool(self) -> tuple[np.ndarray, np.ndarray]:
        """Position [3] in metres and quaternion [4] (x, y, z, w), as the package's observables have them."""
        hand = self._sim.data.get_body_xquat(self._robot.robot_model.eef_name)
        return self._data.site_xpos[self._robot.eef_site_id].copy(), convert_quat(hand, to="xyzw")

    def _visible_state(self, qpos: np.ndarray) -> np.ndarray:
        return np.concatenate([qpos, *(getattr(self._model, name).ravel() for name in VISIBLE_STATE)])

    def _show(self, state: np.ndarray, data: mujoco.MjData) -> None:
        """Put ``data``, and the model's visible state, where a snapshot says."""
        data.qpos[:] = state[: self._model.nq]
        start = self._model.nq
        for name in VISIBLE_STATE:
            values = getattr(self._model, name)
            values[:] = state[start : start + values.size].reshape(values.shape)
            start += values.size
        mujoco.mj_fwdPosition(self._model, data)
