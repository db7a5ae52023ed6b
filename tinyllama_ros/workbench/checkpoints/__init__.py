"""
Checkpoints of any file format, in the words of one protocol.

It must not import quantization or graphs.
"""
