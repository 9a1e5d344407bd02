"""What a policy is: anything that can answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from rethink.types import Group, Prompt, Sample, Sampling


class Policy(Protocol):
    """Anything that can answer."""

    @property
    def version(self) -> int:
        """Rises by one whenever the weights change."""
        ...

    def sample(self, prompts: Sequence[Prompt], n: int, sampling: Sampling | None = None) -> list[Group]:
        """One group of n replies per prompt, in order; an empty group for a prompt that was skipped as over-long.

        `sampling` replaces the policy's own."""
        ...

    def transcribe(self, prompt: Prompt, reply: str) -> Sample:
        """A given reply as a sample, as if the policy had chosen each of its tokens; no log-probs."""
        ...

    def splice(self, sample: Sample, text: str) -> Sample | None:
        """The sample with a text behind it, in place of its end token, as if the policy had gone on like that: ids of the
        sample stay, those of the text and a new end token are marked as forced. None if that is over the sample's cap."""
        ...
