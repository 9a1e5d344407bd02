"""The interface of a policy: whatever answers a prompt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Literal, Protocol

from rethink.types import Group, Prompt, Sample, Sampling

Role = Literal["teacher", "judge", "initial", "reference"]
"""A model that is not trained: the recipe's teacher or judge, the frozen start weights, or the reference, which follows the
policy with `training.reference_every` and is the start model without it."""


class Policy(Protocol):
    """Something that answers prompts. Subclasses implement all methods but `sample`."""

    @property
    def version(self) -> int:
        """A number that rises by one whenever the weights change."""
        ...

    def groups(
        self, prompts: Sequence[Prompt], n: int, sampling: Sampling | None = None
    ) -> Iterator[tuple[int, Group]]:
        """Yield (i, group) for each prompt i, in the order in which groups finish.

        A group has n replies, in order of their indices; it is empty if the prompt was skipped as over-long. `sampling`
        replaces the policy's own. Sampling starts at the first `next`; closing the iterator stops it."""
        ...

    def sample(self, prompts: Sequence[Prompt], n: int, sampling: Sampling | None = None) -> list[Group]:
        """Return a group of n replies for each prompt, in the order of the prompts; see `groups`."""
        found: list[Group] = [()] * len(prompts)
        for i, group in self.groups(prompts, n, sampling):
            found[i] = group
        return found

    def score(self, samples: Sequence[Sample], prompts: Sequence[Prompt] | None = None) -> list[tuple[float, ...]]:
        """Return the log-probs in nats of each sample's ids under this policy, at the sample's own temperature.

        With `prompts`, one per sample, the ids are scored after these prompts instead of the sample's own (with a hint, for
        example). Raise UserError if the policy cannot score: an endpoint without prompt log-probs, a sample without ids."""
        ...

    def transcribe(self, prompt: Prompt, reply: str) -> Sample:
        """Return a given reply as a sample. All its tokens are forced, since no policy has sampled them."""
        ...

    def splice(self, sample: Sample, text: str) -> Sample | None:
        """Return the sample with `text` appended in place of its end token, as if the policy had continued with it.

        The sample's ids do not change. The ids of the text and of a new end token are marked as forced. Return None if the
        result exceeds the sample's `max_tokens`."""
        ...

    def extend(
        self, samples: Sequence[Sample], texts: Sequence[str], sampling: Sampling | None = None
    ) -> list[Sample | None]:
        """Return each sample, continued: its ids without end token, those of its text, and what the policy samples then.

        The ids of the text are marked as forced, and all ids count in the loss: narrow `mask` with `dataclasses.replace`.
        Prompt and index stay the same; verdict and reward are None. Prompt, reply and continuation have one distribution,
        the samples' own; `sampling` may set another `max_tokens`, which counts the whole reply. The result is None where
        there is no room for a further token, or if prompt and `max_tokens` exceed the model's positions."""
        ...

    def cut(self, sample: Sample, n_chars: int) -> Sample:
        """Return the sample with only those ids whose text lies within its first `n_chars` characters.

        It has no end token (stop "length"), verdict or reward. Raise UserError for samples without ids."""
        ...

    def reprompt(self, sample: Sample, prompt: Prompt) -> Sample:
        """Return the sample as a reply to another prompt: the same ids, verdict and reward after that prompt's ids.

        No policy has sampled it after this prompt: all tokens are forced, and the trainer computes their log-probs. Raise
        UserError if prompt and reply exceed the model's positions, and for samples without ids."""
        ...


class TrainedPolicy(Policy, Protocol):
    """The policy in training."""

    n_overlong: int
    """The number of prompts skipped as over-long so far."""

    def publish(self, version: int) -> None:
        """Sample from the new weights from now on, and set `version`. The trainer calls this after it changed them."""
        ...

    def with_sampling(self, sampling: Sampling) -> Policy:
        """Return another policy over the same weights, with this sampling as its default and separate counters."""
        ...

    def frozen_weights(self) -> AbstractContextManager[None]:
        """Return a context in which the policy keeps sampling from the current weights while another thread trains.

        Do not call `publish` inside it."""
        ...

    def release_memory(self) -> None:
        """Free memory for the trainer, until the next `publish` or `groups`."""
        ...


class PolicyWrapper(Policy):
    """A policy that forwards every call to `policy`; subclasses override what they change."""

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

    def extend(
        self, samples: Sequence[Sample], texts: Sequence[str], sampling: Sampling | None = None
    ) -> list[Sample | None]:
        return self.policy.extend(samples, texts, sampling)

    def cut(self, sample: Sample, n_chars: int) -> Sample:
        return self.policy.cut(sample, n_chars)

    def reprompt(self, sample: Sample, prompt: Prompt) -> Sample:
        return self.policy.reprompt(sample, prompt)
