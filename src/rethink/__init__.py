"""Train language models to solve problems and to improve their own answers, and measure whether they do.

>>> import rethink
>>> rethink.grade("So the answer is \\\\boxed{\\\\frac{5}{6}}.", gold="5/6").right
True

A training run, from a recipe to its records::

    run = rethink.open_run(rethink.load_recipe("demo-think-twice", ["updates=4"]))
    for record in rethink.train(run):
        print(record["phase"], record.get("reward"))

The names below are the public API. They are imported on first use, so `import rethink` is fast and loads no torch.
"""

from __future__ import annotations

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

from rethink.version import __version__ as __version__

__all__ = [
    "GRPO",
    "Actors",
    "AnswerSettings",
    "Endpoint",
    "EndpointPolicy",
    "Imitate",
    "Objective",
    "PolicyGradient",
    "Prefer",
    "Problem",
    "ProblemSource",
    "Prompts",
    "Sample",
    "Sampling",
    "ThinkTwice",
    "Update",
    "UserError",
    "Verdict",
    "compare",
    "evaluate",
    "grade",
    "load_drafts",
    "load_evaluation",
    "load_policy",
    "load_problems",
    "load_recipe",
    "open_run",
    "summarize",
    "train",
    "write_report",
]

_MODULES = {
    "Actors": "rethink.methods.actors",
    "AnswerSettings": "rethink.settings",
    "Endpoint": "rethink.settings",
    "EndpointPolicy": "rethink.policies.endpoint.policy",
    "GRPO": "rethink.methods.grpo",
    "Imitate": "rethink.objectives",
    "Objective": "rethink.objectives",
    "PolicyGradient": "rethink.objectives",
    "Prefer": "rethink.objectives",
    "Problem": "rethink.types",
    "ProblemSource": "rethink.settings",
    "Prompts": "rethink.prompts",
    "Sample": "rethink.types",
    "Sampling": "rethink.types",
    "ThinkTwice": "rethink.methods.think_twice",
    "Update": "rethink.objectives",
    "UserError": "rethink.errors",
    "Verdict": "rethink.types",
    "compare": "rethink.evaluation.paired",
    "evaluate": "rethink.evaluation.evaluate",
    "grade": "rethink.problems.grade",
    "load_drafts": "rethink.evaluation.drafts",
    "load_evaluation": "rethink.evaluation.stored",
    "load_policy": "rethink.build",
    "load_problems": "rethink.problems.source",
    "load_recipe": "rethink.recipe",
    "open_run": "rethink.training.run",
    "summarize": "rethink.evaluation.summary",
    "train": "rethink.training.loop",
    "write_report": "rethink.report.page",
}

if TYPE_CHECKING:
    from rethink.build import load_policy
    from rethink.errors import UserError
    from rethink.evaluation.drafts import load_drafts
    from rethink.evaluation.evaluate import evaluate
    from rethink.evaluation.paired import compare
    from rethink.evaluation.stored import load_evaluation
    from rethink.evaluation.summary import summarize
    from rethink.methods.actors import Actors
    from rethink.methods.grpo import GRPO
    from rethink.methods.think_twice import ThinkTwice
    from rethink.objectives import Imitate, Objective, PolicyGradient, Prefer, Update
    from rethink.policies.endpoint.policy import EndpointPolicy
    from rethink.problems.grade import grade
    from rethink.problems.source import load_problems
    from rethink.prompts import Prompts
    from rethink.recipe import load_recipe
    from rethink.report.page import write_report
    from rethink.settings import AnswerSettings, Endpoint, ProblemSource
    from rethink.training.loop import train
    from rethink.training.run import open_run
    from rethink.types import Problem, Sample, Sampling, Verdict


# `transformers` imports torchao wherever it is installed, and torchao warns about each GPU kernel that it cannot load.
for _name in ("torchao", "torch.utils._pytree"):
    logging.getLogger(_name).setLevel(logging.ERROR)


if not TYPE_CHECKING:  # type checkers then see the names above, and refuse all others

    def __getattr__(name: str) -> Any:
        """Import a public name on first use (PEP 562)."""
        if name not in _MODULES:
            raise AttributeError(f"module 'rethink' has no attribute {name!r}")
        value = getattr(import_module(_MODULES[name]), name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
