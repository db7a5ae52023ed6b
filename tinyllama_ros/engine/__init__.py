"""
Token ids in, token ids out: cache, generation, sampling, drafting, and the backends.

It must not import text, ROS, the workbench or the commands.
"""
