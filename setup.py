"""For ROS 2 only: colcon installs the root as the ament_python package `pld`. All else: pyproject.toml."""

import sys
import tomllib
from glob import glob
from pathlib import Path

from setuptools import Distribution, setup


class PlainDistribution(Distribution):
    """colcon reads all settings back as Python literals, which the parsed `requires-python` is not."""

    def parse_config_files(self, *args, **kwargs):
        super().parse_config_files(*args, **kwargs)
        self.python_requires = self.metadata.python_requires = str(self.python_requires or "")
        if "setuptools.build_meta" not in sys.modules:  # not pip but colcon, for which the nodes are another package
            self.packages = [name for name in self.packages or [] if name.partition(".")[0] != "pld_ros"]


def settings_for_symlinks():
    """What `colcon build --symlink-install` needs: it runs a link to this file beside no pyproject.toml."""
    if Path("pyproject.toml").exists():
        return {}
    project = tomllib.loads(Path(__file__).resolve().with_name("pyproject.toml").read_text())["project"]
    points = {"console_scripts": project["scripts"], **project["entry-points"]}
    return {
        "name": project["name"],
        "version": project["version"],
        "packages": ["pld_core", "pld_sim", "robot_configs"],
        "entry_points": {group: [f"{name} = {target}" for name, target in of.items()] for group, of in points.items()},
    }


setup(
    distclass=PlainDistribution,
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/pld"]),
        ("share/pld", ["package.xml"]),
        ("share/pld/launch", sorted(glob("launch/*.launch.py") + glob("launch/*.rviz") + glob("launch/*.xml"))),
        *(
            (f"share/pld/robot_configs/{kind}", sorted(glob(f"robot_configs/{kind}/*.yaml")))
            for kind in ("robots", "tasks", "train")
        ),
    ],
    **settings_for_symlinks(),
)
