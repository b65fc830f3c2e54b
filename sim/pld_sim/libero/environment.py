"""The environment that the rest of PLD sees; the simulation is in another process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from pld_core.errors import ContractError, EpisodeLostError, NonFiniteError, StageError
from pld_core.interfaces import Oracle
from pld_core.types import ActionSpec, Observation, ObservationSpec, TimeStep
from pld_sim.actions import checked_action
from pld_sim.libero.process import WorkerProcess
from pld_sim.libero.suites import CAMERAS, PROPRIO_NAMES, SUITES, Order

LOST_IN_A_ROW = 3  # processes, without a finished episode between them
OPEN = 1.0


class _WorkersOracle:
    """The expert acts where the state is, in the worker."""

    def __init__(self, call: Callable[..., dict[str, Any]]) -> None:
        self._call = call

    def reset(self) -> None:
        self._call(do="begin_oracle")

    def act(self) -> np.ndarray:
        return self._call(do="act")["action"]


class LiberoEnvironment:
    """One LIBERO task: 20 Hz, sparse binary reward, two cameras. Implements interfaces.SimulatedEnvironment.

    Actions: deltas of position (1 is 0.05 m) and rotation (0.5 rad) in LIBERO's world frame, whose axes are
    the arm's base's, and the gripper, +1 open (the package has it the other way round). Observations: images
    ``agentview`` and ``wrist`` uint8 [size, size, 3], the right way up (policies trained on pictures that were
    turned by 180 degrees want ``image[:, ::-1]``); proprio float32 [8] as openpi and LeRobot have it: tool
    position, rotation vector, both finger joints. As in the package, both show the scene 4 ms before a tick's end.

    ``reset(seed)`` starts from official state ``seed % 50`` and lets it settle for 10 ticks; seeds beyond 49 differ
    from it only in where cabinets and stoves stand, by millimetres, and in suites without those not at all.

    image_every: ticks that a picture serves before the next is taken, counted from the reset, like a slow camera:
    between them the same images come again, with their old stamp. Give a policy's ``replan_every`` where it
    reads images only when it plans. While ``renders_cameras`` is False there are no images at all.
    ``simplified=True``: from the next reset on pictures are drawn from a tenth of the triangles and without mirror
    images, several times faster; nothing else changes.
    ``stop_at_success=False`` lets an episode run on to the time limit.
    """

    def __init__(self, order: Order, image_every: int = 1) -> None:
        if isinstance(image_every, bool) or not isinstance(image_every, int) or image_every < 1:
            raise ContractError(f"image_every was given {image_every!r}; valid is an integer of at least 1.")
        self._order, self.image_every = order, image_every
        self.task, self.max_steps = order.task, SUITES[order.suite].max_steps
        self.action_spec = ActionSpec(translation_m=0.05, rotation_rad=0.5)
        size = (order.image_size, order.image_size, 3)
        self.observation_spec = ObservationSpec(dict.fromkeys(CAMERAS, size), len(PROPRIO_NAMES), PROPRIO_NAMES)
        self.renders_cameras, self.stop_at_success = True, True
        self.simplified = False
        self._tick, self._lost = 0, 0
        self._running = self._closed = False
        self._gripper = OPEN
        self._images: dict[str, np.ndarray] = {}
        self._pictured_ns = 0
        self._joint_names: tuple[str, ...] = ()
        self.instruction = ""
        self._worker: WorkerProcess = WorkerProcess(order)
        self._is_ready = False

    def wait_until_ready(self) -> None:
        """Wait for the process; raises ConfigError where the extra ``libero`` is not installed."""
        if not self._is_ready:
            description = self._worker.wait_until_ready()
            self.instruction, self._joint_names = description["instruction"], tuple(description["joints"])
            self._is_ready = True

    def reset(self, seed: int) -> TimeStep:
        """Start an episode that depends on the seed alone, in a new process if the last one was lost.

        Raises StageError when processes are lost again and again.
        """
        if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or not 0 <= seed < 2**63:
            raise ContractError(f"reset was given seed {seed!r}; valid is an integer from 0 to 2**63 - 1.")
        self._require_open()
        self._running = False
        if self._worker.gone:
            self._restart()
        self._tick, self._gripper, self._images = 0, OPEN, {}
        seen = self._call(do="reset", seed=int(seed), images=self.renders_cameras, simplified=self.simplified)
        self._running = True
        return TimeStep(self._observation(seen))

    def step(self, action: np.ndarray) -> TimeStep:
        """Execute one action for 50 ms; see ``pld_core.interfaces.Environment``."""
        return self.begin_step(action)()

    def begin_step(self, action: np.ndarray) -> Callable[[], TimeStep]:
        """Set the tick going; the function that comes back waits for it. See ``interfaces.ConcurrentEnvironment``."""
        self._require_open()
        action = checked_action(action, self.action_spec.dim, self.task, self._running)
        fresh = self.renders_cameras and (self._tick + 1) % self.image_every == 0
        fresh |= self.renders_cameras and not self._images  # somebody switched the cameras on again
        answer = self._guarded(lambda: self._worker.ask(do="step", action=action, images=fresh))
        self._tick += 1
        self._gripper = float(action[6])
        return lambda: self._finish_step(answer)

    def _finish_step(self, answer: Callable[[], dict[str, Any]]) -> TimeStep:
        seen = self._guarded(answer)
        success = bool(seen["success"])
        terminated = success and self.stop_at_success
        truncated = not terminated and self._tick >= self.max_steps
        self._running = not (terminated or truncated)
        if not self._running:
            self._lost = 0
        return TimeStep(self._observation(seen), float(success), terminated, truncated, success)

    def render(self, height: int = 480, width: int = 640) -> np.ndarray:
        """The agent's view for people, uint8 [height, width, 3]."""
        return self._call(do="render", height=height, width=width)["image"]

    def snapshot(self) -> np.ndarray:
        """float64 [N]: joint values, then what moves or changes colour without being a joint."""
        return self._call(do="snapshot")["snapshot"]

    def picture_of(self, snapshot: np.ndarray) -> dict[str, np.ndarray]:
        """{camera: uint8 [size, size, 3]} of a snapshot that any environment of this task made."""
        if not np.isfinite(snapshot).all():
            raise NonFiniteError("picture_of was given a snapshot with NaN or infinity.")
        return self._call(do="picture_of", snapshot=np.asarray(snapshot))["images"]

    def joint_state(self) -> tuple[tuple[str, ...], np.ndarray]:
        """Names and positions, float64 [J], of the arm's joints [rad] and then the fingers' [m]."""
        return self._joint_names, self._call(do="arm")["joints"]

    def tool_pose(self) -> tuple[np.ndarray, np.ndarray]:
        """Position [3] in metres and quaternion [4] (w, x, y, z) of the tool, in the frame of the proprioception."""
        arm = self._call(do="arm")
        return arm["position"], arm["quaternion"]

    def oracle(self) -> Oracle:
        """A scripted expert with privileged state; its first use raises ContractError where a goal has no script."""
        return _WorkersOracle(self._call)

    def grounding(self) -> np.ndarray:
        """From the tool to its present target, float32 [5]: dx, dy, dz in cm, sine and cosine of the turn about z.

        The target is where the next object is grasped and, while it is held, where it is put. Raises
        ContractError where the task's goal has no script.
        """
        return self._call(do="grounding")["grounding"]

    def hold_action(self) -> np.ndarray:
        """Zero motion and the last gripper command (at first: open), float32 [7]."""
        return np.array([0, 0, 0, 0, 0, 0, self._gripper], np.float32)

    def close(self) -> None:
        self._closed, self._running = True, False
        self._worker.close()

    def _observation(self, seen: dict[str, Any]) -> Observation:
        now = round(self._tick * 1e9 / self.action_spec.rate_hz)
        if seen["images"]:
            self._images, self._pictured_ns = seen["images"], now
        images = dict(self._images) if self.renders_cameras else {}
        stamps = {"proprio": now, **dict.fromkeys(images, self._pictured_ns)}
        return Observation(images, seen["proprio"], self.instruction, stamps)

    def _call(self, **message: Any) -> dict[str, Any]:
        self._require_open()
        self._guarded(self.wait_until_ready)
        return self._guarded(lambda: self._worker.ask(**message)())

    def _guarded(self, exchange: Callable[[], Any]) -> Any:
        try:
            return exchange()
        except EpisodeLostError:
            self._running = False
            self._lost += 1
            raise

    def _restart(self) -> None:
        if self._lost >= LOST_IN_A_ROW:
            raise StageError(
                f"{self._lost} processes of {self.task} were lost without a finished episode between them. Look for "
                "memory (2 GB each; fewer --lanes) and at the last words in the messages before."
            )
        self._worker, self._is_ready = WorkerProcess(self._order), False

    def _require_open(self) -> None:
        if self._closed:
            raise ContractError(f"This {self.task} environment is closed; make a new one.")
