"""ros2 launch pld eval.launch.py run:=runs/latest: success rates of a run's policies. -s lists the arguments."""

from pld_ros.launching.launch_description import describe_launch


def generate_launch_description():
    return describe_launch("eval")
