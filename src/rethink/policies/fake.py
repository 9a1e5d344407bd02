"""A policy without a model: scripted or seeded replies, to test a whole pipeline in milliseconds."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from rethink.policies.base import Policy
from rethink.policies.edits import NAN, append_forced, append_sampled, as_reply_to, common_sampling, cut_to, without_end
from rethink.seeds import rng
from rethink.types import Group, Message, Problem, Prompt, Sample, Sampling

END_ID = 0


class FakePolicy(Policy):
    """Answers with `script(prompt, index, version)`. Each word is a token, and every token has log-prob -1.

    Replies are cut at the sampling's `max_tokens`, like a real policy's. `score` gives every token of a sample
    `log_prob(sample, prompt, version)`, by default -1. `shown` collects the prompts.
    """

    version: int = 0

    def __init__(
        self,
        script: Callable[[Prompt, int, int], str],
        sampling: Sampling | None = None,
        log_prob: Callable[[Sample, Prompt, int], float] | None = None,
    ) -> None:
        self.script = script
        self.sampling = sampling or Sampling()
        self.log_prob = log_prob
        self.shown: list[Prompt] = []
        self._ids: dict[str, int] = {}

    def publish(self, version: int) -> None:
        """Pretend that the weights have changed."""
        self.version = version

    def groups(
        self, prompts: Sequence[Prompt], n: int, sampling: Sampling | None = None
    ) -> Iterator[tuple[int, Group]]:
        """Yield n replies to each prompt, in order, and append the prompts to `shown`."""
        self.shown += prompts
        how = sampling or self.sampling
        for i, prompt in enumerate(prompts):
            replies = [self.script(prompt, index, self.version) for index in range(n)]
            yield i, tuple(self._sample(prompt, index, reply, how) for index, reply in enumerate(replies))

    def score(self, samples: Sequence[Sample], prompts: Sequence[Prompt] | None = None) -> list[tuple[float, ...]]:
        found: list[tuple[float, ...]] = []
        for i, sample in enumerate(samples):
            prompt = sample.prompt if prompts is None else prompts[i]
            log_prob = -1.0 if self.log_prob is None else self.log_prob(sample, prompt, self.version)
            found.append((log_prob,) * len(sample.ids))
        return found

    def stream(self, prompt: Prompt, sampling: Sampling | None, on_text: Callable[[str], None]) -> Sample | None:
        """Return the reply that `sample` would return; call `on_text` with each word."""
        ((sample,),) = self.sample([prompt], 1, sampling)
        for word in re.findall(r"\s*\S+|\s+\Z", sample.text):
            on_text(word)
        return sample

    def transcribe(self, prompt: Prompt, reply: str) -> Sample:
        """Return the reply as a sample; see `Policy`."""
        sample = self._sample(prompt, 0, reply, self.sampling)
        n = len(sample.ids)
        how = Sampling(max_tokens=self.sampling.max_tokens)  # at temperature 1, like a real policy's
        return replace(sample, forced=(True,) * n, log_probs=(NAN,) * n, sampling=how)

    def splice(self, sample: Sample, text: str) -> Sample | None:
        """Return the sample with `text` appended; see `Policy`."""
        added = (*self._encode(text), END_ID)
        if len(without_end(sample)) + len(added) > sample.sampling.max_tokens:
            return None
        return append_forced(sample, added, f"{sample.text}{text}", "stop")

    def extend(
        self, samples: Sequence[Sample], texts: Sequence[str], sampling: Sampling | None = None
    ) -> list[Sample | None]:
        """Continue each sample with the script's reply to a prompt of the phase "extend", whose `draft` is the sample and
        whose messages end with the reply so far, text included; see `Policy`."""
        found: list[Sample | None] = []
        for sample, text in zip(samples, texts, strict=True):
            how = common_sampling([sample], sampling)
            start = append_forced(sample, self._encode(text), _joined(sample.text, text), "length")
            if len(start.ids) >= how.max_tokens:
                found.append(None)
                continue
            messages = (*sample.prompt.messages, Message("assistant", start.text))
            prompt = replace(sample.prompt, phase="extend", messages=messages, draft=sample)
            self.shown.append(prompt)
            reply = self.script(prompt, sample.index, self.version)
            more = self._sample(prompt, sample.index, reply, replace(how, max_tokens=how.max_tokens - len(start.ids)))
            whole = append_sampled(
                start, more.ids, more.log_probs, _joined(start.text, more.text), more.stop, self.version
            )
            found.append(replace(whole, sampling=how))
        return found

    def cut(self, sample: Sample, n_chars: int) -> Sample:
        """Return the words within the first characters; see `Policy`."""
        ends = [0]
        for word in re.finditer(r"\S+", sample.text):
            ends.append(word.end())
        return cut_to(sample, n_chars, lambda n: sample.text[: ends[n]])

    def reprompt(self, sample: Sample, prompt: Prompt) -> Sample:
        """Return the sample as a reply to another prompt; see `Policy`."""
        return as_reply_to(sample, prompt, self._encode_prompt(prompt), self.version)

    def _sample(self, prompt: Prompt, index: int, reply: str, sampling: Sampling) -> Sample:
        ids = (*self._encode(reply), END_ID)
        cut = len(ids) > sampling.max_tokens
        ids = ids[: sampling.max_tokens]
        return Sample(
            prompt=prompt,
            index=index,
            prompt_ids=self._encode_prompt(prompt),
            ids=ids,
            mask=(True,) * len(ids),
            log_probs=(-1.0,) * len(ids),
            text=" ".join(reply.split()[: sampling.max_tokens]) if cut else reply,
            stop="length" if cut else "stop",
            sampling=sampling,
            version=self.version,
        )

    def _encode_prompt(self, prompt: Prompt) -> tuple[int, ...]:
        return self._encode(" ".join(m.content for m in prompt.messages))

    def _encode(self, text: str) -> tuple[int, ...]:
        return tuple(self._ids.setdefault(word, len(self._ids) + 1) for word in text.split())


def _joined(text: str, more: str) -> str:
    """Return both texts, with a space between two words."""
    return f"{text} {more}" if text[-1:].strip() and more[:1].strip() else f"{text}{more}"


def seeded_script(
    p_right: float, right: Callable[[Problem], str], wrong: str = "?"
) -> Callable[[Prompt, int, int], str]:
    """Return a script that replies `right(problem)` with probability `p_right`, else `wrong`.

    The draw depends only on the prompt's seed, the index and the version."""

    def script(prompt: Prompt, index: int, version: int) -> str:
        lucky = rng(prompt.seed, index, version, "fake").random() < p_right
        return right(prompt.problem) if lucky else wrong

    return script
