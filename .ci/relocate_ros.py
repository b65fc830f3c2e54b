"""Make the ROS wheels usable for building: their CMake files name the machine that they were built on.

`make ros` runs this after each installation; a second run changes nothing. The file .ros-wheels in the
environment tells make when wheels came that had not been relocated, so that the messages are built anew.
"""

from __future__ import annotations

import re
import sys
import sysconfig
from pathlib import Path

import numpy

# Any absolute path that ends like these, so that a virtual environment that was moved is mended too.
NUMPY_HEADERS = re.compile(r"/[^;\"\s]*/site-packages/numpy/_core/include")
PYTHON_HEADERS = re.compile(r"/[^;\"\s]*/include/python\d\.\d+(?=[;\"])")
TINYXML2 = re.compile(r"/[^;\"\s]*/libtinyxml2[^/;\"\s]*\.so[.\d]*")


def main() -> int:
    prefix, site = Path(sys.prefix), Path(sysconfig.get_path("purelib"))
    bundled = sorted(site.glob("ros_fastdds.libs/libtinyxml2*"))
    if not bundled:
        print(f"No ROS wheels in {prefix}: ros_fastdds.libs is missing from {site}. Run `make ros`.", file=sys.stderr)
        return 1
    here = {
        NUMPY_HEADERS: numpy.get_include(),
        PYTHON_HEADERS: sysconfig.get_path("include"),
        TINYXML2: str(bundled[0]),
    }
    files = [*prefix.glob("share/*/cmake/*.cmake"), *prefix.glob("lib/cmake/**/*.cmake")]
    changed = sum(relocate(file, here) for file in files)
    if changed or not (prefix / ".ros-wheels").exists():
        (prefix / ".ros-wheels").touch()
    print(f"ROS wheels: {changed} of {len(files)} CMake files relocated to {prefix}")
    return 0


def relocate(file: Path, here: dict[re.Pattern[str], str]) -> bool:
    """Replace the foreign paths in one file; whether there were any."""
    before = text = file.read_text(encoding="utf-8", errors="surrogateescape")
    for foreign, local in here.items():
        text = foreign.sub(lambda _, local=local: local, text)
    if text == before:
        return False
    file.unlink()  # an installer may have linked it to a cache that other environments share
    file.write_text(text, encoding="utf-8", errors="surrogateescape")
    return True


if __name__ == "__main__":
    sys.exit(main())
