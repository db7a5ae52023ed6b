"""A small language model that lives on the robot."""
