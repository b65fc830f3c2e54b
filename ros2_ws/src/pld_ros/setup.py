"""The ROS package of the nodes. Without a ROS installation, the root's pyproject.toml makes it importable."""

from setuptools import find_packages, setup

NODES = (
    "robot", "camera", "vla_server", "reward", "replay_logger", "operator", "monitor", "controller", "bag_player",
)  # fmt: skip

setup(
    name="pld_ros",
    version="0.1.0",
    packages=find_packages(include=["pld_ros*"]),
    package_data={"pld_ros": ["config/*.xml"]},
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/pld_ros"]),
        ("share/pld_ros", ["package.xml"]),
    ],
    entry_points={"console_scripts": [f"{node} = pld_ros.nodes.{node}:main" for node in NODES]},
)
