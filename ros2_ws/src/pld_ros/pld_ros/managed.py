"""Nodes with a lifecycle, for what must not happen before its time: connecting to an arm, moving it."""

from __future__ import annotations

from rclpy.lifecycle import LifecycleState, TransitionCallbackReturn
from rclpy.lifecycle.node import LifecycleNodeMixin

from pld_core.errors import PLDError
from pld_ros.node import PldNode

INACTIVE = "inactive (ros2 lifecycle set ... activate)"


class ManagedNode(LifecycleNodeMixin, PldNode):
    """Configures and activates itself (parameter ``autostart``), or waits for ``ros2 lifecycle set``.

    Subclasses override ``connect``, ``begin``, ``rest`` and ``disconnect``.
    """

    def __init__(self, name: str) -> None:
        PldNode.__init__(self, name)
        LifecycleNodeMixin.__init__(self)
        self.active = False
        self._autostart = self.setting("autostart", True)
        self.set_ready(INACTIVE)

    def connect(self) -> None:
        """Get hold of the device; nothing moves."""

    def begin(self) -> None:
        """From now on commands are carried out."""

    def rest(self) -> None:
        """From now on none is; whatever moves comes to a hold."""

    def disconnect(self) -> None:
        """Let the device go."""

    def start(self) -> None:
        """What ``run_node`` calls once no namesake was found. Raises what connecting raises."""
        if self._autostart:
            self._fault: PLDError | None = None
            if self.trigger_configure() == TransitionCallbackReturn.SUCCESS:
                self.trigger_activate()
            if self._fault is not None:
                raise self._fault

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            self.connect()
        except PLDError as fault:
            self._fault = fault
            self.set_ready(str(fault))
            return TransitionCallbackReturn.FAILURE
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self.begin()
        self.active = True
        self.set_ready()
        return TransitionCallbackReturn.SUCCESS

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self.active = False
        self.rest()
        self.set_ready(INACTIVE)
        return TransitionCallbackReturn.SUCCESS

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        self.disconnect()
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        self.active = False
        self.rest()
        self.disconnect()
        return TransitionCallbackReturn.SUCCESS
