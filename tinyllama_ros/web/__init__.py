"""
The web node `tinyllama_web`: a chat page, and an OpenAI-compatible API.

It knows the node through `ros/` alone, and must not import anything below.
"""
