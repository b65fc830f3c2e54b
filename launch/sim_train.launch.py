"""ros2 launch pld sim_train.launch.py: the whole loop over nodes with a simulated arm. -s lists the arguments."""

from pld_ros.launching.launch_description import describe_launch


def generate_launch_description():
    return describe_launch("sim_train")
