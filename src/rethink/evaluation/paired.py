"""Compare evaluations that are named by their paths: ours, and those of other tools."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from rethink.errors import UserError
from rethink.evaluation.answers import Answer
from rethink.evaluation.compare import OUR_TOOL, Evaluation, Pair
from rethink.evaluation.compare import compare as compare_pairs
from rethink.evaluation.comparison import Comparison
from rethink.evaluation.other_tools.align import align
from rethink.evaluation.stored import StoredEvaluation, read_evaluation

Compared = str | Path | StoredEvaluation | Sequence[Answer]


def compare(
    before: Compared, after: Compared, *, metric: str | Sequence[str] = (), ks: Sequence[int] = ()
) -> Comparison:
    """Return the second evaluation minus the first, paired by problem, with 95% intervals and p-values.

    Each is what `load_evaluation` reads or returns, or a list of answers as `evaluate` returns it. So evaluations of ours
    and logs of other tools can be compared with each other. `metric` names the score that is the verdict in a log, as for
    `load_evaluation`; `ks` are the k of pass@k. Printed, the result is the table of `rethink compare`; its `differences`
    are by measure ("solve", "refined", "fix rate", ...) and suite. Raise UserError if the evaluations have no problem in
    common, or if a problem's question or gold answer differs.

    >>> import rethink
    >>> from rethink.policies.fake import FakePolicy
    >>> problems = rethink.load_problems(rethink.ProblemSource("countdown", limit=3))
    >>> before, after = (FakePolicy(lambda prompt, index, version, n=n: f"1 + 1 = 2 ; 2 + 1 = {n}") for n in (4, 3))
    >>> settings = rethink.AnswerSettings("solve")
    >>> comparison = rethink.compare(*(rethink.evaluate(policy, problems, settings) for policy in (before, after)))
    >>> round(comparison.differences["solve"]["countdown"].value, 2)
    0.33
    >>> print(str(comparison).splitlines()[0])
    after minus before, in points, paired by problem, with 95% intervals and p-values
    """
    if metric and not isinstance(before, str | Path) and not isinstance(after, str | Path):
        raise UserError(
            "metric has no effect on evaluations that are loaded: give it to load_evaluation, or give paths"
        )
    first, second = align([_evaluation(before, "before", metric), _evaluation(after, "after", metric)])
    _refuse_useless(metric, [first, second])
    return compare_pairs([(second, first)], ks)


def read_pairs(pairs: Sequence[tuple[Path, Path]], metrics: Sequence[str] = ()) -> list[Pair]:
    """Return the evaluations of pairs (before, after); each path is read once."""
    paths = list(dict.fromkeys(chain.from_iterable(pairs)))
    evaluations = [_evaluation(path, "", metrics) for path in paths]
    _refuse_useless(metrics, evaluations)
    read = dict(zip(paths, align(evaluations), strict=True))
    found: list[Pair] = []
    for before, after in pairs:
        found.append((read[after], read[before]))
    return found


def _evaluation(given: Compared, name: str, metric: str | Sequence[str]) -> Evaluation:
    """Return what is to be compared; answers without a file have this name."""
    if isinstance(given, str | Path):
        found = read_evaluation(given, metric)
        return Evaluation(str(given), found.answers, found.tool)
    if isinstance(given, StoredEvaluation):
        return Evaluation(str(given.path), given.answers, given.tool)
    if not given or not all(isinstance(answer, Answer) for answer in given):
        raise UserError("compare needs paths, or what load_evaluation or evaluate returns")
    return Evaluation(name, given)


def _refuse_useless(metric: str | Sequence[str], evaluations: Sequence[Evaluation]) -> None:
    """Raise UserError if a metric is named that none of the evaluations has."""
    if metric and {evaluation.tool for evaluation in evaluations} == {OUR_TOOL}:
        names = metric if isinstance(metric, str) else " ".join(metric)
        raise UserError(f"--metric {names} has no effect: it names a score in the logs of other tools")
