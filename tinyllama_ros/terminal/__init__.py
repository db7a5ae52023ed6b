"""
A conversation in the terminal: `ros2 run tinyllama_ros chat`.

It knows the node through `ros/` alone, and must not import anything below.
"""
