"""``pld doctor --robot``: is a station fit for work? Knows no ROS."""
