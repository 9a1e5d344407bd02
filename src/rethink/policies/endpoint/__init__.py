"""A policy over any OpenAI-compatible chat-completions endpoint: for evaluation, teachers and judges."""

import os
import warnings
from collections.abc import Callable
from typing import Literal

from rethink.policies.endpoint.policy import EndpointPolicy
from rethink.settings import Endpoint
from rethink.types import Sampling

__all__ = ["EndpointPolicy", "open_endpoint"]


def open_endpoint(
    endpoint: Endpoint,
    model: str,
    sampling: Sampling,
    overlong: Literal["skip", "refuse"] = "skip",
    warn: Callable[[str], None] = warnings.warn,
) -> EndpointPolicy:
    """The endpoint of a recipe, with its key from the environment."""
    return EndpointPolicy(
        endpoint.url,
        model,
        sampling,
        key=os.environ.get(endpoint.key_env, ""),
        key_variable=endpoint.key_env,
        concurrency=endpoint.concurrency,
        timeout_s=endpoint.timeout_s,
        retries=endpoint.retries,
        overlong=overlong,
        warn=warn,
    )
