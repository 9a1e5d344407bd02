"""A policy over any OpenAI-compatible endpoint: for evaluation, teachers and judges. `EndpointPolicy` is in `policy`.

Nothing is imported here: the client package takes half a second, and `protocol` needs none of it.
"""
