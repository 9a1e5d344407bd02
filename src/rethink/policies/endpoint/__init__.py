"""A policy over any OpenAI-compatible chat-completions endpoint: for evaluation, teachers and judges."""

from rethink.policies.endpoint.policy import EndpointPolicy

__all__ = ["EndpointPolicy"]
