"""
The node `tinyllama_speak`: says the answers aloud, with programs of this machine.

It knows the language model's node by its topics, through `ros/` alone, and must not import
anything below.
"""
