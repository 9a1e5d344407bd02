"""Existing drafts: from an earlier evaluation, or from a file with a column of any model's replies."""

from __future__ import annotations

import json
import re
import warnings
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from rethink.errors import UserError
from rethink.evaluation.answers import first_answers, is_answers_file, read_answers
from rethink.evaluation.evaluate import Drafts
from rethink.evaluation.other_tools import reply_rows
from rethink.evaluation.unchanged import ANSWERS_FILE
from rethink.grading.damage import broken_reply
from rethink.images import Image, mark_places
from rethink.problems.answer_format import read_problem
from rethink.problems.conversation import last_reply, split_conversation
from rethink.problems.rows import Columns, Row
from rethink.problems.source import find_answer_format, refuse_unread_columns
from rethink.settings import ProblemSource
from rethink.types import Message, Problem


@dataclass(frozen=True)
class DraftColumns:
    """Names of the columns in a file of drafts."""

    question: str = "question"
    answer: str = "answer"
    response: str = "response"


def load_drafts(
    file: str | Path,
    problems: Sequence[Problem] | None = None,
    *,
    question: str = "question",
    answer: str = "answer",
    response: str = "response",
    verifier: str = "",
    lenient: bool = False,
) -> tuple[list[Problem], Drafts]:
    r"""Return the problems and drafts in a file of replies, in the answers of an evaluation, or in a log of inspect_ai,
    lm-evaluation-harness or lighteval, for the argument `drafts` of `evaluate`.

    With `problems`, a reply belongs to the problem with its question, and problems without a reply are left out. Without,
    the columns `question` and `answer` make the problems; `verifier` (default: "boxed") and `lenient` say how they are
    graded, as in `grade`. `response` is the column of the reply; a log has all three under these names. Raise UserError
    for a question that none of the problems has, and for a file without replies.

    >>> import json, pathlib, rethink
    >>> rows = [{"question": "2 + 2?", "answer": "4", "response": "It is 5."}]
    >>> _ = pathlib.Path("replies.jsonl").write_text("\n".join(map(json.dumps, rows)))
    >>> problems, drafts = rethink.load_drafts("replies.jsonl", lenient=True)
    >>> from rethink.policies.fake import FakePolicy
    >>> policy = FakePolicy(lambda prompt, index, version: "No, it is 4.")
    >>> (found,) = rethink.evaluate(policy, problems, drafts=drafts)
    >>> [step.right for step in found.steps]
    [False, True]
    """
    path, known = Path(file), None if problems is None else list(problems)
    if known is not None and (verifier or lenient):
        raise UserError("verifier and lenient have no effect with problems, which bring their own verifiers")
    answers = path / ANSWERS_FILE if path.is_dir() and (path / ANSWERS_FILE).is_file() else path
    if is_answers_file(answers):
        if known is None:
            raise UserError(f"{path} is an evaluation of ours: give its problems, which load_problems returns")
        return drafts_from_answers(answers, known)
    extraction: Literal["strict", "lenient"] = "lenient" if lenient else "strict"
    source = ProblemSource(str(path), verifier=verifier, extraction=extraction)
    return read_drafts(path, source, DraftColumns(question, answer, response), known)


def drafts_from_answers(file: Path, problems: Sequence[Problem], limit: int = 0) -> tuple[list[Problem], Drafts]:
    """Return the first answers that an evaluation wrote (the first `limit`; 0 for all) and their problems. Those that a
    server failed to give are left out, with a warning. Raise UserError for drafts of other problems, even with the same
    ids.
    """
    answers = read_answers(file)
    known = {p.id: p.question for p in problems}
    for answer in answers:
        if known.get(answer.problem) != answer.question:
            why = (
                f"the question of {answer.problem} differs"
                if answer.problem in known
                else f"{answer.problem} is missing"
            )
            raise UserError(f"{file} has drafts for problems other than the given ones: {why}")
    drafts: dict[str, list[str]] = defaultdict(list)
    firsts = first_answers(answers)[: limit or None]
    for problem, draft in firsts:
        if draft.stop != "failed":
            drafts[problem].append(draft.text)
    if not drafts:
        raise UserError(f"{file} has no drafts")
    _warn_of_missing(file, len(firsts) - sum(map(len, drafts.values())), len(firsts), "drafts failed at the server")
    return [p for p in problems if p.id in drafts], dict(drafts)


def read_drafts(
    file: Path, source: ProblemSource, columns: DraftColumns, problems: Sequence[Problem] | None, seed: int = 0
) -> tuple[list[Problem], Drafts]:
    """Return the problems and drafts in a file with one draft, or a list of drafts, per row, or in another tool's log.

    With `problems`, a row belongs to the problem with its question; the row may add an instruction after the question.
    Otherwise the question and answer columns of the first `source.limit` rows make the problems. Their options keep the
    letters of the file, which the drafts name; `seed` orders options that have none there. Rows without a reply are left
    out, with a warning. Raise UserError for a row whose question matches no problem, or several that differ.
    """
    found: dict[str, Problem] = {}
    drafts: dict[str, list[str]] = defaultdict(list)
    index: dict[str, list[Problem]] = defaultdict(list)
    for known in problems or ():
        index[_collapse_spaces(known.question)].append(known)
    by_content: dict[object, Problem] = {}
    limit = source.limit if problems is None and source.limit else None
    n_replies = n_missing = 0
    for row in islice(reply_rows(file), limit):
        if problems is None:
            new = _problem_of_row(row, file, source, columns, seed)
            asked = [by_content.setdefault((new.earlier, new.question, new.images, new.gold, new.suite), new)]
        else:
            asked = _find_problems(row, index, columns.question, source.images)
        for reply in replies_in(row.value(columns.response)):
            n_replies += 1
            if reply is None or not reply.strip():
                n_missing += 1
                continue
            fault = broken_reply(reply)
            if fault:
                raise UserError(f"{row.location}: the column {columns.response!r}: {fault}")
            for problem in asked:
                found[problem.id] = problem
                drafts[problem.id].append(reply)
    if not n_replies:
        raise UserError(f"{file} has no rows")
    if not found:
        raise UserError(f"{file} has no replies: the column {columns.response!r} is empty in all rows")
    _warn_of_missing(file, n_missing, n_replies, "replies are empty")
    return list(found.values()), dict(drafts)


def _warn_of_missing(file: Path, n_missing: int, n: int, what: str) -> None:
    if n_missing:
        warnings.warn(f"{file}: {n_missing} of {n} {what}, and are left out", stacklevel=3)


def with_enough_drafts(problems: Sequence[Problem], drafts: Drafts, n: int) -> list[Problem]:
    """Return the problems that have at least `n` drafts, with a warning about the others; all of them if none has so many,
    which `evaluate` refuses."""
    kept = [problem for problem in problems if len(drafts[problem.id]) >= n]
    if 0 < len(kept) < len(problems):
        few = len(problems) - len(kept)
        warnings.warn(f"{few} of {len(problems)} problems have fewer than {n} drafts, and are left out", stacklevel=3)
    return kept or list(problems)


def response_text(value: Any) -> str | None:
    """Return a reply as text: the last turn of a conversation, JSON for other values; None if there is no reply."""
    value = last_reply(value, "the reply")
    if value is None or value != value:
        return None
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return re.sub("[\ud800-\udfff]", "\ufffd", text)  # half of a surrogate pair cannot be written to a file


def replies_in(value: Any) -> list[str | None]:
    """Return the replies in a cell. A list of texts or of conversations holds several replies to one problem.

    One conversation is one reply, and so is a list of other objects, such as calls of functions.
    """
    if value == []:
        return [None]
    if isinstance(value, list) and not all(isinstance(item, dict) for item in value):
        return [response_text(item) for item in value]
    return [response_text(value)]


def _problem_of_row(row: Row, file: Path, source: ProblemSource, columns: DraftColumns, seed: int) -> Problem:
    answer_format = find_answer_format(source.verifier or "boxed", source)
    more = {
        name: getattr(source, name) or getattr(Columns(), name) for name in ("tools", "options", "context", "images")
    }
    refuse_unread_columns(source, answer_format)
    names = Columns(columns.question, columns.answer, **more, in_order=True)
    suite = row.text(source.suite) if source.suite else file.name
    return read_problem(answer_format, row, names, seed, f"{file.name}/{row.n}", suite, source.extraction)


def _find_problems(row: Row, index: dict[str, list[Problem]], column: str, images: str) -> list[Problem]:
    """Return the problem with a row's question; several if they are equal, as in suites that share some."""
    earlier, asked = split_conversation(row, column, images)
    content = mark_places(asked.content, len(asked.images), row.location) if asked.images else asked.content
    question = _collapse_spaces(content or row.text(column))
    if question not in index:
        longest = max((known for known in index if question.startswith(f"{known} ")), key=len, default=None)
        if longest is None:
            raise UserError(f"{row.location}: no problem named with --on has this question: {question[:80]!r}")
        question = longest
    return _tell_apart(index[question], row, earlier, asked.images)


def _tell_apart(
    found: list[Problem], row: Row, earlier: tuple[Message, ...], images: tuple[Image, ...]
) -> list[Problem]:
    """Return those of the problems with a row's question that the row means, by its images and the turns before."""
    if images:
        found = [p for p in found if p.images == images]
        if not found:
            raise UserError(
                f"{row.location}: no problem named with --on has this question about these images; images are compared by "
                "the bytes of their files, so if these were encoded again, leave their column out"
            )
    if len(found) > 1:
        found = [p for p in found if p.earlier == earlier] or found
    for other in found[1:]:
        if (other.earlier, other.images, other.gold) != (found[0].earlier, found[0].images, found[0].gold):
            way_out = (
                "remove one of them"
                if other.suite == found[0].suite
                else "name the suites one by one, with drafts for each"
            )
            raise UserError(
                f"{row.location}: {found[0].id} and {other.id} both have this question, and differ in the rest; which of "
                f"them the reply answers is open, so {way_out}"
            )
    return found


def _collapse_spaces(question: str) -> str:
    return " ".join(question.split())
