"""The conversation at a terminal: `ros2 run tinyllama_ros chat`."""
