"""
Reads checkpoints of several file formats through one common interface.

It must not import quantization or graphs.
"""
