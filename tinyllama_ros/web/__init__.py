"""
A web server beside the node: a page to chat in, and an API server for OpenAI clients.

It knows the node through `ros/` alone, and must not import anything below.
"""
