"""A policy over any OpenAI-compatible endpoint, for evaluation, teachers and judges: `policy.EndpointPolicy`.

This file imports nothing, because the `openai` package takes half a second to load and `protocol` does not need it.
"""
