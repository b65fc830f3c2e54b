"""What this machine is and can do. Standard library only: `make` runs this file before anything is installed."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

EGL_PLATFORM_DEVICE = 0x313F  # EGL_EXT_platform_device
EGL_VENDOR_MAXIMUM = 16
PACKAGES = ("pld", "jax", "jaxlib", "flax", "optax", "numpy", "mujoco", "gymnasium", "torch", "ros-rclpy")


def egl_problem() -> str:
    """Empty when some EGL device (a GPU, or Mesa in software) can be initialised, else what is wrong."""
    try:
        egl = ctypes.CDLL("libEGL.so.1")
        try:
            ctypes.CDLL("libOpenGL.so.0")
        except OSError:
            ctypes.CDLL("libGL.so.1")
    except OSError as error:
        return f"a library is missing ({error})"
    address = egl.eglGetProcAddress
    address.restype, address.argtypes = ctypes.c_void_p, [ctypes.c_char_p]
    query, display_of = address(b"eglQueryDevicesEXT"), address(b"eglGetPlatformDisplayEXT")
    if not query or not display_of:
        return "EGL is installed without device support"
    void_p, int_p = ctypes.c_void_p, ctypes.POINTER(ctypes.c_int)
    devices, count = (void_p * EGL_VENDOR_MAXIMUM)(), ctypes.c_int(0)
    query_devices = ctypes.CFUNCTYPE(ctypes.c_uint, ctypes.c_int, void_p, int_p)(query)
    query_devices(EGL_VENDOR_MAXIMUM, ctypes.cast(devices, void_p), ctypes.byref(count))
    get_display = ctypes.CFUNCTYPE(void_p, ctypes.c_uint, void_p, void_p)(display_of)
    egl.eglInitialize.argtypes = [void_p, void_p, void_p]
    egl.eglTerminate.argtypes = [void_p]
    for device in devices[: count.value]:
        display = get_display(EGL_PLATFORM_DEVICE, device, None)
        if display and egl.eglInitialize(display, None, None):
            egl.eglTerminate(display)
            return ""
    return "no EGL device can be initialised (Mesa's drivers are missing?)"


def versions(packages: tuple[str, ...] = PACKAGES) -> dict[str, str]:
    """Installed versions, without importing anything; absent packages are left out."""
    found = {}
    for name in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def cores() -> int:
    """Processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory_gib() -> float:
    """Physical memory in GiB; 0 where it cannot be found out."""
    with contextlib.suppress(ValueError, OSError, AttributeError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return 0.0


def free_disk_gib(path: Path) -> float:
    """Free space in GiB where ``path`` lies, or would lie."""
    existing = next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())
    return shutil.disk_usage(existing).free / 2**30


def cpu_model() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def gpu_model() -> str:
    """The first GPU's name as its driver reports it, or an empty string."""
    return _output("nvidia-smi", "--query-gpu=name", "--format=csv,noheader").partition("\n")[0]


def git_revision(folder: Path | None = None) -> tuple[str, bool]:
    """``(revision, dirty)`` of the checkout that this code runs from; ("", False) outside of one."""
    where = str(folder or Path(__file__).parent)
    revision = _output("git", "-C", where, "rev-parse", "HEAD")
    dirty = bool(revision) and bool(_output("git", "-C", where, "status", "--porcelain", "--untracked-files=no"))
    return revision, dirty


def describe() -> dict[str, Any]:
    """The provenance that every run records."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": cpu_model(),
        "cores": cores(),
        "memory_gib": round(memory_gib(), 1),
        "gpu": gpu_model(),
        "packages": versions(),
    }


def _output(*command: str) -> str:
    """Standard output of a short command, empty when it fails or does not exist."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


if __name__ == "__main__":  # `python3 -I pld_core/system.py --egl`: make asks before the installation
    message = egl_problem()
    print(message or "EGL works")
    sys.exit(1 if message else 0)
