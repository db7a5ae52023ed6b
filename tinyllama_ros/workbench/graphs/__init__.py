"""
The static graph in both dialects, written with ONNX helpers from the weights.

It must not import checkpoint readers; it knows their protocol.
"""
