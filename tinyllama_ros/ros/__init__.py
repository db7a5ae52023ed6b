"""
All that knows ROS: the lifecycle node, its interface, its parameters, and the client of it.

It must not import a front-end, the workbench or the commands.
"""
