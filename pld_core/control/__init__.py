"""What happens in a tick: chunk cursor, residual controller, safety limits."""

from pld_core.control.chunk_cursor import ChunkCursor
from pld_core.control.residual_controller import ResidualController, Tick
from pld_core.control.safety import SafetyLimits, limits_of

__all__ = ["ChunkCursor", "ResidualController", "SafetyLimits", "Tick", "limits_of"]
