"""The replies of other tools as answers of an evaluation, so that they can be compared."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rethink.errors import UserError
from rethink.evaluation.answers import Answer, AnswerStep
from rethink.evaluation.other_tools.logs import Log
from rethink.evaluation.other_tools.scored import Scored, score_of
from rethink.types import Verdict


def answers_of(log: Log, metrics: Sequence[str] = ()) -> list[Answer]:
    """Return an answer for each reply of a log. The verdict is the score by the first of the `metrics` that the task has,
    or by its only one. Raise UserError if that leaves several, and for scores that are no verdicts.
    """
    by_task: dict[str, list[Scored]] = {}
    for scored in log.read():
        by_task.setdefault(scored.task, []).append(scored)
    found: list[Answer] = []
    for task, own in by_task.items():
        metric = _pick(_metrics(own), metrics, f"{log.path}: {task}")
        _refuse_partial(own, metric, f"{log.path}: {task}")
        found += [_answer(scored, metric) for scored in own]
    return found


def _metrics(replies: Iterable[Scored]) -> list[str]:
    names: dict[str, None] = {}
    for scored in replies:
        names |= dict.fromkeys(scored.scores)
    return list(names)


def _pick(names: Sequence[str], wanted: Sequence[str], where: str) -> str:
    """Return the first wanted metric that is there. METRIC stands for METRIC,FILTER if it has a single filter."""
    if not names:
        raise UserError(f"{where} has no scores")
    for metric in wanted:
        if metric in names:
            return metric
        of_filters = [name for name in names if name.split(",")[0] == metric]
        if len(of_filters) == 1:
            return of_filters[0]
    if wanted:
        raise UserError(f"{where} has no single score {' or '.join(wanted)}; --metric can be {', '.join(names)}")
    if len(names) > 1:
        raise UserError(f"{where} has several scores; name one with --metric: {', '.join(names)}")
    return names[0]


def _refuse_partial(replies: Sequence[Scored], metric: str, where: str) -> None:
    """Raise UserError if a score is neither right nor wrong."""
    for scored in replies:
        try:
            value = score_of(scored.scores.get(metric))
        except ValueError as err:
            raise UserError(f"{where} {scored.doc}: the score {metric} is no verdict: {err}") from err
        if value is not None and not isinstance(value, bool):
            raise UserError(
                f"{where} {scored.doc}: the score {metric} is {value:g}, and a verdict is 1 (right) or 0 (wrong); name "
                "another score with --metric, or let `rethink grade` grade the replies"
            )


def _answer(scored: Scored, metric: str) -> Answer:
    value = scored.scores.get(metric)
    right = score_of(value)
    assert right is None or isinstance(right, bool)
    reason = f"{metric}: {value}" if right is not None else scored.error or f"no score {metric}"
    step = AnswerStep(
        phase="solve",
        index=scored.repeat,
        text=scored.text,
        prompt=(("user", scored.question),),
        verdict=str(Verdict(right)),
        extracted="",
        reason=reason,
        lenient=False,
        stop=scored.stop,
        n_prompt_tokens=None,
        n_tokens=None,
        log_prob=None,
        seed="",
        draft=None,
    )
    return Answer(
        suite=scored.task,
        problem=f"{scored.task}/{scored.doc}",
        repeat=scored.repeat,
        strategy="solve",
        question=scored.question,
        gold=scored.gold,
        steps=(step,),
        finals=(0,),
        tied=False,
        n_prompt_tokens=None,
        n_tokens=None,
        depth=1,
        notes={},
    )
