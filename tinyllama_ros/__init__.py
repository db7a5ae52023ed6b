"""The package tinyllama_ros: runs a small language model on a robot, as a ROS 2 node."""
