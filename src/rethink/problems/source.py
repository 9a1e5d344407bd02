"""Where problems come from: a named suite, a generator, a file or folder, rows in memory, or a data set on the hub."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Literal

from rethink.errors import UserError
from rethink.grading.user_function import UserFunction, find_function
from rethink.problems import bfcl, calls, choice, countdown, equation, gym, mathematics, mixed, shapes, signs
from rethink.problems.answer_format import AnswerFormat, read_problem, read_question_and_answer
from rethink.problems.conversation import reply_text
from rethink.problems.files import is_data_name, object_rows, read_rows
from rethink.problems.gold import is_prose
from rethink.problems.held_out import dedup_key, take_split
from rethink.problems.rewards import probe
from rethink.problems.rows import Columns, Row, hub_rows, joined_rows
from rethink.problems.suites import Suite, expand_sources, find_suite, unknown_source
from rethink.settings import ProblemSource
from rethink.types import Demonstration, Problem, Verdict

ANSWER_FORMATS: dict[str, AnswerFormat] = {
    "boxed": mathematics.FORMAT,
    "choice": choice.FORMAT,
    "mixed": mixed.FORMAT,
    "calls": calls.FORMAT,
    "bfcl": bfcl.FORMAT,
    "equation": equation.FORMAT,
    "countdown": countdown.FORMAT,
    "signs": signs.FORMAT,
    "shapes": shapes.FORMAT,
}
VALUES = (mathematics.verify, mathematics.verify_lenient, mixed.verify, mixed.verify_lenient)
"""Verifiers of answers that need not be options."""
GENERATORS = ("countdown", "signs", "shapes", "gym:TASK")
LOCAL_ENDINGS = ("parquet", "jsonl", "jsonl.gz", "json", "json.gz", "csv", "csv.gz")
ROWS = "rows"
"""The name of a source that is given as rows in memory."""


def _use_problem_verifier(reply: str, gold: str) -> Verdict:
    raise ValueError("answers to a gym task are graded by the verifier of their problem")


GYM_FORMAT = AnswerFormat(
    gym.SOLVE,
    read_question_and_answer,
    _use_problem_verifier,
    _use_problem_verifier,
    gold_reply="<answer>{}</answer>".format,
    extract_answer=gym.extract_answer,
)
"""The format of gym tasks, which are generated and not read from rows."""


def load_problems(
    source: ProblemSource, seed: int = 0, purpose: Literal["train", "test"] = "train", *, rows: object = None
) -> list[Problem]:
    """Return all problems of the source, or of `rows`: a `datasets.Dataset`, a pandas table or a list of mappings, whose
    columns the source names.

    `seed` orders the options of multiple choice. `purpose` is the split if the source names none. Raise UserError for a
    missing file or column, a row without an answer, training on an evaluation set unless `split` names it, and a user's
    verifier that returns anything but a verdict: `probe` calls it once.

    >>> import rethink
    >>> problems = rethink.load_problems(rethink.ProblemSource("countdown", limit=2))
    >>> problems[0].question, problems[0].grade("1 + 1 = 2 ; 2 + 1 = 3").right
    ('1 1 1 -> 3', True)
    >>> rows = [{"problem": "1 + 1?", "answer": 2}]
    >>> rethink.load_problems(rethink.ProblemSource(question="problem"), rows=rows)[0].gold
    '2'
    """
    if not isinstance(source, ProblemSource):
        raise UserError(f"the source must be a ProblemSource, not {type(source).__name__}; pass a data set as rows=...")
    if source.limit < 0:
        raise UserError(f"{source.source}: limit must be 0 (all rows) or more, not {source.limit}")
    _check_columns(source)
    found: list[Problem] = []
    for name in expand_sources(source.source) if rows is None else [ROWS]:
        generated = _generate(name, source, purpose)
        problems = _read_problems(name, source, seed, purpose, rows) if generated is None else generated
        kept = list(islice(take_split(problems, source.held_out, purpose), source.limit or None))
        if not kept:
            raise UserError(f"{name} has no problems{_why_none(source, purpose)}")
        _refuse_solutions(name, kept)
        found += kept
    _refuse_repeated_ids(found, source)
    verify = found[0].verify
    if isinstance(verify, UserFunction):
        probe(verify, found[0])
    return found


def needs_hub(source: ProblemSource) -> bool:
    """Return whether some of the problems would be loaded from the hub."""
    for name in expand_sources(source.source):
        if name.startswith("hub:") or (find_suite(name) is not None and not source.data):
            return True
    return False


def find_answer_format(name: str, source: ProblemSource = ProblemSource()) -> AnswerFormat:
    """Return the answer format with that name, or one with the verifier `module:function` and the source's limits.

    Raise UserError for other names, and for a function that cannot be imported.
    """
    if name in ANSWER_FORMATS:
        return ANSWER_FORMATS[name]
    if ":" not in name:
        raise UserError(f"unknown verifier {name!r}: use one of {', '.join(ANSWER_FORMATS)}, or module:function")
    verify = find_function(
        name,
        ("reply", "gold", "row"),
        timeout_s=source.verifier_timeout_s,
        memory_gib=source.verifier_memory_gib,
        in_process=source.verifier_in_process,
        right_threshold=source.right_threshold,
        sandbox=source.verifier_sandbox,
        sandbox_off="verifier_sandbox=false (rethink grade: --no-sandbox)",
    )
    return AnswerFormat(mathematics.SOLVE_BOXED, read_question_and_answer, verify, verify, gold_reply=str)


def answer_format_of(source: ProblemSource) -> AnswerFormat:
    """Return the answer format of a source, or of the first of several."""
    name = expand_sources(source.source)[0]
    suite = find_suite(name)
    if name.startswith("gym:"):
        return GYM_FORMAT
    default = suite.answer_format if suite else name.partition(":")[0] if name.startswith("shapes:") else name
    return find_answer_format(source.verifier or (default if default in ANSWER_FORMATS else "boxed"), source)


def refuse_unread_columns(source: ProblemSource, answer_format: AnswerFormat) -> None:
    """Raise UserError if the source names a column of options that the answer format does not read."""
    if source.options and answer_format.read_row not in (choice.read_row, mixed.read_row):
        raise UserError(
            f"options={source.options} has no effect on this answer format, so no prompt would show them; set "
            "verifier=choice (or mixed, if some rows have none), or leave options out"
        )


def refuse_overlap(training: Iterable[Problem], held_out: Iterable[Problem]) -> None:
    """Raise UserError if a held-out problem is also a training problem, in any order of its numbers or options."""
    trained = {dedup_key(p) for p in training}
    shared = [p for p in held_out if dedup_key(p) in trained]
    if shared:
        raise UserError(
            f"{len(shared)} held-out problems are also training problems, for example {shared[0].id}; "
            "choose another split or file for evaluation.problems"
        )


def _check_columns(source: ProblemSource) -> None:
    """Raise UserError if a column is named without the one that it belongs to."""
    if source.draft and not source.reply and not source.chosen:
        raise UserError(f"{source.source}: draft names a column, but reply (the refinement of the draft) does not")
    for one, two in (("chosen", "rejected"), ("merged", "candidates")):
        for name, other in ((one, two), (two, one)):
            if getattr(source, name) and not getattr(source, other):
                raise UserError(f"{source.source}: {name} names a column, but {other} does not; set both")


def _why_none(source: ProblemSource, purpose: str) -> str:
    if not source.held_out:
        return ""
    return f" for {'evaluation' if purpose == 'test' else 'training'}; held_out is {source.held_out}"


def _refuse_solutions(name: str, problems: list[Problem]) -> None:
    """Raise UserError if most gold answers of mathematics are whole sentences: no reply would be right."""
    prose = [p for p in problems if p.verify in (mathematics.verify, mathematics.verify_lenient) and is_prose(p.gold)]
    if 2 * len(prose) > len(problems):
        raise UserError(
            f"{name}: most gold answers are sentences or solutions, such as that of {prose[0].id}: {prose[0].gold[:80]!r}; "
            "name the column of final answers with answer=..., or mark them with \\boxed{} or ####"
        )


def _refuse_repeated_ids(problems: list[Problem], source: ProblemSource) -> None:
    seen: set[str] = set()
    for problem in problems:
        if problem.id in seen:
            raise UserError(
                f"{source.source}: the id {problem.id!r} occurs twice; ids must be unique, and so must file names, even "
                "in different folders"
            )
        seen.add(problem.id)


def _generate(name: str, source: ProblemSource, purpose: str) -> Iterable[Problem] | None:
    """Return the problems of a generator, or None if the name is not a generator."""
    if name not in GENERATORS and not name.startswith(("gym:", "shapes:")):
        return None
    if source.verifier:
        raise UserError(f"{name} has its own verifier; leave verifier empty")
    split = source.split or purpose
    lenient = source.extraction == "lenient"
    limit = 0 if source.held_out else source.limit  # a held-out share is taken of all problems
    try:
        if name == "countdown":
            return countdown.problems(split, source.numbers, source.largest, source.replies, limit)
        if name == "signs":
            return signs.problems(split, source.lines, source.numbers, source.largest, source.replies, limit)
        if name.startswith("shapes"):
            return shapes.problems(split, name.partition(":")[2], source.level, source.replies, source.extraction)
        return gym.problems(name.removeprefix("gym:"), split, source.size, source.gym, lenient, source.partial_scores)
    except ValueError as err:
        raise UserError(str(err)) from err


def _read_problems(
    name: str, source: ProblemSource, seed: int, purpose: str, given: object = None
) -> Iterator[Problem]:
    suite = find_suite(name)
    answer_format = answer_format_of(replace(source, source=name))
    refuse_unread_columns(source, answer_format)
    defaults = suite or Columns()
    columns = Columns(
        question=source.question or defaults.question,
        answer=source.answer or defaults.answer,
        tools=source.tools or defaults.tools,
        options=source.options or defaults.options,
        context=source.context or defaults.context,
        images=source.images or defaults.images,
        in_order=any((source.reply, source.merged, source.failure, source.chosen)),
    )
    title = name if suite or name.startswith("hub:") else Path(name).name or Path(name).absolute().name
    splits = (source.split or purpose,)
    rows = _rows(name, source, suite, purpose) if given is None else object_rows(given, splits)
    return (_problem(row, title, source, answer_format, columns, seed) for row in rows)


def _rows(name: str, source: ProblemSource, suite: Suite | None, purpose: str) -> Iterator[Row]:
    if name.startswith("hub:"):
        return hub_rows(name.removeprefix("hub:"), source.subsets, source.split or purpose)
    if suite is None:
        if is_data_name(name):
            return read_rows(Path(name), splits=(source.split or purpose,))
        raise unknown_source(name, GENERATORS)
    rows = (
        read_rows(_local_file(name, suite, source, purpose))
        if source.data
        else _suite_rows_on_hub(name, suite, source, purpose)
    )
    if suite.read is not None:
        rows = map(suite.read, rows)
    if suite.row_filter is None:
        return rows
    column, value = suite.row_filter
    return (row for row in rows if str(row.value(column)) == value)


def _suite_rows_on_hub(name: str, suite: Suite, source: ProblemSource, purpose: str) -> Iterator[Row]:
    split = _pick_split(name, suite, source.split, purpose)
    if suite.files:
        return joined_rows(suite.hub, *suite.files)
    hint = (
        "; if the data set is gated, accept its terms on its page and run `hf auth login`; if it has moved, put a copy "
        f"into a folder, as FOLDER/{name}.parquet, and set data=FOLDER (problems.data)"
    )
    return hub_rows(suite.hub, source.subsets or suite.subsets, suite.splits[split], hint)


def _pick_split(name: str, suite: Suite, asked: str, purpose: str) -> str:
    try:
        return suite.pick_split(asked, purpose)
    except ValueError as err:
        raise UserError(f"{name} has {err}") from err


def _local_file(name: str, suite: Suite, source: ProblemSource, purpose: str) -> Path:
    """Return the file with the suite in the data folder. It may have splits that the hub does not have, if asked for."""
    is_local_split = source.split and source.split not in suite.splits.values()
    split = source.split if is_local_split else _pick_split(name, suite, source.split, purpose)
    splits = dict.fromkeys((source.split or purpose, suite.splits.get(split, split)))  # our name, then the hub's
    names = (name, *suite.local_names)
    files = [f"{folder}/{file}" for file in splits for folder in names]
    files += names if split in suite.splits else ()
    for file in files:
        for ending in LOCAL_ENDINGS:
            if (path := Path(source.data) / f"{file}.{ending}").is_file():
                return path
    flat = f" or {name}.parquet" if name in files else ""
    raise UserError(f"{source.data} has no {files[0]}.parquet{flat} (nor .jsonl, .json, .csv)")


def _problem(
    row: Row, title: str, source: ProblemSource, answer_format: AnswerFormat, columns: Columns, seed: int
) -> Problem:
    shown = tuple(_demonstrations(row, source))
    ident = row.text(source.id) if source.id else f"{title}/{row.n}"
    suite = row.text(source.suite) if source.suite else title
    problem = read_problem(answer_format, row, columns, seed, ident, suite, source.extraction)
    if problem.verify in VALUES:
        choice.refuse_hidden_options(row, problem.question)
    return replace(
        problem,
        demonstrate=(lambda _seed: shown) if shown else None,
        failure=reply_text(row, source.failure) if source.failure else None,
        preference=_preference(row, source),
    )


def _demonstrations(row: Row, source: ProblemSource) -> Iterator[Demonstration]:
    """Yield the row's replies to imitate: an answer or the refinement of a draft, and an answer merged from candidates."""
    if source.reply and (row.has(source.reply) or not source.merged):
        draft = (reply_text(row, source.draft),) if source.draft else ()
        yield Demonstration(reply_text(row, source.reply), "refine" if draft else "solve", draft)
    if source.merged and row.has(source.merged):
        yield Demonstration(reply_text(row, source.merged), "merge", _candidates(row, source.candidates))


def _preference(row: Row, source: ProblemSource) -> tuple[Demonstration, Demonstration] | None:
    """Return the row's chosen and rejected reply: two answers, or two refinements of one draft."""
    if not source.chosen:
        return None
    draft = (reply_text(row, source.draft),) if source.draft else ()
    phase = "refine" if draft else "solve"
    chosen = Demonstration(reply_text(row, source.chosen), phase, draft)
    return chosen, Demonstration(reply_text(row, source.rejected), phase, draft)


def _candidates(row: Row, names: str) -> tuple[str, ...]:
    found = row.value(names)
    if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
        raise UserError(f"{row.location}: the column {names!r} is not a list of replies")
    return tuple(found)
