"""Evaluations that have been made: their answers as a table, and their numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rethink.errors import UserError, install_extra
from rethink.evaluation.answers import Answer, AnswerStep, by_strategy, by_suite, read_answers
from rethink.evaluation.compare import OUR_TOOL
from rethink.evaluation.other_tools import find_log
from rethink.evaluation.other_tools.answers import answers_of
from rethink.evaluation.outcomes import revised_draft
from rethink.evaluation.summary import Summary, summarize
from rethink.evaluation.unchanged import ANSWERS_FILE
from rethink.jsonl import Record, read_lines
from rethink.run_folder import RunFolder

if TYPE_CHECKING:
    import pandas

TRANSITIONS = {
    ("wrong", "right"): "fixed",
    ("right", "wrong"): "damaged",
    ("right", "right"): "kept right",
    ("wrong", "wrong"): "still wrong",
}
"""(verdict of the draft, verdict of the final answer) -> what refinement did."""

TYPES = {
    **dict.fromkeys(("repeat", "depth"), "int64"),
    **dict.fromkeys(("draft_right", "right", "lenient"), "boolean"),
    **dict.fromkeys(("draft_tokens", "tokens", "n_prompt_tokens", "n_tokens"), "Int64"),
    **dict.fromkeys(("suite", "problem", "strategy", "question", "gold", "transition", "phase"), "object"),
    **dict.fromkeys(("draft", "draft_extracted", "draft_reason"), "object"),
    **dict.fromkeys(("text", "extracted", "reason", "stop"), "object"),
}
"""The types of the columns of the table. "boolean" and "Int64" have a value for what is not known."""


@dataclass(frozen=True)
class StoredEvaluation:
    """The answers of an evaluation, in the order of its file, and the tool that wrote it."""

    path: Path
    answers: list[Answer]
    tool: str = OUR_TOOL

    def rows(self) -> list[Record]:
        """Return a row per final answer, with the columns of docs/evaluation.md. A problem that was skipped, because its
        prompt was too long, has a row without an answer.
        """
        found: list[Record] = []
        for answer in self.answers:
            finals: Sequence[AnswerStep | None] = answer.final_steps or [None]
            for final in finals:
                found.append(_row(answer, final))
        return found

    def to_pandas(self) -> pandas.DataFrame:
        """Return `rows` as a table of pandas. Raise UserError if pandas is not installed."""
        try:
            import pandas
        except ImportError as err:
            raise UserError(f"to_pandas needs pandas: {install_extra('pandas')}") from err
        names = list(_row(_NOTHING, None))
        table = pandas.DataFrame(self.rows(), columns=names, dtype="object")
        return table.astype({name: TYPES[name] for name in names})

    def summaries(self, ks: Sequence[int] = ()) -> dict[str, dict[str, Summary]]:
        """Return all numbers by suite and strategy: accuracies, fix and damage rates, transitions, pass@k and costs, with
        intervals. `ks` are the k of pass@k, by default powers of two.
        """
        found: dict[str, dict[str, Summary]] = {}
        for suite, own in by_suite(self.answers).items():
            found[suite] = {name: summarize(some, ks) for name, some in by_strategy(own).items()}
        return found


def load_evaluation(path: str | Path, metric: str | Sequence[str] = ()) -> StoredEvaluation:
    """Return the answers of an evaluation: of its folder, of a training run's last evaluation that has ended, of a file, or
    of a log of inspect_ai, lm-evaluation-harness or lighteval.

    The verdicts in a log are the tool's own: `metric` names the score, and of several names, each task uses the first that
    it has (docs/other-evaluations.md). It can be left out if there is only one. Raise UserError if there are no answers,
    and for damaged files.

    >>> import rethink
    >>> from rethink.policies.fake import FakePolicy
    >>> problems = rethink.load_problems(rethink.ProblemSource("countdown", limit=3))
    >>> policy = FakePolicy(lambda prompt, index, version: "1 + 1 = 2 ; 2 + 1 = 3" if prompt.phase == "refine" else "?")
    >>> answers = rethink.evaluate(policy, problems, file="runs/load-evaluation.jsonl")
    >>> evaluation = rethink.load_evaluation("runs/load-evaluation.jsonl")
    >>> [(row["question"], row["transition"]) for row in evaluation.rows()]
    [('1 1 1 -> 3', 'fixed'), ('2 1 1 -> 2', 'still wrong'), ('1 2 1 -> 3', 'still wrong')]
    >>> evaluation.summaries()["countdown"]["refine"].transitions.wrong_right
    1
    """
    found = read_evaluation(path, metric)
    if metric and found.tool == OUR_TOOL:
        raise UserError(f"{path}: metric has no effect: it names a score in the logs of other tools")
    return found


def read_evaluation(path: str | Path, metric: str | Sequence[str] = ()) -> StoredEvaluation:
    """Return what `load_evaluation` does; a metric has no effect on an evaluation of ours."""
    folder = Path(path)
    log = find_log(folder)
    if log is not None:
        return StoredEvaluation(folder, answers_of(log, [metric] if isinstance(metric, str) else metric), log.name)
    candidates = [folder, folder / ANSWERS_FILE, *_of_run(RunFolder(folder))]
    file = next((c for c in candidates if c.is_file()), None)
    answers = read_answers(file) if file else []
    if file is None or not answers:
        note = " that this version can read" if (folder / "outcomes.jsonl").exists() else ""
        note = " that has ended" if file is None and any(folder.glob("eval/*.jsonl")) else note
        raise UserError(f"{folder} holds no answers of an evaluation{note}")
    return StoredEvaluation(file, answers)


def _of_run(run: RunFolder) -> list[Path]:
    """Return the answers of a training run's evaluations, the newest first: those that its log, if there is one, says have
    ended. The file of one that is under way is not complete.
    """
    ended = {r.get("update") for _, r in read_lines(run.metrics) if r.get("phase") == "evaluation"}
    found: list[Path] = []
    for file in sorted((run.path / "eval").glob("*.jsonl"), reverse=True):
        if not run.metrics.is_file() or (file.stem.isdigit() and int(file.stem) in ended):
            found.append(file)
    return found


def _row(answer: Answer, final: AnswerStep | None) -> Record:
    """Return what the table says of a final answer; None for a skipped problem."""
    draft = None if final is None else revised_draft(answer, final)
    row: dict[str, Any] = {
        "suite": answer.suite,
        "problem": answer.problem,
        "repeat": answer.repeat,
        "strategy": answer.strategy,
        "question": answer.question,
        "gold": answer.gold,
    }
    for name in ("text", "extracted", "right", "reason", "n_tokens"):
        column = {"text": "draft", "n_tokens": "draft_tokens"}.get(name, f"draft_{name}")
        row[column] = None if draft is None else getattr(draft, name)
    for name in ("phase", "text", "extracted", "right", "lenient", "reason", "stop", "n_tokens"):
        row["tokens" if name == "n_tokens" else name] = None if final is None else getattr(final, name)
    verdicts = (draft.verdict, final.verdict) if draft is not None and final is not None else ("", "")
    row["transition"] = TRANSITIONS.get(verdicts)
    return {**row, "n_prompt_tokens": answer.n_prompt_tokens, "n_tokens": answer.n_tokens, "depth": answer.depth}


_NOTHING = Answer("", "", 0, "", "", "", (), (), False, None, None, 0, {})
