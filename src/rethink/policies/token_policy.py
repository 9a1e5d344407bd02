"""What the policies over token ids share, be they local or over vLLM: prompts become ids within limits, replies samples."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Literal

from rethink.errors import UserError
from rethink.models.language_model import LanguageModel
from rethink.types import Group, Prompt, Sample, Sampling


@dataclass(frozen=True)
class Request:
    """`n` replies to one tokenized prompt; members get the indices from `first` on."""

    ids: tuple[int, ...]
    n: int
    seed: int
    first: int = 0


@dataclass
class Reply:
    """What came of one row."""

    ids: list[int]
    log_probs: list[float]
    stopped: bool


Hear = Callable[[int, list[Reply]], None]
"""Told the place of a request, and its replies, as soon as the last of them has ended."""


class TokenPolicy(ABC):
    """Samples with ids and log-probs from the weights that are trained; the trainer announces changes by `publish`.

    Over-long prompts (more than `max_prompt_tokens`, or more than there are positions for) are skipped and counted in
    `n_overlong`, or refused; they are never cut. `on_group` hears each group as soon as it is complete, in the caller's
    thread.
    """

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
        self.on_group: Callable[[Group], None] | None = None
        self.version = 0
        self.n_overlong = 0

    @abstractmethod
    def publish(self, version: int) -> None:
        """The trained weights have changed: what is sampled from now on is of this version."""

    @abstractmethod
    def sample(self, prompts: Sequence[Prompt], n: int, sampling: Sampling | None = None) -> list[Group]:
        """One group of n replies per prompt, in order; an empty group for a prompt that was skipped as over-long."""

    @abstractmethod
    def with_sampling(self, sampling: Sampling) -> TokenPolicy:
        """The same weights for something else, an evaluation say, with counts of its own."""

    def held(self) -> AbstractContextManager[None]:
        """While it is open, samples come from the weights as they are now, whatever a trainer in another thread does to the
        model meanwhile; `publish` comes after it."""
        return nullcontext()

    def rest(self) -> None:
        """Nothing is sampled until the next `publish` or `sample`: memory may go to the trainer meanwhile."""
        return

    @property
    def max_positions(self) -> int | None:
        """The longest prompt and reply together; None where no limit is known."""
        return self.model.max_positions

    def transcribe(self, prompt: Prompt, reply: str) -> Sample:
        """A given reply as a sample, as if the policy had chosen each of its tokens, at temperature 1 from its full
        distribution; its log-probs are not known."""
        prompt_ids = self.model.chat.encode(prompt.messages)
        ids = self.model.chat.encode_reply(reply.removeprefix(self.model.chat.opened(prompt_ids)))
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
        """The sample with a text and a new end token in place of its end token, these marked as forced; None if that is
        over the sample's cap. Only the text is tokenized: the ids that were sampled stay as they are."""
        body = sample.ids[:-1] if sample.stop == "stop" else sample.ids
        added = self.model.chat.encode_reply(text)
        ids = (*body, *added)
        if len(ids) > sample.sampling.max_tokens:
            return None
        return replace(
            sample,
            ids=ids,
            mask=(*sample.mask[: len(body)], *(True,) * len(added)),
            forced=(*(sample.forced or (False,) * len(body))[: len(body)], *(True,) * len(added)),
            log_probs=(*sample.log_probs[: len(body)], *(float("nan"),) * len(added)),
            text=self.model.chat.opened(sample.prompt_ids) + self.model.chat.decode(ids),
            stop="stop",
            verdict=None,
        )

    def _groups(
        self, prompts: Sequence[Prompt], n: int, sampling: Sampling, draw: Callable[[list[Request], Hear], None]
    ) -> list[Group]:
        """The prompts' groups; `draw` is given those that fit, and tells of each as soon as it is complete."""
        encoded = [self.model.chat.encode(p.messages) for p in prompts]
        fits = [self._fits(prompt, len(ids), sampling.max_tokens) for prompt, ids in zip(prompts, encoded, strict=True)]
        groups: list[Group] = [()] * len(prompts)
        asked = [p for p, ok in enumerate(fits) if ok and n > 0]

        def hear(i: int, replies: list[Reply]) -> None:
            p = asked[i]
            groups[p] = self._group(prompts[p], encoded[p], replies, sampling)
            if self.on_group is not None:
                self.on_group(groups[p])

        if asked:
            draw([Request(encoded[p], n, prompts[p].seed) for p in asked], hear)
        return groups

    def _fits(self, prompt: Prompt, n_tokens: int, cap: int) -> bool:
        limits = [m for m in (self.max_prompt_tokens, self._room(cap)) if m is not None]
        if not limits or n_tokens <= min(limits):
            return True
        self.n_overlong += 1
        if self.overlong == "refuse":
            raise UserError(
                f"the {prompt.phase} prompt of problem {prompt.problem.id} has {n_tokens} tokens, over the limit of "
                f'{min(limits)}; raise limits.max_prompt_tokens if that is what binds, or set limits.overlong = "skip"'
            )
        return False

    def _room(self, cap: int) -> int | None:
        """How long a prompt may be for the model to have positions for all of its reply."""
        positions = self.max_positions
        if positions is None:
            return None
        if positions <= cap:
            raise UserError(
                f"sampling.max_tokens = {cap} leaves no room for a prompt in the model's {positions} positions; lower it "
                "(in evaluations and answers it is evaluation.sampling.max_tokens)"
            )
        return positions - cap

    def _group(
        self, prompt: Prompt, prompt_ids: tuple[int, ...], replies: Sequence[Reply], sampling: Sampling
    ) -> Group:
        opened = self.model.chat.opened(prompt_ids)
        return tuple(
            Sample(
                prompt=prompt,
                index=g,
                prompt_ids=prompt_ids,
                ids=tuple(reply.ids),
                mask=(True,) * len(reply.ids),
                log_probs=tuple(reply.log_probs),
                text=opened + self.model.chat.decode(reply.ids),
                stop="stop" if reply.stopped else "length",
                sampling=sampling,
                version=self.version,
            )
            for g, reply in enumerate(replies)
        )
