"""Record what the policies of a batch answer up to its first update, as plain data, and replay it after a resume."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from threading import Event
from typing import Any

from rethink import threads
from rethink.errors import UserError
from rethink.policies.base import Policy, PolicyWrapper
from rethink.sample_data import reply_from_data, reply_to_data
from rethink.types import Group, Prompt, Sample, Sampling


def _nothing() -> None:
    return


@dataclass
class Replay:
    """What the policies of one batch record or replay, call by call. `remaining` is None while it is recorded. Once it is
    finished, `before_use` is called before the policies are used."""

    recording: dict[str, Any]
    remaining: list[dict[str, Any]] | None
    is_finished: bool = False
    stop: Event = field(default_factory=Event)
    before_use: Callable[[], object] = _nothing

    def next(self, kind: str, asked: Sequence[str]) -> list[Any]:
        """Return the result of the next recorded call. Raise UserError if that was another call."""
        call = self.remaining.pop(0) if self.remaining else {}
        if call.get("asked") != asked or kind not in call:
            raise UserError(OTHER_PROMPTS)
        found: list[Any] = call[kind]
        return found


class ReplayedPolicy(PolicyWrapper):
    """The policy of a method up to its first update. It records its samples and scores as plain data; given a `recording`,
    it replays that instead, with the recorded version. After `finish_replay` it only forwards calls, each one after
    `replay.before_use`.

    Once `replay.stop` is set, sampling raises threads.Stopped at the next finished group. `beside` returns the same for a
    policy that is not trained, whose calls are part of the same recording."""

    def __init__(
        self, policy: Policy, recording: dict[str, Any] | None = None, role: str = "", replay: Replay | None = None
    ) -> None:
        super().__init__(policy)
        calls = None if recording is None else list(recording["calls"])
        self.replay = replay or Replay(recording or {"version": policy.version, "calls": []}, calls)
        self._role = role

    def beside(self, role: str, policy: Policy) -> ReplayedPolicy:
        """Return the policy of a role, which records and replays together with this one."""
        return ReplayedPolicy(policy, role=role, replay=self.replay)

    @property
    def policy(self) -> Policy:
        self.wait()
        return self._policy

    @policy.setter
    def policy(self, policy: Policy) -> None:
        self._policy = policy

    @property
    def recording(self) -> dict[str, Any]:
        return self.replay.recording

    def wait(self) -> None:
        """Make the policies ready for use after the first update."""
        if self.replay.is_finished:
            self.replay.before_use()

    @property
    def version(self) -> int:
        return self.policy.version if self._role or self.replay.is_finished else self.recording["version"]

    def groups(
        self, prompts: Sequence[Prompt], n: int, sampling: Sampling | None = None
    ) -> Iterator[tuple[int, Group]]:
        asked = self._asked(prompt.group for prompt in prompts)
        if self.replay.is_finished:
            yield from self.policy.groups(prompts, n, sampling)
        elif self.replay.remaining is not None:
            replayed = self.replay.next("groups", asked)
            rest = dict(enumerate(prompts))
            for i, replies in replayed:
                yield i, _restored(replies, rest.pop(i))
            if rest and not self.replay.is_finished:  # the method stopped here when it was recorded
                raise UserError(OTHER_PROMPTS)
            if rest:
                places = list(rest)
                for k, group in self.policy.groups(list(rest.values()), n, sampling):
                    yield places[k], group
        else:
            found: list[list[Any]] = []
            self.recording["calls"].append({"asked": asked, "groups": found})  # in the order in which calls begin
            for i, group in self.policy.groups(prompts, n, sampling):
                if self.replay.stop.is_set():
                    raise threads.Stopped
                found.append([i, [reply_to_data(sample) for sample in group]])
                yield i, group

    def extend(
        self, samples: Sequence[Sample], texts: Sequence[str], sampling: Sampling | None = None
    ) -> list[Sample | None]:
        if self.replay.is_finished:
            return self.policy.extend(samples, texts, sampling)
        asked = self._asked(f"{s.prompt.group} {s.index}{text}" for s, text in zip(samples, texts, strict=True))
        found: list[Sample | None] = []
        if self.replay.remaining is not None:
            for sample, reply in zip(samples, self.replay.next("extended", asked), strict=True):
                found.append(None if reply is None else reply_from_data(reply, sample.prompt))
            return found
        found = self.policy.extend(samples, texts, sampling)
        if self.replay.stop.is_set():
            raise threads.Stopped
        replies = [None if sample is None else reply_to_data(sample) for sample in found]
        self.recording["calls"].append({"asked": asked, "extended": replies})
        return found

    def score(self, samples: Sequence[Sample], prompts: Sequence[Prompt] | None = None) -> list[tuple[float, ...]]:
        if self.replay.is_finished:
            return self.policy.score(samples, prompts)
        asked = self._asked(f"{sample.prompt.group} {sample.index}" for sample in samples)
        if self.replay.remaining is not None:
            return [tuple(log_probs) for log_probs in self.replay.next("scores", asked)]
        scores = self.policy.score(samples, prompts)
        self.recording["calls"].append({"asked": asked, "scores": list(map(list, scores))})
        return scores

    def transcribe(self, prompt: Prompt, reply: str) -> Sample:
        return replace(self.policy.transcribe(prompt, reply), version=self.version)

    def reprompt(self, sample: Sample, prompt: Prompt) -> Sample:
        return replace(self.policy.reprompt(sample, prompt), version=self.version)

    def finish_replay(self) -> None:
        """Forward all calls to the policy from now on, after the first update. Raise UserError if recorded calls remain."""
        if self.replay.remaining:
            raise UserError(OTHER_PROMPTS)
        self.replay.is_finished = True

    def _asked(self, what: Iterable[str]) -> list[str]:
        """Return what identifies a call: the role that is asked, if it is not the policy, and for what."""
        return [*([self._role] if self._role else []), *what]


OTHER_PROMPTS = (
    "the checkpoint holds samples of later batches, but for other prompts; restore the data and the package version that "
    "this run started with, or start a new run"
)


def _restored(replies: Sequence[dict[str, Any]], prompt: Prompt) -> Group:
    return tuple(reply_from_data(reply, prompt) for reply in replies)
