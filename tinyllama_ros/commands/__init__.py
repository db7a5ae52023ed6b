"""
`tinyllama-model`: build, list, measure and examine models.

It must not import ROS or a front-end, and nothing imports it.
"""
