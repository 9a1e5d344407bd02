"""A policy that samples from vLLM servers with the weights that were published last."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

from rethink.errors import UserError
from rethink.models.language_model import LanguageModel
from rethink.policies.event_loop import iterate_in_thread
from rethink.policies.prompt_log_probs import refuse_unscorable
from rethink.policies.token_policy import Generation, Request, TokenPolicy
from rethink.policies.vllm.fleet import Fleet
from rethink.policies.vllm.protocol import generate_body, read_generated, read_scored, score_body, with_adapter
from rethink.policies.vllm.sample_job import SampleJob, dispatch
from rethink.policies.vllm.wire_prompt import wire_prompt
from rethink.settings import Sampler
from rethink.types import Prompt, Sample, Sampling


class VllmPolicy(TokenPolicy):
    """A policy over vLLM servers, which get the trainer's weights at each `publish`.

    Log-probs are of the distribution that was sampled from, as vLLM computes them. They differ a little from the
    trainer's; the metrics `mismatch/*` show by how much. A sample's seed derives from its prompt's seed and its index, so
    a repeated call returns the same samples unless vLLM rounds differently in another batch. `close` ends a colocated
    server.
    """

    def __init__(self, model: LanguageModel, sampling: Sampling, fleet: Fleet, settings: Sampler) -> None:
        super().__init__(
            model, sampling, max_prompt_tokens=settings.max_prompt_tokens, overlong=settings.overlong_prompts
        )
        self.fleet = fleet
        self.settings = settings

    @property
    def max_positions(self) -> int | None:
        """The smaller limit of model and servers: vLLM silently cuts replies at its --max-model-len, and scores only
        shorter ones."""
        return min(self._most_scored, self.model.max_positions or self._most_scored)

    def publish(self, version: int) -> None:
        """Send the trainer's weights to all servers, as this version. Raise UserError if no server is left."""
        self.fleet.publish(version)
        self.version = version

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[tuple[int, list[Generation]]]:
        """Yield (i, generations) of request i as it is finished. Raise UserError if no server is left or one refuses."""
        self._ensure_ready()
        stop_ids = self.model.chat.stop_ids
        jobs: list[SampleJob[Generation]] = []
        for request in requests:
            how = replace(sampling, max_tokens=request.max_tokens or sampling.max_tokens)
            prompt = wire_prompt(request.ids, self.model.chat)
            read = partial(read_generated, self.fleet.label, prompt, how, stop_ids)
            members = range(request.first, request.first + request.n)
            bodies = [generate_body(prompt, request.seed, index, how, stop_ids) for index in members]
            jobs.append(SampleJob([with_adapter(self.fleet.label, body) for body in bodies], read))
        return iterate_in_thread(partial(dispatch, self.fleet, jobs, self.settings.concurrency))

    def score(self, samples: Sequence[Sample], prompts: Sequence[Prompt] | None = None) -> list[tuple[float, ...]]:
        """Return the log-probs of each sample's ids; see `Policy`. Raise UserError also for samples at a temperature other
        than 1, whose log-probs vLLM cannot return, and for sequences longer than vLLM can score."""
        refuse_unscorable(samples)
        self._ensure_ready()
        found: list[tuple[float, ...]] = [()] * len(samples)
        jobs: dict[int, SampleJob[tuple[float, ...]]] = {}
        for i, sample in enumerate(samples):
            if sample.ids:
                prompt_ids = sample.prompt_ids if prompts is None else self.model.chat.encode(prompts[i].messages)
                ids = prompt_ids + sample.ids
                self._refuse_too_long(sample, len(ids))
                prompt = wire_prompt(ids, self.model.chat)
                body = with_adapter(self.fleet.label, score_body(prompt))
                jobs[i] = SampleJob([body], partial(read_scored, self.fleet.label, prompt, sample))
        indices = list(jobs)
        if jobs:
            work = partial(dispatch, self.fleet, list(jobs.values()), self.settings.concurrency)
            for k, [log_probs] in iterate_in_thread(work):
                found[indices[k]] = log_probs
        return found

    def release_memory(self) -> None:
        """Let colocated servers release their GPU memory until the next `publish` or `groups`."""
        self.fleet.sleep()

    def close(self) -> None:
        """End a colocated server and close connections to others."""
        self.fleet.close()

    def with_sampling(self, sampling: Sampling) -> VllmPolicy:
        """Return a policy over the same servers and weights, with separate counts, for example for an evaluation."""
        other = VllmPolicy(self.model, sampling, self.fleet, self.settings)
        other.version = self.version
        return other

    def _ensure_ready(self) -> None:
        if not self.fleet.label:
            self.publish(self.version)
        self.fleet.wake()

    @property
    def _most_scored(self) -> int:
        """The most tokens that vLLM can score: it generates one token after them."""
        return self.fleet.max_model_len - 1

    def _refuse_too_long(self, sample: Sample, n_tokens: int) -> None:
        room = self._most_scored
        if n_tokens > room:
            raise UserError(
                f"the {sample.prompt.phase} sample of problem {sample.problem.id} has {n_tokens} tokens with its prompt, "
                f"but vLLM can score only {room}: start it with a larger --max-model-len"
            )
