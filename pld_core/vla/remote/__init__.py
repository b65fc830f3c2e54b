"""A policy that another process or machine serves: openpi's websocket protocol, OpenVLA's REST."""

from pld_core.vla.remote.openvla import OpenVLA
from pld_core.vla.remote.remote_vla import RemoteVLA

__all__ = ["OpenVLA", "RemoteVLA"]
