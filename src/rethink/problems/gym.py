"""Any task of reasoning-gym (arXiv 2505.24760) by its name: more than 100 generators of problems, each with its own check.

    problems("chain_sum", "train", 500, {"max_terms": 4})

Needs the extra `gym`. What differs from the package:

- An answer is right only if its score is 1.0. The package's partial scores, rewards for wrong answers, are off by default
  (`problems.partial_scores`).
- Checks evaluate what the model wrote, some by a parser that runs code, so they run in a worker that can be killed.
- A question belongs to one split, by a hash of its text, and occurs once: two sets that the package makes of two seeds
  share questions in a third of its tasks. Some have few different questions in all (tower_of_hanoi about 90).
- Problems are made in a process in which Python hashes text the same way every time, as several tasks go through sets of
  words. A check that meets another question than the one that was asked gives no verdict.

The checks are the package's own. Those of the tasks in UNUSABLE are not fit for training, and these are refused. Of the 102
others in version 0.1.25, 97 accept their own answer. Five (boxnet, graph_color, propositional_logic, rubiks_cube,
rush_hour) have none, only a check: their gold answer is the text NO_GOLD, which is not accepted either. A right answer with
more text around it passes in a dozen tasks (gsm_symbolic, spell_backward, kakurasu, ...).
"""

from __future__ import annotations

import copy
import difflib
import importlib.util
import json
import operator
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import redirect_stdout
from dataclasses import astuple, dataclass, replace
from functools import lru_cache, partial
from itertools import count
from typing import Any

from rethink.errors import UserError, install_extra
from rethink.grading.extract import after_thinking, answer_tag
from rethink.grading.pool import grade_in_worker
from rethink.seeds import stable_hash
from rethink.types import Problem, Verdict

SOLVE = (
    "{question}\n\nReason step by step. Then give the final answer alone, in exactly the form that is asked for, between "
    "answer tags: <answer>your answer</answer>."
)

SPLITS = {"train": range(2), "validation": range(2, 3), "test": range(3, 4)}
NO_GOLD = "(every answer that passes the task's check)"
UNUSABLE = {
    "codeio": "some of its questions differ from run to run",
    "composite": "it only mixes other tasks; name these one by one",
    "game_of_life_halting": "its check accepts every text",
    "puzzle24": "its check accepts any four numbers that make 24, so one expression would solve all problems",
}
MAX_ANSWER = 20_000
"""Characters; a longer answer is wrong without a look. The largest grids have some 2,000."""
CHUNK = 500
"""Problems come from data sets of this size, one after another, so that a longer list begins with the shorter one."""
MAX_IN_VAIN = 500
"""After this many draws in a row without a new question of the split there are taken to be no more."""

# A broken answer makes some checks raise one of these: it is wrong if the same check accepts the gold answer.
_UNREADABLE = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, SyntaxError)


@dataclass(frozen=True)
class Draw:
    """What a check needs to make a problem again: the task's settings as JSON, the data set's seed, the index in it, and
    the question's hash."""

    task: str
    settings: str
    seed: int
    index: int
    fingerprint: int = 0


def problems(
    name: str,
    split: str,
    size: int,
    settings: Mapping[str, Any] | None = None,
    lenient: bool = False,
    partial_scores: bool = False,
) -> list[Problem]:
    """`size` problems of a split ("train", "validation" or "test") of a task with its settings; with `lenient` a reply
    without an answer tag is graded by its last line, and with `partial_scores` the check's score is the reward.

    Raises UserError where the package is missing, and for a task, split or settings that it does not have.
    """
    if importlib.util.find_spec("reasoning_gym") is None:
        raise UserError(f"gym tasks need the package reasoning-gym: {install_extra('gym')}")
    if split not in SPLITS:
        raise UserError(f"gym tasks have the splits {', '.join(SPLITS)}, not {split!r}")
    if size < 1:
        raise UserError(f"gym:{name}: size must be at least 1, not {size}")
    if name in UNUSABLE:
        raise UserError(f"gym:{name} cannot be used: {UNUSABLE[name]}")
    return [
        Problem(
            id=f"gym:{name}:{draw.fingerprint:016x}",
            question=question,
            gold=gold,
            verify=partial(_grade, draw=draw, lenient=lenient, partial_scores=partial_scores),
            solve=SOLVE,
            suite=f"gym:{name}",
            extract_answer=partial(answer, lenient=lenient),
            equal_answers=operator.eq,
        )
        for draw, question, gold in _make(name, split, size, _canonical(name, settings or {}))
    ]


def prepare() -> None:
    """Import the package: seconds that are not an answer's fault."""
    import reasoning_gym  # noqa: F401


def score(task: str, settings: str, seed: int, index: int, fingerprint: int, answer: str) -> tuple[Any, ...]:
    """Return a verdict's fields: right if the task's check gives the answer 1.0, with the score where it is neither 0 nor
    1; not graded where the check cannot make the problem again."""
    draw = Draw(task, settings, seed, index, fingerprint)
    if _fingerprint(_entry(draw)["question"]) != fingerprint:
        return astuple(Verdict(None, "the task made another question than the one that was asked"))
    try:
        got = _score(draw, answer)
    except _UNREADABLE as err:
        gold = _entry(draw)["answer"]
        if gold is not None and _score(draw, gold) < 1.0:
            raise
        return astuple(Verdict(False, f"the task's check cannot read the answer ({type(err).__name__})"))
    between = got if 0.0 < got < 1.0 else None
    return astuple(Verdict(got >= 1.0, f"the task's check gives {got:.3g} of 1", score=between))


def _score(draw: Draw, answer: str) -> float:
    data_set = _data_set(draw.task, draw.settings, draw.seed)
    return float(data_set.score_answer(answer, copy.deepcopy(_entry(draw))))  # a copy, as checks may change the entry


def _grade(reply: str, gold: str, draw: Draw, lenient: bool, partial_scores: bool = False) -> Verdict:
    found, loose = _extract(reply, lenient)
    if found is None:
        return Verdict(False, "no answer tag", None)
    if len(found) > MAX_ANSWER:
        return Verdict(False, f"the answer has {len(found)} characters", found[:100], loose)
    verdict = grade_in_worker("gym", [*astuple(draw), found])
    score = verdict.score if partial_scores else None
    return replace(verdict, extracted=found, lenient=loose, score=score)


def answer(reply: str, lenient: bool, question: str = "") -> str | None:
    """The text that the task's check gets to see; None also for what is too long for it."""
    found, _ = _extract(reply, lenient)
    return None if found is None or len(found) > MAX_ANSWER else found


def _extract(reply: str, lenient: bool) -> tuple[str | None, bool]:
    """The text in the answer tag, if there is one, and whether it took lenient extraction."""
    text = after_thinking(reply)
    tag = answer_tag(text)
    if tag is not None or not lenient:
        return tag, False
    return next((line.strip() for line in reversed(text.split("\n")) if line.strip()), None), True


def _canonical(name: str, settings: Mapping[str, Any]) -> str:
    taken = {"seed", "size"} & set(settings)
    if taken:
        raise UserError(
            f"gym:{name}: {' and '.join(sorted(taken))} cannot be set; the split gives the one, size the other"
        )
    try:
        return json.dumps(settings, sort_keys=True)
    except TypeError as err:
        raise UserError(f"gym:{name}: settings must be numbers, texts, lists or tables ({err})") from err


def _make(name: str, split: str, size: int, settings: str) -> list[tuple[Draw, str, str]]:
    """The problems, made in a process of its own, for what is said above about hashes."""
    made = subprocess.run(
        [sys.executable, "-m", "rethink.problems.gym", name, split, str(size), settings],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONHASHSEED": "0", "PYTHONIOENCODING": "utf-8"},
    )
    if made.returncode:
        raise UserError(f"gym:{name}: making problems failed: {made.stderr.strip()[-500:]}")
    answer = json.loads(made.stdout)
    if isinstance(answer, str):
        raise UserError(f"gym:{name}{answer}")
    return [(Draw(*draw), question, gold) for draw, question, gold in answer]


def main(name: str, split: str, size: str, settings: str) -> None:
    """The side of the process that makes problems: prints them as JSON, or the text of an error."""
    out = sys.stdout
    with redirect_stdout(sys.stderr):  # some tasks print
        try:
            answer: Any = list(_drawn(name, split, int(size), settings))
        except UserError as err:
            answer = str(err)
    json.dump(answer, out)


def _drawn(name: str, split: str, size: int, settings: str) -> Iterator[tuple[tuple[Any, ...], str, str]]:
    from reasoning_gym.factory import DATASETS

    if name not in DATASETS:
        near = ", ".join(difflib.get_close_matches(name, DATASETS, n=3))
        raise UserError(f" is no task of reasoning-gym{near and f'; did you mean {near}?'}")
    seen: set[int] = set()
    in_vain, failure = 0, ""
    for n in count():
        draw = Draw(name, settings, stable_hash("gym", name, split, n // CHUNK) % 2**31, n % CHUNK)
        _data_set(draw.task, draw.settings, draw.seed)
        in_vain += 1
        try:
            entry = _entry(draw)
        except Exception as err:  # some generators try a hundred times and give up; the next one may succeed
            failure = f"; the last failure was {type(err).__name__}: {err}"
        else:
            fingerprint = _fingerprint(entry["question"])
            if fingerprint % 4 in SPLITS[split] and fingerprint not in seen:
                seen.add(fingerprint)
                in_vain = 0
                gold = NO_GOLD if entry["answer"] is None else str(entry["answer"])
                yield astuple(replace(draw, fingerprint=fingerprint)), entry["question"], gold
        if len(seen) == size:
            return
        if in_vain == MAX_IN_VAIN:
            raise UserError(f" makes only about {len(seen)} different questions for {split}, not {size}{failure}")


@lru_cache(maxsize=16)
def _data_set(name: str, settings: str, seed: int) -> Any:
    import reasoning_gym

    try:
        return reasoning_gym.create_dataset(name, seed=seed, size=CHUNK, **json.loads(settings))
    except (TypeError, ValueError, AssertionError, AttributeError) as err:
        raise UserError(f" refuses these settings: {err or type(err).__name__}") from err


@lru_cache(maxsize=1024)
def _entry(draw: Draw) -> dict[str, Any]:
    return _data_set(draw.task, draw.settings, draw.seed)[draw.index]


def _fingerprint(question: str) -> int:
    return stable_hash("gym", " ".join(question.split()))


if __name__ == "__main__":
    main(*sys.argv[1:])
