"""
The prepared model on disk: what `tinyllama-model` writes and the node loads.

It must not import any other package of this project.
"""
