"""For ROS 2 only: colcon installs the root as the ament_python package `pld`. All else: pyproject.toml."""

from glob import glob

from setuptools import setup

setup(
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/pld"]),
        ("share/pld", ["package.xml"]),
        ("share/pld/launch", sorted(glob("launch/*.launch.py") + glob("launch/*.rviz") + glob("launch/*.xml"))),
        *(
            (f"share/pld/robot_configs/{kind}", sorted(glob(f"robot_configs/{kind}/*.yaml")))
            for kind in ("robots", "tasks", "train")
        ),
    ],
)
