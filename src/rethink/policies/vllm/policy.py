"""The policy over vLLM: prompts in, groups of samples out, from the weights that were published last."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any, Literal

from rethink.errors import UserError
from rethink.models.language_model import LanguageModel
from rethink.policies.event_loop import iterate_in_thread
from rethink.policies.token_policy import Reply, Request, TokenPolicy
from rethink.policies.vllm.dispatch import Drawing
from rethink.policies.vllm.fleet import Fleet
from rethink.types import Prompt, Sample, Sampling


class VllmPolicy(TokenPolicy):
    """Samples from vLLM servers, which get the trainer's weights at each `publish`.

    Log-probs are of the distribution that was sampled from, as vLLM computes them: they differ a little from the trainer's,
    which monitors show as `mismatch/*`. Each sample's seed derives from its prompt's and from its index; a repeated call
    gives the same samples except where vLLM, batching otherwise, rounds otherwise. `close` ends a colocated server.
    """

    def __init__(
        self,
        model: LanguageModel,
        sampling: Sampling,
        fleet: Fleet,
        *,
        max_prompt_tokens: int | None = None,
        overlong: Literal["skip", "refuse"] = "skip",
        concurrency: int = 256,
    ) -> None:
        super().__init__(model, sampling, max_prompt_tokens=max_prompt_tokens, overlong=overlong)
        self.fleet = fleet
        self.concurrency = concurrency

    @property
    def max_positions(self) -> int | None:
        """vLLM would cut a reply at its --max-model-len, and not say so."""
        return min(self.fleet.max_model_len, self.model.max_positions or self.fleet.max_model_len)

    def publish(self, version: int) -> None:
        """Bring the trainer's weights to all servers. Raises UserError where none is left."""
        self.fleet.publish(version)
        self.version = version

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[tuple[int, list[Reply]]]:
        """Raises UserError where no server is left, or where one refuses a request."""
        if not self.fleet.label:
            self.publish(self.version)
        self.fleet.wake()

        def work(tell: Callable[[tuple[int, list[Reply]]], None]) -> Coroutine[Any, Any, None]:
            stop_ids = self.model.chat.stop_ids
            return Drawing(self.fleet, requests, sampling, stop_ids, self.concurrency, tell).run()

        yield from iterate_in_thread(work)

    def score(self, samples: Sequence[Sample], prompts: Sequence[Prompt] | None = None) -> list[tuple[float, ...]]:
        raise UserError('the sampler over vLLM does not score given replies yet; set sampler.engine = "local"')

    def release_memory(self) -> None:
        """Colocated servers on a GPU give their memory to the trainer until the next `publish` or `groups`."""
        self.fleet.sleep()

    def close(self) -> None:
        """End a colocated server, and close connections to others."""
        self.fleet.close()

    def with_sampling(self, sampling: Sampling) -> VllmPolicy:
        """The same weights for something else, an evaluation say, with counts of its own."""
        other = VllmPolicy(
            self.model,
            sampling,
            self.fleet,
            max_prompt_tokens=self.max_prompt_tokens,
            overlong=self.overlong,
            concurrency=self.concurrency,
        )
        other.version = self.version
        return other
