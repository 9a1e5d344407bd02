"""The order in which a run uses its training problems: pass after pass, each with another seed and order."""

from __future__ import annotations

from collections.abc import Sequence

from rethink.seeds import rng, stable_hash
from rethink.types import Problem


class ProblemStream:
    """The position of a run in its training problems: the pass, and the number of problems used of this pass.

    A batch takes the next `per_batch` problems, and begins a new pass if fewer are left. `more` takes further ones to fill
    the batch up, but only of the same pass: no problem comes twice in a pass, because its samples would use the same
    random numbers.
    """

    def __init__(
        self, problems: Sequence[Problem], seed: int, per_batch: int, pass_number: int = 0, n_used: int = 0
    ) -> None:
        self.problems = problems
        self.seed = seed
        self.per_batch = per_batch
        self.pass_number = pass_number
        self.n_used = n_used

    def at_batch(self, number: int) -> ProblemStream:
        """Return the stream as it is before a batch if no earlier batch was filled up."""
        pass_number, n_batches = divmod(number, len(self.problems) // self.per_batch)
        return ProblemStream(self.problems, self.seed, self.per_batch, pass_number, n_batches * self.per_batch)

    @property
    def position(self) -> tuple[int, int]:
        """The pass, and the number of problems used of this pass."""
        return self.pass_number, self.n_used

    @property
    def pass_seed(self) -> int:
        """The seed of the pass's prompts."""
        return stable_hash(self.seed, "pass", self.pass_number)

    def next_batch(self) -> list[Problem]:
        """Return the problems of the next batch."""
        if self.n_used + self.per_batch > len(self.problems):
            self.pass_number += 1
            self.n_used = 0
        return self.more(self.per_batch)

    def more(self, n: int) -> list[Problem]:
        """Return the next n problems of the pass, or what is left of it."""
        order = list(range(len(self.problems)))
        rng(self.pass_seed, "order").shuffle(order)
        taken = order[self.n_used : self.n_used + n]
        self.n_used += len(taken)
        return [self.problems[i] for i in taken]
