"""A policy without a model: scripted or seeded replies, so that a whole pipeline can be tested in milliseconds."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace

from rethink.seeds import rng
from rethink.types import Group, Problem, Prompt, Sample, Sampling

END_ID = 0


class FakePolicy:
    """Answers with `script(prompt, index, version)`. Each word is a token; every token has log-prob -1.

    A reply longer than the sampling's cap is cut there, as a real policy's would be.
    """

    def __init__(self, script: Callable[[Prompt, int, int], str], sampling: Sampling | None = None) -> None:
        self.script = script
        self.sampling = sampling or Sampling()
        self.version = 0
        self.shown: list[Prompt] = []
        self._ids: dict[str, int] = {}

    def publish(self, version: int) -> None:
        """Pretend that the weights have changed."""
        self.version = version

    def sample(self, prompts: Sequence[Prompt], n: int, sampling: Sampling | None = None) -> list[Group]:
        """One group of n replies per prompt; the prompts are kept in `shown`."""
        self.shown += prompts
        how = sampling or self.sampling
        return [tuple(self._sample(p, g, self.script(p, g, self.version), how) for g in range(n)) for p in prompts]

    def stream(self, prompt: Prompt, sampling: Sampling | None, listen: Callable[[str], None]) -> Sample | None:
        """The one reply that `sample` would give; `listen` hears it word by word."""
        ((sample,),) = self.sample([prompt], 1, sampling)
        for word in re.findall(r"\s*\S+|\s+\Z", sample.text):
            listen(word)
        return sample

    def transcribe(self, prompt: Prompt, reply: str) -> Sample:
        """The reply as a sample."""
        return self._sample(prompt, 0, reply, self.sampling)

    def splice(self, sample: Sample, text: str) -> Sample | None:
        """The sample with a text behind it; see `actors.Policy`."""
        body, added = sample.ids[:-1] if sample.stop == "stop" else sample.ids, (*self._encode(text), END_ID)
        if len(body) + len(added) > sample.sampling.max_tokens:
            return None
        return replace(
            sample,
            ids=(*body, *added),
            mask=(*sample.mask[: len(body)], *(True,) * len(added)),
            forced=(*(sample.forced or (False,) * len(body))[: len(body)], *(True,) * len(added)),
            log_probs=(*sample.log_probs[: len(body)], *(float("nan"),) * len(added)),
            text=f"{sample.text}{text}",
            stop="stop",
            verdict=None,
        )

    def _sample(self, prompt: Prompt, index: int, reply: str, sampling: Sampling) -> Sample:
        ids = (*self._encode(reply), END_ID)
        cut = len(ids) > sampling.max_tokens
        ids = ids[: sampling.max_tokens]
        return Sample(
            prompt=prompt,
            index=index,
            prompt_ids=self._encode(" ".join(m.content for m in prompt.messages)),
            ids=ids,
            mask=(True,) * len(ids),
            log_probs=(-1.0,) * len(ids),
            text=" ".join(reply.split()[: sampling.max_tokens]) if cut else reply,
            stop="length" if cut else "stop",
            sampling=sampling,
            version=self.version,
        )

    def _encode(self, text: str) -> tuple[int, ...]:
        return tuple(self._ids.setdefault(word, len(self._ids) + 1) for word in text.split())


def seeded(p_right: float, right: Callable[[Problem], str], wrong: str = "?") -> Callable[[Prompt, int, int], str]:
    """A script that gives the right reply with a chance, by seed: the same for the same prompt, index and version."""

    def script(prompt: Prompt, index: int, version: int) -> str:
        lucky = rng(prompt.seed, index, version, "fake").random() < p_right
        return right(prompt.problem) if lucky else wrong

    return script
