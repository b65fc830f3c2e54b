"""The environment: contract, observation, reward; the task and the physics are behind it."""

from __future__ import annotations

import mujoco
import numpy as np

from pld_core.errors import ContractError
from pld_core.types import ActionSpec, Observation, ObservationSpec, TimeStep
from pld_sim.actions import checked_action
from pld_sim.tabletop.control import PROPRIO_NAMES
from pld_sim.tabletop.models import COLLISION_GROUP, TASK_GROUP
from pld_sim.tabletop.picture import Picture
from pld_sim.tabletop.rendering import Renderer
from pld_sim.tabletop.world import Task, World, show

CAMERAS = ("wrist", "front")


class SharedScene:
    """The model and the renderer that all lanes of one ``make_environments`` call use."""

    def __init__(self, task: Task, image_size: int) -> None:
        spec, arm = task.build(visual=False)
        self.task, self.arm, self.image_size = task, arm, image_size
        self.model: mujoco.MjModel = spec.compile()
        self.renderer = Renderer(
            self.model, CAMERAS, (image_size, image_size), (TASK_GROUP, COLLISION_GROUP), supersample=2
        )
        self.picture = Picture(task)
        self._shown = mujoco.MjData(self.model)

    def pictures(self, data: mujoco.MjData) -> dict[str, np.ndarray]:
        """{camera: uint8 [size, size, 3]} of a lane's present state."""
        return dict(zip(CAMERAS, self.renderer.render(data), strict=True))

    def pictures_of(self, snapshot: np.ndarray) -> dict[str, np.ndarray]:
        show(snapshot, self.model, self._shown)
        return self.pictures(self._shown)


class TaskOracle:
    """The scripted expert of one environment; it keeps no state between ticks."""

    def __init__(self, task: Task, world: World) -> None:
        self._task, self._world = task, world

    def reset(self) -> None:
        """Nothing to forget."""

    def act(self) -> np.ndarray:
        return self._task.act(self._world)


class TabletopEnvironment:
    """One lane of a tabletop task: 20 Hz, sparse binary reward, two cameras.

    Observations: images ``wrist`` and ``front`` uint8 [size, size, 3]; proprio float32 [13] as named in
    ``observation_spec.proprio_names``. ``quality="visual"`` gives ``render`` shadows and detailed meshes,
    ``"fast"`` the simple geometry the policy sees; observations are the same with either. While
    ``renders_cameras`` is False they hold no images and no OpenGL is needed.
    ``stop_at_success=False`` lets an episode run on to the time limit, as a real scene does that nobody
    stops; ``success`` then says of every step whether the task is done at that moment.
    """

    def __init__(self, shared: SharedScene, quality: str = "visual", stop_at_success: bool = True) -> None:
        self._shared, self._quality = shared, quality
        self.stop_at_success = stop_at_success
        self._task = shared.task
        self.task, self.instruction, self.max_steps = self._task.name, self._task.instruction, self._task.max_steps
        self.action_spec = ActionSpec()
        size = (shared.image_size, shared.image_size, 3)
        self.observation_spec = ObservationSpec(
            cameras=dict.fromkeys(CAMERAS, size), proprio_dim=len(PROPRIO_NAMES), proprio_names=PROPRIO_NAMES
        )
        self._world = World(shared.model, shared.arm, self._task.workspace, self.action_spec)
        self.renders_cameras = True
        self._tick = 0
        self._running = False
        self._closed = False
        shared.renderer.retain()

    def reset(self, seed: int) -> TimeStep:
        """Start an episode that depends on the seed alone."""
        if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
            raise ContractError(f"reset was given seed {seed!r}; valid is an integer >= 0.")
        self._require_open()
        world = self._world
        world.clear()
        self._task.randomise(world, np.random.default_rng(int(seed)))
        world.data.time = 0.0
        self._tick = 0
        self._running = True
        return TimeStep(self._observe())

    def step(self, action: np.ndarray) -> TimeStep:
        """Execute one action for 50 ms; see ``pld_core.interfaces.Environment``."""
        self._require_open()
        action = checked_action(action, self.action_spec.dim, self.task, self._running)
        self._world.controller.apply(self._world.data, action)
        self._tick += 1
        success = self._task.succeeded(self._world)
        terminated = success and self.stop_at_success
        truncated = not terminated and self._tick >= self.max_steps
        self._running = not (terminated or truncated)
        return TimeStep(
            self._observe(), reward=float(success), terminated=terminated, truncated=truncated, success=success
        )

    def oracle(self) -> TaskOracle:
        return TaskOracle(self._task, self._world)

    def grounding(self) -> np.ndarray:
        """float32 [5]: dx, dy, dz [cm] from tool point to target in the base frame, sin and cos of yaw error."""
        self._require_open()
        return self._task.error(self._world).grounding()

    def render(self, height: int = 480, width: int = 640) -> np.ndarray:
        """A picture for people, uint8 [height, width, 3]."""
        self._require_open()
        return self._shared.picture.render(self._world.snapshot(), (height, width), visual=self._quality == "visual")

    def snapshot(self) -> np.ndarray:
        """float64 [N]: joint values, then positions and orientations of what the task put down."""
        self._require_open()
        return self._world.snapshot()

    def picture_of(self, snapshot: np.ndarray) -> dict[str, np.ndarray]:
        """{camera: uint8 [size, size, 3]} of a snapshot that any environment of this task made."""
        self._require_open()
        return self._shared.pictures_of(snapshot)

    def joint_state(self) -> tuple[tuple[str, ...], np.ndarray]:
        """Names and positions, float64 [J], of the arm's joints [rad] and then the fingers' [m]."""
        self._require_open()
        controller = self._world.controller
        return controller.joint_names, controller.joint_positions(self._world.data)

    def tool_pose(self) -> tuple[np.ndarray, np.ndarray]:
        """Position [3] in metres and quaternion [4] (w, x, y, z) of the tool in the base frame."""
        self._require_open()
        return self._world.controller.measured(self._world.data)

    def hold_action(self) -> np.ndarray:
        """Zero motion and the last gripper command (at first: the one that the scene was made with), float32 [7]."""
        return np.array([0, 0, 0, 0, 0, 0, self._world.controller.gripper], np.float32)

    def close(self) -> None:
        if not self._closed:
            self._closed, self._running = True, False
            self._shared.renderer.release()
            if self._shared.renderer.users == 0:
                self._shared.picture.free()

    def _observe(self) -> Observation:
        data = self._world.data
        images = self._shared.pictures(data) if self.renders_cameras else {}
        stamp = round(data.time * 1e9)
        return Observation(
            images=images,
            proprio=self._world.controller.proprio(data),
            instruction=self.instruction,
            stamp_ns=dict.fromkeys(("proprio", *CAMERAS), stamp),
        )

    def _require_open(self) -> None:
        if self._closed:
            raise ContractError(f"This {self.task} environment is closed; make a new one.")
