"""ros2 launch pld yam_train.launch.py: the whole loop on an I2RT YAM. -s lists the arguments."""

from pld_ros.launching.launch_description import describe_launch


def generate_launch_description():
    return describe_launch("yam_train")
