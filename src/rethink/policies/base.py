"""What a policy is: anything that can answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from rethink.types import Group, Prompt, Sample, Sampling


class Policy(Protocol):
    """Anything that can answer. A class that inherits from it implements `groups`, `score`, `transcribe` and `splice`."""

    @property
    def version(self) -> int:
        """Rises by one whenever the weights change."""
        ...

    def groups(
        self, prompts: Sequence[Prompt], n: int, sampling: Sampling | None = None
    ) -> Iterator[tuple[int, Group]]:
        """Yield (i, group) for each prompt i, in the order in which groups are finished.

        A group has n replies in order of their indices; it is empty for a prompt that was skipped as over-long. `sampling`
        replaces the policy's own. Closing the iterator ends sampling. Nothing is sampled before the first `next`."""
        ...

    def sample(self, prompts: Sequence[Prompt], n: int, sampling: Sampling | None = None) -> list[Group]:
        """Return the groups in the order of the prompts."""
        found: list[Group] = [()] * len(prompts)
        for i, group in self.groups(prompts, n, sampling):
            found[i] = group
        return found

    def score(self, samples: Sequence[Sample], prompts: Sequence[Prompt] | None = None) -> list[tuple[float, ...]]:
        """Return the log-prob in nats of each id of each sample under this policy, at the sample's own temperature.

        With `prompts`, one per sample, the ids are scored behind these prompts instead of the sample's own (under a hint,
        say). Raises UserError where the policy cannot score: an endpoint without prompt log-probs, a sample without ids."""
        ...

    def transcribe(self, prompt: Prompt, reply: str) -> Sample:
        """Return a given reply as a sample, as if the policy had chosen each of its tokens; it has no log-probs."""
        ...

    def splice(self, sample: Sample, text: str) -> Sample | None:
        """Return the sample with a text behind it, in place of its end token, as if the policy had gone on like that.

        Ids of the sample stay; those of the text and a new end token are marked as forced. None if the result is over the
        sample's cap."""
        ...


class TrainedPolicy(Policy, Protocol):
    """The policy that is trained."""

    n_overlong: int
    """How many prompts were skipped as over-long so far."""

    def publish(self, version: int) -> None:
        """Take note that the weights have changed: what is sampled from now on is of this version."""
        ...

    def with_sampling(self, sampling: Sampling) -> Policy:
        """Return another policy over the same weights, which samples otherwise by default and counts for itself."""
        ...

    def frozen_weights(self) -> AbstractContextManager[None]:
        """Sample from the weights as they are now while this is open, whatever a trainer in another thread does to the
        model meanwhile; `publish` comes after it."""
        ...

    def release_memory(self) -> None:
        """Give memory to the trainer until the next `publish` or `groups`."""
        ...


class PolicyWrapper(Policy):
    """A policy that forwards everything to `policy`; subclasses override what they change."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    @property
    def version(self) -> int:
        return self.policy.version

    def groups(
        self, prompts: Sequence[Prompt], n: int, sampling: Sampling | None = None
    ) -> Iterator[tuple[int, Group]]:
        return self.policy.groups(prompts, n, sampling)

    def score(self, samples: Sequence[Sample], prompts: Sequence[Prompt] | None = None) -> list[tuple[float, ...]]:
        return self.policy.score(samples, prompts)

    def transcribe(self, prompt: Prompt, reply: str) -> Sample:
        return self.policy.transcribe(prompt, reply)

    def splice(self, sample: Sample, text: str) -> Sample | None:
        return self.policy.splice(sample, text)
