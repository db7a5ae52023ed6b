"""One conversation: template, tokens, history, roll-over, text stream, sentences."""
