"""A method of your own: imitate right answers, both first answers and refined ones.

Run:  python examples/own_method.py
On the command line:  rethink train demo-grpo method.name=own_method:ImitateRight method.n_solve=4
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import rethink
from rethink import Actors, Imitate, Problem, Sample, Update


@dataclass(frozen=True)
class ImitateRight:
    """Answer each problem, refine the wrong answers, and imitate what is right, with a weight for each kind."""

    n_solve: int = 4
    refined_weight: float = 0.5
    n_steps: int = 1

    def updates(self, actors: Actors, problems: Sequence[Problem]) -> Iterator[Update]:
        solved = actors.rollout(actors.prompts.ask(problems), self.n_solve)
        wrong = [sample for group in solved for sample in group if sample.right is False]
        refined = actors.rollout(actors.prompts.ask_to_refine(wrong), 1)
        parts = (imitate(solved, 1.0), imitate(refined, self.refined_weight))
        yield Update("imitate", parts, self.n_steps, groups=(*solved, *refined))


def imitate(groups: Sequence[Sequence[Sample]], coefficient: float) -> Imitate:
    right = tuple(sample for group in groups for sample in group if sample.right)
    return Imitate(right, (1.0,) * len(right), coefficient)


if __name__ == "__main__":
    settings = ["method={name='own_method:ImitateRight', n_solve=4}", "updates=4", "evaluation.problems.limit=100"]
    recipe = rethink.load_recipe("demo-grpo", ["out=runs/own-method", "prompts.refine=again", *settings])
    for record in rethink.train(rethink.open_run(recipe)):
        print({key: record[key] for key in ("update", "accuracy", "n_trained_tokens") if key in record})
