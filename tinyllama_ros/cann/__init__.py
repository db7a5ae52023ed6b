"""
Ascend's toolkit CANN on this machine: where it is, ATC and its errors, npu-smi.

It must not import ROS, the workbench or the commands.
"""
