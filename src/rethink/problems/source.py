"""Where problems come from: a named suite, a generator, a JSONL or parquet file, or a data set on the hub."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Literal

from rethink.errors import UserError
from rethink.grading.user_function import UserFunction, find_function
from rethink.problems import bfcl, calls, choice, countdown, equation, gym, mathematics
from rethink.problems.answer_format import AnswerFormat, Columns, Row, read_question_and_answer
from rethink.problems.held_out import dedup_key, take_split
from rethink.problems.rewards import probe
from rethink.problems.rows import hub_rows, joined_rows, read_rows
from rethink.problems.suites import Suite, expand, find_suite, unknown
from rethink.settings import ProblemSource
from rethink.types import Demonstration, Problem, Verdict

FORMS: dict[str, AnswerFormat] = {
    "boxed": mathematics.FORMAT,
    "choice": choice.FORMAT,
    "calls": calls.FORMAT,
    "bfcl": bfcl.FORMAT,
    "equation": equation.FORMAT,
    "countdown": countdown.FORMAT,
}
GENERATORS = ("countdown", "gym:TASK")


def _checked_by_task(reply: str, gold: str) -> Verdict:
    raise ValueError("answers to a gym task are checked by the problem's own verifier")


GYM = AnswerFormat(
    gym.SOLVE,
    read_question_and_answer,
    _checked_by_task,
    _checked_by_task,
    gold_reply="<answer>{}</answer>".format,
    extract_answer=gym.answer,
)
"""How gym tasks are asked and answered; no rows are read in it."""


def load_problems(source: ProblemSource, seed: int = 0, purpose: Literal["train", "test"] = "train") -> list[Problem]:
    """Return all problems of the source. `seed` is for options in random order, `purpose` the split where none is named.

    Raises UserError for a missing file or column, for a row without an answer, for training on what is for evaluation alone
    unless `split` names it, and for a user's verifier that returns what is no verdict: it is called once (see `probe`)."""
    if source.limit < 0:
        raise UserError(f"{source.source}: limit must be 0 (all rows) or more, not {source.limit}")
    if source.draft and not source.reply:
        raise UserError(f"{source.source}: draft names a column, but reply, what to make of the draft, does not")
    found: list[Problem] = []
    for name in expand(source.source):
        made = _generated(name, source, purpose)
        all_of_it = _read(name, source, seed, purpose) if made is None else made
        some = list(islice(take_split(all_of_it, source.held_out, purpose), source.limit or None))
        if not some:
            raise UserError(f"{name} has no problems")
        found += some
    _refuse_repeated(found, source)
    verify = found[0].verify
    if isinstance(verify, UserFunction):
        probe(verify, found[0])
    return found


def on_hub(source: ProblemSource) -> bool:
    """Whether the problems, or some of them, would be loaded from the hub."""
    for name in expand(source.source):
        if name.startswith("hub:") or (find_suite(name) is not None and not source.data):
            return True
    return False


def find_form(name: str, source: ProblemSource = ProblemSource()) -> AnswerFormat:
    """Return the form of that name, or that of a verifier `module:function`, within the source's limits. Raise UserError
    for a name that is neither, and for a function that cannot be imported."""
    if name in FORMS:
        return FORMS[name]
    if ":" not in name:
        raise UserError(f"unknown verifier {name!r}: use one of {', '.join(FORMS)}, or module:function")
    verify = find_function(
        name,
        timeout_s=source.verifier_timeout_s,
        memory_gib=source.verifier_memory_gib,
        in_process=source.verifier_in_process,
        right_threshold=source.right_threshold,
    )
    return AnswerFormat(mathematics.SOLVE_BOXED, read_question_and_answer, verify, verify, gold_reply=str)


def form_of(source: ProblemSource) -> AnswerFormat:
    """The form in which the problems of a source are answered; of several sources, that of the first."""
    name = expand(source.source)[0]
    suite = find_suite(name)
    if name.startswith("gym:"):
        return GYM
    usual = suite.form if suite else name
    return find_form(source.verifier or (usual if usual in FORMS else "boxed"), source)


def refuse_overlap(training: Iterable[Problem], held_out: Iterable[Problem]) -> None:
    """Raise UserError if a held-out problem is also trained on, be it with its numbers in another order."""
    trained = {dedup_key(p) for p in training}
    shared = [p for p in held_out if dedup_key(p) in trained]
    if shared:
        raise UserError(
            f"{len(shared)} held-out problems are also training problems, {shared[0].id} for one; "
            "choose another split or file for evaluation.problems"
        )


def _refuse_repeated(problems: list[Problem], source: ProblemSource) -> None:
    seen: set[str] = set()
    for problem in problems:
        if problem.id in seen:
            raise UserError(
                f"{source.source}: the id {problem.id!r} occurs twice; ids must be unique, and so must names of files, "
                "whatever their folders"
            )
        seen.add(problem.id)


def _generated(name: str, source: ProblemSource, purpose: str) -> list[Problem] | None:
    """The problems of a generator; None where the name is none."""
    if name not in GENERATORS and not name.startswith("gym:"):
        return None
    if source.verifier:
        raise UserError(f"{name} has a verifier of its own; leave verifier empty")
    split = source.split or purpose
    lenient = source.extraction == "lenient"
    try:
        if name == "countdown":
            return countdown.problems(split, source.numbers, source.largest, source.replies)
        return gym.problems(name.removeprefix("gym:"), split, source.size, source.gym, lenient, source.partial_scores)
    except ValueError as err:
        raise UserError(str(err)) from err


def _read(name: str, source: ProblemSource, seed: int, purpose: str) -> Iterator[Problem]:
    suite = find_suite(name)
    form = form_of(replace(source, source=name))
    usual = suite or Columns()
    columns = Columns(
        question=source.question or usual.question,
        answer=source.answer or usual.answer,
        tools=source.tools or usual.tools,
        options=source.options or usual.options,
        context=source.context or usual.context,
    )
    title = name if suite or name.startswith("hub:") else Path(name).name
    return (_problem(row, title, source, form, columns, seed) for row in _rows(name, source, suite, purpose))


def _rows(name: str, source: ProblemSource, suite: Suite | None, purpose: str) -> Iterator[Row]:
    if name.startswith("hub:"):
        return hub_rows(name.removeprefix("hub:"), source.subsets, source.split or purpose)
    if suite is None:
        if Path(name).suffix in (".parquet", ".jsonl", ".ndjson"):
            return read_rows(Path(name))
        raise unknown(name, GENERATORS)
    rows = read_rows(_kept(name, suite, source, purpose)) if source.data else _on_hub(name, suite, source, purpose)
    if suite.where is None:
        return rows
    column, value = suite.where
    return (row for row in rows if str(row.value(column)) == value)


def _on_hub(name: str, suite: Suite, source: ProblemSource, purpose: str) -> Iterator[Row]:
    split = _pick_split(name, suite, source.split, purpose)
    if suite.files:
        return joined_rows(suite.hub, *suite.files)
    return hub_rows(suite.hub, source.subsets or suite.subsets, suite.splits[split])


def _pick_split(name: str, suite: Suite, asked: str, purpose: str) -> str:
    try:
        return suite.pick_split(asked, purpose)
    except ValueError as err:
        raise UserError(f"{name} has {err}") from err


def _kept(name: str, suite: Suite, source: ProblemSource, purpose: str) -> Path:
    """The file in the data folder that holds the suite. It may have splits that the hub does not have, if asked for."""
    its_own = source.split and source.split not in suite.splits.values()
    split = source.split if its_own else _pick_split(name, suite, source.split, purpose)
    splits = dict.fromkeys((source.split or purpose, suite.splits.get(split, split)))  # ours, then the hub's name
    folders = (name, *suite.folders)
    files = [f"{folder}/{one}" for one in splits for folder in folders]
    files += folders if split in suite.splits else ()
    for file in files:
        for ending in ("parquet", "jsonl"):
            if (path := Path(source.data) / f"{file}.{ending}").is_file():
                return path
    flat = f" or {name}.parquet" if name in files else ""
    raise UserError(f"{source.data} holds no {files[0]}.parquet{flat} (nor .jsonl)")


def _problem(row: Row, title: str, source: ProblemSource, form: AnswerFormat, columns: Columns, seed: int) -> Problem:
    question, gold = form.read(row, columns, seed)
    shown = tuple(_demonstrations(row, source))
    ident = row.text(source.id) if source.id else f"{title}/{row.n}"
    suite = row.text(source.suite) if source.suite else title
    return replace(
        form.problem(ident, question, gold, suite, source.extraction),
        demonstrate=(lambda _seed: shown) if shown else None,
        failure=row.text(source.failure) if source.failure else None,
    )


def _demonstrations(row: Row, source: ProblemSource) -> Iterator[Demonstration]:
    """What the row has to imitate: a reply (to a draft, where there is one), and an answer merged from candidates."""
    if source.reply and (row.has(source.reply) or not source.merged):
        draft = (row.text(source.draft),) if source.draft else ()
        yield Demonstration(row.text(source.reply), "refine" if draft else "solve", draft)
    if source.merged and row.has(source.merged):
        yield Demonstration(row.text(source.merged), "merge", tuple(row.value(source.candidates)))
