"""
From a checkpoint to an artifact; nothing of it is needed on a robot.

It must not import ROS, a front-end or the commands.
"""
