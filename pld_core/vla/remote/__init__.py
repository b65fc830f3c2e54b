"""A policy that another process or machine serves, over openpi's websocket protocol."""

from pld_core.vla.remote.remote_vla import RemoteVLA

__all__ = ["RemoteVLA"]
