"""
A filter over recent history without saving it: asked over HTTP, answered by a job in a process that holds no
secret.
"""
