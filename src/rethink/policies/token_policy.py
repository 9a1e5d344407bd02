"""What the policies over token ids share, be they local or over vLLM: prompts become ids within limits, replies samples."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Literal

from rethink.errors import UserError
from rethink.models.language_model import LanguageModel
from rethink.policies.base import TrainedPolicy
from rethink.types import Group, Prompt, Sample, Sampling


@dataclass(frozen=True)
class Request:
    """`n` replies to one tokenized prompt; members get the indices from `first` on."""

    ids: tuple[int, ...]
    n: int
    seed: int
    first: int = 0


@dataclass
class Generation:
    """One reply to a request: its ids, their log-probs in nats, and whether it ended by itself (not at its cap)."""

    ids: list[int]
    log_probs: list[float]
    stopped: bool


class TokenPolicy(TrainedPolicy, ABC):
    """Samples with ids and log-probs from the weights that are trained; the trainer announces changes by `publish`.

    A subclass implements three methods; this class does the rest:

    * `generate(requests, sampling)`: yield (k, replies) for each request k as soon as all of its replies are there;
    * `publish(version)`: see that the next call of `generate` samples from the new weights, and set `version`;
    * `score(samples, prompts)`: log-probs of given ids (see `Policy`), or a UserError that says why it cannot.

    It may override `frozen_weights` and `release_memory` (which do nothing here), and `max_positions`.

    Over-long prompts (more than `max_prompt_tokens`, or more than there are positions for) are skipped and counted in
    `n_overlong`, or refused; they are never cut.
    """

    version: int = 0
    n_overlong: int = 0

    def __init__(
        self,
        model: LanguageModel,
        sampling: Sampling,
        *,
        max_prompt_tokens: int | None,
        overlong: Literal["skip", "refuse"],
    ) -> None:
        self.model = model
        self.sampling = sampling
        self.max_prompt_tokens = max_prompt_tokens
        self.overlong = overlong

    @abstractmethod
    def generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[tuple[int, list[Generation]]]:
        """Yield (k, replies) for each request k, in the order in which requests are finished, in the caller's thread.

        Replies come in order of their members. `requests` is never empty, and every prompt fits. Closing the iterator ends
        generation. Raises UserError where nothing can be generated any more."""

    @abstractmethod
    def with_sampling(self, sampling: Sampling) -> TokenPolicy:
        """Return another policy over the same weights, which samples otherwise by default and counts for itself."""

    def frozen_weights(self) -> AbstractContextManager[None]:
        return nullcontext()

    def release_memory(self) -> None:
        return

    @property
    def max_positions(self) -> int | None:
        """The longest prompt and reply together; None where no limit is known."""
        return self.model.max_positions

    def groups(
        self, prompts: Sequence[Prompt], n: int, sampling: Sampling | None = None
    ) -> Iterator[tuple[int, Group]]:
        how = sampling or self.sampling
        requests = self.make_requests(prompts, n, how)
        for i in range(len(prompts)):
            if i not in requests:
                yield i, ()
        if not requests:
            return
        places = list(requests)
        for k, replies in self.generate(list(requests.values()), how):
            i = places[k]
            yield i, self.to_group(prompts[i], requests[i].ids, replies, how)

    def make_requests(self, prompts: Sequence[Prompt], n: int, sampling: Sampling) -> dict[int, Request]:
        """Return the tokenized prompts that fit, by their places. Others are counted, or raise UserError."""
        found: dict[int, Request] = {}
        for i, prompt in enumerate(prompts):
            ids = self.model.chat.encode(prompt.messages)
            if self._fits(prompt, len(ids), sampling.max_tokens) and n > 0:
                found[i] = Request(ids, n, prompt.seed)
        return found

    def to_group(
        self, prompt: Prompt, prompt_ids: tuple[int, ...], replies: Sequence[Generation], sampling: Sampling
    ) -> Group:
        """Return the replies to a prompt as samples."""
        opened = self.model.chat.reply_prefix(prompt_ids)
        group: list[Sample] = []
        for index, reply in enumerate(replies):
            sample = Sample(
                prompt=prompt,
                index=index,
                prompt_ids=prompt_ids,
                ids=tuple(reply.ids),
                mask=(True,) * len(reply.ids),
                log_probs=tuple(reply.log_probs),
                text=opened + self.model.chat.decode(reply.ids),
                stop="stop" if reply.stopped else "length",
                sampling=sampling,
                version=self.version,
            )
            group.append(sample)
        return tuple(group)

    def transcribe(self, prompt: Prompt, reply: str) -> Sample:
        """Return a given reply as a sample, as if the policy had chosen each of its tokens, at temperature 1 from its full
        distribution; its log-probs are not known."""
        prompt_ids = self.model.chat.encode(prompt.messages)
        ids = self.model.chat.encode_reply(reply.removeprefix(self.model.chat.reply_prefix(prompt_ids)))
        return Sample(
            prompt=prompt,
            index=0,
            prompt_ids=prompt_ids,
            ids=ids,
            mask=(True,) * len(ids),
            log_probs=(float("nan"),) * len(ids),
            text=reply,
            stop="stop",
            sampling=Sampling(max_tokens=self.sampling.max_tokens),
            version=self.version,
        )

    def splice(self, sample: Sample, text: str) -> Sample | None:
        """Return the sample with a text and a new end token in place of its end token, these marked as forced; None if that
        is over the sample's cap. Only the text is tokenized: the ids that were sampled stay as they are."""
        body = sample.ids[:-1] if sample.stop == "stop" else sample.ids
        added = self.model.chat.encode_reply(text)
        ids = body + added
        if len(ids) > sample.sampling.max_tokens:
            return None
        n = len(body)
        forced = sample.forced or (False,) * n
        return replace(
            sample,
            ids=ids,
            mask=sample.mask[:n] + (True,) * len(added),
            forced=forced[:n] + (True,) * len(added),
            log_probs=sample.log_probs[:n] + (float("nan"),) * len(added),
            text=self.model.chat.reply_prefix(sample.prompt_ids) + self.model.chat.decode(ids),
            stop="stop",
            verdict=None,
            reward=None,
        )

    def _fits(self, prompt: Prompt, n_tokens: int, cap: int) -> bool:
        limits = [limit for limit in (self.max_prompt_tokens, self._max_prompt_tokens(cap)) if limit is not None]
        if not limits or n_tokens <= min(limits):
            return True
        self.n_overlong += 1
        if self.overlong == "refuse":
            raise UserError(
                f"the {prompt.phase} prompt of problem {prompt.problem.id} has {n_tokens} tokens, over the limit of "
                f"{min(limits)}; raise sampler.max_prompt_tokens if that is the limit, or set "
                'sampler.overlong_prompts = "skip"'
            )
        return False

    def _max_prompt_tokens(self, cap: int) -> int | None:
        """Return how long a prompt may be for the model to have positions for all of its reply."""
        positions = self.max_positions
        if positions is None:
            return None
        if positions <= cap:
            raise UserError(
                f"sampling.max_tokens = {cap} leaves no room for a prompt in the model's {positions} positions; lower it "
                "(in evaluations and answers it is evaluation.sampling.max_tokens)"
            )
        return positions - cap
