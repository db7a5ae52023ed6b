"""
Calibration, SmoothQuant and GPTQ: from weights to int8 weights and scales.

It must not import checkpoint readers; it knows their protocol.
"""
