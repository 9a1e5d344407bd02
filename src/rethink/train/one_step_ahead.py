"""One batch ahead: while the last update of a problem batch trains, the next batch runs to its first update.

    batch b    sample | train                                 one after the other
    batch b+1                 | sample | train

    batch b    sample | train  |                              with `sample_ahead`
    batch b+1         | sample | train |

The first update of each batch but the very first is then made from samples of weights that are one update old: they carry
that version, the trainer is told, and the ratio corrects (see `Trainer.apply`). Further updates of a batch (ThinkTwice's
refinement) are as without it.

Nothing here depends on timing. Which update is a batch's last is not known beforehand: it is taken to be the one whose
number is the mean number of updates per batch so far, rounded up. If one more comes after all, what was sampled ahead is
dropped, and the next batch is sampled anew with the newest weights, so that no sample is ever older. If it never comes,
nothing was sampled ahead.

Method, verifiers and policies run in the main thread, as ever; only the trainer is moved to another one. A method's code
is never resumed while it trains, and the policy samples from weights of its own meanwhile (`LocalPolicy.held`). What a
method remembers is copied for the batch ahead. It must not change after a batch's last update: that would come too late.

Several ranks do all of this in lockstep: nothing here is decided by what one of them alone sees, but for a failure of its
own, which ends it, and so the others. What they sample goes over a connection of its own (`ranks.group.open_aside`), and
how far training is on each does not matter.

A checkpoint holds what was sampled ahead: a run that is resumed gives it to the method again, and goes on as if nobody had
disturbed it. For the same reason the last batch of a run is followed by one more sampling: the run may be made longer.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from threading import Event
from typing import Any

from rethink import threads
from rethink.distributed import CommonError
from rethink.errors import UserError
from rethink.policies.base import Policy
from rethink.train.batch import Batch
from rethink.train.run import Run
from rethink.types import Group, Prompt, Sample, Sampling

Numbers = dict[str, float]


class Lookahead:
    """Gives the loop its batches and trains their updates: one thing after the other, or with `recipe.sample_ahead` the
    next batch's sampling beside the last update of the present one."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self._next: tuple[Batch, Remembered] | None = None
        self._failure: Exception | None = None
        self._state: dict[str, Any] = {}
        self._n_expected = self._n_updates = 0

    def take(self) -> Batch:
        """The batch whose turn it is."""
        run = self.run
        batch = self._next[0] if self._next else self._again() if run.sampled_ahead else None
        self._next = run.sampled_ahead = None
        batch = batch or Batch(run, run.n_batches, run.state)
        run.state = batch.state
        self._n_updates = 0
        if run.recipe.sample_ahead and run.n_batches:
            self._n_expected = -(-run.trainer.version // run.n_batches)
        return batch

    def apply(self, batch: Batch, train: Callable[[], Numbers]) -> Numbers:
        """What `train` returns, called here and now, or in another thread while the next batch is sampled here."""
        self._drop(batch)
        self._n_updates += 1
        if self._n_updates == self._n_expected:
            return self._beside(train)
        self.run.policy.rest()
        return train()

    def settle(self) -> None:
        """The batch under way is over. Raises what went wrong in sampling the next one, and UserError where that could not
        know what the method has remembered since."""
        if self._failure is not None:
            raise self._failure
        if self._next is not None:
            self.run.ranks.first(self._refuse_late_change)
            self.run.sampled_ahead = self._next[1].kept

    def _refuse_late_change(self) -> None:
        if self.run.state != self._state:
            raise UserError(
                f"the method {self.run.recipe.method['name']!r} changes what it remembers (actors.state) after its "
                "last update of a batch, when the next batch has been sampled; set sample_ahead=false in a new run"
            )

    def _beside(self, train: Callable[[], Numbers]) -> Numbers:
        """Train in another thread and sample the next batch in this one. What goes wrong in training is raised here, as it
        comes before the next batch; an interrupt ends sampling at once, and comes through when the update has ended.

        Of several ranks none ends sampling because its training has ended badly: the others may wait for its samples."""
        run, ended_badly = self.run, Event()
        self._state = copy.deepcopy(run.state)
        remembered = Remembered(run.policy)
        batch = Batch(run, run.n_batches + 1, copy.deepcopy(run.state), remembered)
        with run.policy.held(), threads.running([partial(_marked, train, ended_badly)]) as (training,):
            try:
                batch.begin(ended_badly if run.ranks.size == 1 else None)
            except threads.Stopped:
                pass  # the reason is what `training` raises
            except Exception as err:
                self._failure = err  # for `settle`: the update under way comes first
        if run.ranks.size > 1 and self._failure is not None and not isinstance(self._failure, CommonError):
            raise self._failure  # the others do not know of it: they wait, and see that this rank has ended
        remembered.end()
        self._next = batch, remembered
        return training.result()

    def _drop(self, batch: Batch) -> None:
        """The batch has one more update than was expected: what was sampled ahead of it counts as its cost."""
        if self._next is not None:
            batch.meter.count(self._next[0].meter)
        self._next = self._failure = None

    def _again(self) -> Batch:
        """The batch that a checkpoint found sampled."""
        remembered = Remembered(self.run.policy, self.run.sampled_ahead)
        batch = Batch(self.run, self.run.n_batches, self.run.state, remembered)
        batch.begin()
        remembered.end()
        return batch


class Remembered:
    """A policy as a method sees it up to its first update: it keeps what it sampled, as plain data, or with `kept` gives
    that again, as the version that it came from. After `end` it is the policy itself."""

    def __init__(self, policy: Policy, kept: dict[str, Any] | None = None) -> None:
        self.policy = policy
        self.kept: dict[str, Any] = kept or {"version": policy.version, "calls": []}
        self._left = None if kept is None else list(kept["calls"])
        self._ended = False

    @property
    def version(self) -> int:
        return self.policy.version if self._ended else self.kept["version"]

    def sample(self, prompts: Sequence[Prompt], n: int, sampling: Sampling | None = None) -> list[Group]:
        if self._left is not None and not self._ended:
            return self._restored(prompts)
        groups = self.policy.sample(prompts, n, sampling)
        if not self._ended:
            self.kept["calls"].append([_plain(*both) for both in zip(prompts, groups, strict=True)])
        return groups

    def transcribe(self, prompt: Prompt, reply: str) -> Sample:
        return replace(self.policy.transcribe(prompt, reply), version=self.version)

    def splice(self, sample: Sample, text: str) -> Sample | None:
        return self.policy.splice(sample, text)

    def end(self) -> None:
        """The first update is there."""
        if self._left:
            raise UserError(CHANGED)
        self._ended = True

    def _restored(self, prompts: Sequence[Prompt]) -> list[Group]:
        call = self._left.pop(0) if self._left else []
        if [prompt.group for prompt in prompts] != [group["prompt"] for group in call]:
            raise UserError(CHANGED)
        return [_restored(*both, self.version) for both in zip(prompts, call, strict=True)]


CHANGED = (
    "the checkpoint holds samples of the next batch, and they are for other prompts; put back the data and the version of "
    "the package that this run was started with, or start a new run"
)


def _marked(train: Callable[[], Numbers], ended_badly: Event, _stop: Event) -> Numbers:
    try:
        return train()
    except BaseException:
        ended_badly.set()
        raise


def _plain(prompt: Prompt, group: Group) -> dict[str, Any]:
    """A group as JSON has it; nothing of it has been judged yet."""
    return {
        "prompt": prompt.group,
        "prompt_ids": list(group[0].prompt_ids) if group else [],
        "sampling": asdict(group[0].sampling) if group else {},
        "samples": [
            {
                "index": s.index,
                "ids": list(s.ids),
                "mask": list(map(int, s.mask)),
                "log_probs": list(s.log_probs),
                "text": s.text,
                "stop": s.stop,
            }
            for s in group
        ],
    }


def _restored(prompt: Prompt, kept: dict[str, Any], version: int) -> Group:
    sampling, prompt_ids = Sampling(**kept["sampling"]), tuple(kept["prompt_ids"])
    return tuple(
        Sample(
            prompt=prompt,
            index=s["index"],
            prompt_ids=prompt_ids,
            ids=tuple(s["ids"]),
            mask=tuple(map(bool, s["mask"])),
            log_probs=tuple(s["log_probs"]),
            text=s["text"],
            stop=s["stop"],
            sampling=sampling,
            version=version,
        )
        for s in kept["samples"]
    )
