"""ros2 launch pld franka_train.launch.py: the whole loop on a Franka Research 3. -s lists the arguments."""

from pld_ros.launching.launch_description import describe_launch


def generate_launch_description():
    return describe_launch("franka_train")
