"""
Model preparation: turns a checkpoint into an artifact; not needed on a robot.

It must not import ROS, a front-end or the commands.
"""
