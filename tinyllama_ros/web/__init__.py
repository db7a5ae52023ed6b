"""A web server beside the language model: a page to chat in, and a door for OpenAI clients."""
