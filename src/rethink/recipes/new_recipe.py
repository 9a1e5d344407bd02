"""The text of a new recipe: commented, for one's own problems, model and method."""

from __future__ import annotations

import dataclasses
import json
import math
import shlex
from dataclasses import dataclass

from rethink.errors import UserError
from rethink.methods import METHODS, find_method, needs_of
from rethink.printable import printable_line
from rethink.settings import ProblemSource

BATCH = 32
"""The problems of a batch, where there are as many."""


@dataclass(frozen=True)
class NewRecipe:
    """What a new recipe says. `file` is its name, `run` its run folder; `n_problems` is 0 where it is not known.

    `problems` are those to train on, and `evaluation` the held-out ones; None leaves evaluation out. `assumed` are the
    assumptions that the header lists.
    """

    file: str
    run: str
    method: str
    model: str
    problems: ProblemSource
    evaluation: ProblemSource | None
    max_tokens: int
    n_problems: int = 0
    assumed: tuple[str, ...] = ()

    @property
    def problems_per_batch(self) -> int:
        return min(BATCH, self.n_problems or BATCH)

    def text(self) -> str:
        """Return the recipe as TOML with comments."""
        parts = [self._header() + self._run(), self._method(), TRAINING, _problems("problems", self.problems)]
        prompts = [PROMPTS] if ":" in self.problems.verifier else []
        return "\n".join([*parts, *prompts, REWARDS, self._evaluation()])

    def _header(self) -> str:
        file, run = shlex.quote(self.file), shlex.quote(self.run)
        start = shlex.quote(f"{self.run}/eval/000000.jsonl")  # `evaluation.at_start`
        on = " --on FILE" if self.evaluation is None else ""
        lines = [
            f"{self.method} on {self.model}, with problems of {self.problems.source}.",
            "",
            f"Check:     rethink train {file} --dry-run",
            f"Memory:    rethink plan {file} --gpus 1 --gpu-memory 80",
            f"Train:     rethink train {file}",
            f"Watch:     rethink view {run}",
            *([] if self.evaluation is None else [f"Compare:   rethink compare {start} {run}"]),
            f"Evaluate:  rethink eval {run}{on} --recipe {file}",
            "",
            "Lines such as `# name = value` show defaults, or what others use. docs/settings.md explains all settings, and",
            f"`rethink train {file} --all` prints them.",
        ]
        if self.assumed:
            lines += ["", "Assumed by `rethink new`; change what is wrong:", *(f"- {one}" for one in self.assumed)]
        return "\n".join(f"# {printable_line(line)}".rstrip() for line in lines)

    def _run(self) -> str:
        return RUN.format(
            out=_line("out", self.run, "the run folder"),
            per_batch=self.problems_per_batch,
            model=_line("path", self.model, "a folder, a name on the Hugging Face hub, or a GGUF file"),
            max_tokens=_line(
                "max_tokens", self.max_tokens, "where replies are cut; thinking models need several thousand"
            ),
        )

    def _method(self) -> str:
        lines = ["[method]", f"name = {_toml(self.method)}"]
        if self.method in METHODS:
            lines.append(f"# Settings of this method (docs/methods/{self.method.replace('_', '-')}.md):")
            for field in dataclasses.fields(METHODS[self.method]):
                default: object = field.default
                if isinstance(default, int | float) or (isinstance(default, str) and _is_short(default)):
                    lines.append(f"# {field.name} = {_toml(default)}")
            if _has_named_loss(self.method):
                lines.append('# objective = "dapo"                # or another loss by name (docs/losses.md)')
        return "\n".join(lines) + "\n"

    def _evaluation(self) -> str:
        if self.evaluation is None:
            return NO_EVALUATION
        return EVALUATION.format(max_tokens=self.max_tokens) + "\n" + _problems("evaluation.problems", self.evaluation)


RUN = """
{out}
seed = 0
updates = 200                       # weight updates; then the run ends
problems_per_batch = {per_batch}
checkpoint_every = 50
# trackers = ["tensorboard"]        # or "wandb", "trackio", "mlflow" (docs/trackers.md)

[model]
{model}

[sampling]
{max_tokens}

# [sampler]                         # sample with vLLM (docs/vllm.md)
# engine = "vllm"
"""

TRAINING = """[training]
lr = 1e-6                           # with LoRA, about ten times as much
# schedule = "linear"               # or "cosine": decay to 0 after the last update
# gradient_checkpointing = true     # less memory, more time

# [lora]                            # train an adapter in place of all weights (docs/lora.md)
# rank = 16
"""

PROMPTS = """# [prompts]                         # what your verifier reads (docs/rewards.md)
# solve = "{question}\\n\\nEnd with the answer after ####."
"""

REWARDS = """# The reward is 1 for a right answer and 0 for a wrong one. Terms of yours add to it (docs/rewards.md):
# [[rewards]]
# function = "verdict"
# [[rewards]]
# function = "my_module:my_reward"
# weight = 0.1
"""

EVALUATION = """[evaluation]
at_start = true                     # evaluate the start model, too, for a comparison
every = 50                          # updates between evaluations; there is one at the end in any case
strategy = "refine"                 # solve, then refine the draft (docs/strategies.md)
n = 4                               # answers per problem
sampling = {{ temperature = 1.0, max_tokens = {max_tokens} }}
"""

NO_EVALUATION = """# Nothing is evaluated: there are too few problems to hold some out. Name other ones:
# [evaluation.problems]
# source = "FILE"
"""


def _has_named_loss(method: str) -> bool:
    """Return whether the method has an objective that a name can set, and that its default settings use."""
    return needs_of(method).uses_objective and "solve" in {field.name for field in dataclasses.fields(METHODS[method])}


def check_method(name: str) -> None:
    """Raise UserError for a method that does not exist, and for one that trains on data that must be prepared first."""
    method = find_method(name)
    if not needs_of(name).samples or hasattr(method, "prepare"):
        raise UserError(
            f"{name} trains on data that must be prepared first; begin with a recipe of the package: rethink recipes {name}"
        )


def _problems(table: str, source: ProblemSource) -> str:
    """Return a table of problems: what differs from the defaults, each with a comment."""
    default = ProblemSource()
    lines = [f"[{table}]", f"source = {_toml(source.source)}"]
    for name, comment in COMMENTS.items():
        value = getattr(source, name)
        if value != getattr(default, name):
            lines.append(_line(name, value, comment))
    return "\n".join(lines) + "\n"


COMMENTS = {
    "split": "both parts are shares of this split",
    "question": "the column of the question, or of a conversation (docs/problems.md)",
    "answer": "the column of the gold answer",
    "context": "the column of text in front of the question",
    "options": "the column, or the columns, of the options",
    "verifier": "how answers are graded (docs/grading.md); or yours, as module:function",
    "held_out": "the share of the file that only evaluation uses",
}


def _line(key: str, value: str | float, comment: str) -> str:
    line = f"{key} = {_toml(value)}"
    return f"{line:<35} # {comment}"


def _is_short(text: str) -> bool:
    return 0 < len(text) <= 20 and "\n" not in text


def _toml(value: str | float) -> str:
    """Return a value as TOML, which is JSON for these types, infinity apart."""
    if value == math.inf:
        return "inf"
    return json.dumps(value, ensure_ascii=False)
