"""
What the workbench makes and the robot takes: manifest, files, architecture, tokenizer settings.

It must not import any other package of this project.
"""
