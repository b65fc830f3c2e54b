"""ros2 launch pld replay.launch.py bag:=FOLDER: play a recorded episode for RViz. -s lists the arguments."""

from pld_ros.launching.launch_description import describe_launch


def generate_launch_description():
    return describe_launch("replay")
