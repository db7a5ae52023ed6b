"""
One conversation: template, tokenizer, turns, what a full cache keeps, the queue of prompts.

It must not import ROS, a front-end, the workbench or the commands.
"""
