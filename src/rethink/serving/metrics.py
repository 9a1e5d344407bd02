"""What `/metrics` shows, in the format of Prometheus: requests, tokens and times, but no text of prompts or replies."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from rethink.strategies import Attempt

SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class Metrics:
    """The counters of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "rethink_requests", "Requests for completions", ["strategy", "status"], registry=self.registry
        )
        self.passes = Counter("rethink_replies", "Replies drawn by all passes", ["phase"], registry=self.registry)
        self.tokens = Counter("rethink_tokens", "Tokens of all passes", ["kind"], registry=self.registry)
        self.seconds = Histogram(
            "rethink_request_seconds", "Seconds of answered requests", buckets=SECONDS, registry=self.registry
        )
        self.first_seconds = Histogram(
            "rethink_first_text_seconds", "Seconds until the first text", buckets=SECONDS, registry=self.registry
        )

    def gauge(self, name: str, text: str, value: Callable[[], float]) -> None:
        """Show a number that is looked up when metrics are read."""
        Gauge(name, text, registry=self.registry).set_function(value)

    def count(self, attempts: Sequence[Attempt]) -> None:
        """Count the tokens of all passes, as far as they are known."""
        for attempt in attempts:
            for sample in attempt.samples:
                self.passes.labels(sample.prompt.phase).inc()
            self.tokens.labels("prompt").inc(attempt.n_prompt_tokens or 0)
            self.tokens.labels("sampled").inc(attempt.n_tokens or 0)
