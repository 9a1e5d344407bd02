"""The in-process sampler over any causal LM of `transformers`."""

from rethink.policies.local.policy import LocalPolicy

__all__ = ["LocalPolicy"]
