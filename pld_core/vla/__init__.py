"""CompactVLA: a small vision-language-action policy that trains and runs on a CPU."""

from pld_core.vla.compact_vla import CompactVLA
from pld_core.vla.frames import GroundingFrames
from pld_core.vla.model import CompactVLAConfig

__all__ = ["CompactVLA", "CompactVLAConfig", "GroundingFrames"]
