"""The base class of policies that work on token ids (local and vLLM): tokenize prompts, check lengths, build samples."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Literal

from rethink.errors import UserError
from rethink.images import Image
from rethink.models.language_model import LanguageModel
from rethink.policies.base import TrainedPolicy
from rethink.policies.edits import append_forced, append_sampled, as_reply_to, common_sampling, cut_to, without_end
from rethink.seeds import stable_hash
from rethink.types import Group, Prompt, Sample, Sampling, StopReason


@dataclass(frozen=True)
class Request:
    """A request for `n` replies to one tokenized prompt, with sample indices from `first` on.

    `max_tokens` is the limit of these replies; None is that of the sampling, which must not be lower. `keep` holds the
    images of the ids in memory, even after the client has left (`images.find`)."""

    ids: tuple[int, ...]
    n: int
    seed: int
    first: int = 0
    max_tokens: int | None = None
    keep: tuple[Image, ...] = field(default=(), repr=False, compare=False)


@dataclass
class Generation:
    """One reply to a request: ids, log-probs in nats, and whether it ended with a stop id (not at max_tokens)."""

    ids: list[int]
    log_probs: list[float]
    stopped: bool


class TokenPolicy(TrainedPolicy, ABC):
    """Samples with ids and log-probs from the weights in training; the trainer calls `publish` after changing them.

    Subclasses implement:

    * `generate(requests, sampling)`: yield (k, replies) for each request k as soon as all of its replies are complete;
    * `publish(version)`: make the next `generate` sample from the new weights, and set `version`;
    * `score(samples, prompts)`: return log-probs of given ids (see `Policy`), or raise a UserError that says why not;
    * `with_sampling(sampling)`: see `TrainedPolicy`.

    They may override `frozen_weights` and `release_memory` (which do nothing here) and `max_positions`.

    Over-long prompts (longer than `max_prompt_tokens`, or than the model's positions allow) are skipped and counted in
    `n_overlong`, or refused with a UserError (`overlong`). They are never truncated.
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
        """Yield (k, replies) for each request k, in the order in which requests finish, in the caller's thread.

        Replies are in order of their indices. `requests` is not empty, and every prompt fits. Closing the iterator stops
        generation. Raise UserError if generation is no longer possible."""

    @abstractmethod
    def with_sampling(self, sampling: Sampling) -> TokenPolicy:
        """Return another policy over the same weights, with this sampling as its default and separate counters."""

    def frozen_weights(self) -> AbstractContextManager[None]:
        return nullcontext()

    def release_memory(self) -> None:
        return

    @property
    def max_positions(self) -> int | None:
        """The most tokens that prompt and reply may have together; None if unknown."""
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
        """Return requests for the prompts that fit, by index. Count the others, or raise UserError."""
        found: dict[int, Request] = {}
        for i, prompt in enumerate(prompts):
            self._require_images(prompt)
            ids = self.model.chat.encode(prompt.messages)
            if self._fits(prompt, len(ids), sampling.max_tokens) and n > 0:
                found[i] = Request(ids, n, prompt.seed, keep=prompt.images)
        return found

    def opened(self, prompt: Prompt) -> str:
        """Return the start of the replies that the template has put at the prompt's end, "<think>" say, or ""."""
        return self.model.chat.reply_prefix(self.model.chat.encode(prompt.messages))

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
        """Return a given reply as a sample at temperature 1, with all tokens forced; see `Policy`."""
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
            forced=(True,) * len(ids),
        )

    def splice(self, sample: Sample, text: str) -> Sample | None:
        """Return the sample with `text` appended in place of its end token; see `Policy`.

        Only the text is tokenized; sampled ids do not change."""
        added = self.model.chat.encode_reply(text)
        ids = without_end(sample) + added
        if len(ids) > sample.sampling.max_tokens:
            return None
        return append_forced(sample, added, self._text(sample, ids), "stop")

    def extend(
        self, samples: Sequence[Sample], texts: Sequence[str], sampling: Sampling | None = None
    ) -> list[Sample | None]:
        found: list[Sample | None] = [None] * len(samples)
        if not samples:
            return found
        how = common_sampling(samples, sampling)
        starts: dict[int, Sample] = {}
        requests: list[Request] = []
        for i, (sample, text) in enumerate(zip(samples, texts, strict=True)):
            self._require_images(sample.prompt)
            own = sampling or sample.sampling
            added = self.model.chat.encode_reply(text)[:-1]
            ids = without_end(sample) + added
            room = own.max_tokens - len(ids)
            if room > 0 and self._fits(sample.prompt, len(sample.prompt_ids), own.max_tokens):
                starts[i] = replace(append_forced(sample, added, "", "length"), sampling=own)
                seed = stable_hash(sample.prompt.seed, "extend", len(ids), text)
                requests.append(Request(sample.prompt_ids + ids, 1, seed, sample.index, room, sample.prompt.images))
        if not requests:
            return found
        places = list(starts)
        most = max(request.max_tokens or 0 for request in requests)
        for k, [more] in self.generate(requests, replace(how, max_tokens=most)):
            i, start = places[k], starts[places[k]]
            text = self._text(start, (*start.ids, *more.ids))
            stop: StopReason = "stop" if more.stopped else "length"
            found[i] = append_sampled(start, more.ids, more.log_probs, text, stop, self.version)
        return found

    def cut(self, sample: Sample, n_chars: int) -> Sample:
        return cut_to(sample, n_chars, lambda n: self._text(sample, sample.ids[:n]))

    def reprompt(self, sample: Sample, prompt: Prompt) -> Sample:
        prompt_ids = self.model.chat.encode(prompt.messages)
        n_tokens, limit = len(prompt_ids) + len(sample.ids), self.max_positions
        if limit is not None and n_tokens > limit:
            raise UserError(
                f"the {prompt.phase} prompt of problem {prompt.problem.id} has {n_tokens} tokens with the reply that it "
                f"gets, more than the model's {limit} positions; lower sampling.max_tokens or shorten the prompts"
            )
        return as_reply_to(sample, prompt, prompt_ids, self.version)

    def _require_images(self, prompt: Prompt) -> None:
        """Raise UserError if the prompt has images and the model takes none."""
        if prompt.images:
            what = f"the {prompt.phase} prompt of problem {prompt.problem.id}"
            self.model.chat.require_images(what, self.model.path or "this model")

    def _text(self, sample: Sample, ids: Sequence[int]) -> str:
        """Return the text of a reply with these ids to the sample's prompt."""
        return self.model.chat.reply_prefix(sample.prompt_ids) + self.model.chat.decode(ids)

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
        """Return the longest prompt that leaves positions for a reply of `cap` tokens; None without a limit."""
        positions = self.max_positions
        if positions is None:
            return None
        if positions <= cap:
            raise UserError(
                f"max_tokens = {cap} leaves no room for a prompt in the model's {positions} positions; lower "
                "sampling.max_tokens, or evaluation.sampling.max_tokens for evaluations and answers"
            )
        return positions - cap
