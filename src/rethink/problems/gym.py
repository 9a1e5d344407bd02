"""Any task of reasoning-gym (arXiv 2505.24760) by name: more than 100 generators of problems, each with its own check.

    problems("chain_sum", "train", 500, {"max_terms": 4})

It needs the extra `gym`. Differences from the package:

- An answer is right only if its score is 1.0. The package's partial scores, rewards for wrong answers, are off by default
  (`problems.partial_scores`).
- Each answer is checked in its own process, which is locked in (docs/security.md). Where the package would evaluate
  what the model wrote, only literals and formulas reach the check (`gym_answers`).
- A hash of a question's text decides its split, and a question occurs once. In a third of the package's tasks, data sets
  of two seeds share questions. Some tasks have few different questions in all (tower_of_hanoi about 90).
- Several tasks iterate over sets of words, so a subprocess with a fixed PYTHONHASHSEED generates the problems. If a check
  reproduces a different question from the one that was asked, the answer is not graded.

The checks are the package's. Tasks in UNUSABLE are refused, because their checks are unfit for training. Of the 102
others in version 0.1.25, 97 accept their own answer. Five (boxnet, graph_color, propositional_logic, rubiks_cube,
rush_hour) have only a check and no answer: their gold answer is the text NO_GOLD, which the check does not accept. A dozen
tasks accept a right answer with more text around it (gsm_symbolic, spell_backward, kakurasu, ...).
"""

from __future__ import annotations

import copy
import difflib
import importlib.util
import json
import operator
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import redirect_stdout, suppress
from dataclasses import astuple, dataclass, replace
from functools import lru_cache, partial
from itertools import count
from typing import Any

from rethink.errors import UserError, install_extra
from rethink.grading.extract import answer_tag
from rethink.grading.pool import grade_in_worker
from rethink.grading.process import bare_environment, isolated
from rethink.problems import gym_answers
from rethink.seeds import stable_hash
from rethink.thinking import after_thinking
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
"""Characters. Longer answers are wrong without a check. The largest grids have about 2,000."""
DATA_SET_SIZE = 500
"""Problems come from data sets of this size, one after another, so a longer list begins with the shorter one."""
MAX_FAILED_DRAWS = 500
"""Give up after this many entries in a row without a new question of the split."""

# A malformed answer makes some checks raise one of these. It is wrong if the same check accepts the gold answer.
_UNREADABLE = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, SyntaxError)


@dataclass(frozen=True)
class EntryKey:
    """What a check needs to reproduce a problem: the task, its settings as JSON, the data set's seed, the index in the data
    set, and the hash of the question."""

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
    """Return `size` problems of a split ("train", "validation" or "test") of a task with these settings.

    With `lenient`, the last line of a reply without an answer tag is graded. With `partial_scores`, the score of the check
    is the reward. Raise UserError if the package is missing, or for an unknown task, split or setting.
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
            id=f"gym:{name}:{key.fingerprint:016x}",
            question=question,
            gold=gold,
            verify=partial(_grade, key=key, lenient=lenient, partial_scores=partial_scores),
            solve=SOLVE,
            suite=f"gym:{name}",
            extract_answer=partial(extract_answer, lenient=lenient),
            equal_answers=operator.eq,
        )
        for key, question, gold in _generate(name, split, size, _settings_json(name, settings or {}))
    ]


def prepare() -> None:
    """Import the package, which takes seconds that must not count towards an answer's time limit."""
    import reasoning_gym  # noqa: F401


def remember_problem(task: str, settings: str, seed: int, index: int, fingerprint: int, answer: str) -> None:
    """Generate the problem in the worker itself, so that each check of its answers need not."""
    with suppress(Exception):  # the check raises it again
        _entry(EntryKey(task, settings, seed, index, fingerprint))


def score(task: str, settings: str, seed: int, index: int, fingerprint: int, answer: str) -> tuple[Any, ...]:
    """Return the fields of a verdict: right if the task's check gives the answer 1.0, with the score if it is in between.

    Not graded if the check cannot reproduce the problem.
    """
    key = EntryKey(task, settings, seed, index, fingerprint)
    entry = _entry(key)
    if _fingerprint(entry["question"]) != fingerprint:
        return astuple(Verdict(None, "the task generated a different question from the one that was asked"))
    if not gym_answers.readable(task, answer) and answer.strip() != str(entry["answer"]).strip():
        return astuple(Verdict(False, "the answer is not a formula"))
    gym_answers.disarm(task)
    try:
        value = _score(key, answer)
    except _UNREADABLE as err:
        gold = _entry(key)["answer"]
        if gold is not None and _score(key, gold) < 1.0:
            raise
        return astuple(Verdict(False, f"the task's check cannot read the answer ({type(err).__name__})"))
    partial_score = value if 0.0 < value < 1.0 else None
    return astuple(Verdict(value >= 1.0, f"the task's check gives {value:.3g} of 1", score=partial_score))


def _score(key: EntryKey, answer: str) -> float:
    data_set = _data_set(key.task, key.settings, key.seed)
    entry = copy.deepcopy(_entry(key))  # because checks may change the entry
    return float(data_set.score_answer(answer, entry))


def _grade(reply: str, gold: str, key: EntryKey, lenient: bool, partial_scores: bool = False) -> Verdict:
    found, is_lenient = _extract(reply, lenient)
    if found is None:
        return Verdict(False, "no answer tag", None)
    if len(found) > MAX_ANSWER:
        return Verdict(False, f"the answer has {len(found)} characters", found[:100], is_lenient)
    verdict = grade_in_worker("gym", [*astuple(key), found])
    score = verdict.score if partial_scores else None
    return replace(verdict, extracted=found, lenient=is_lenient, score=score)


def extract_answer(reply: str, lenient: bool, question: str = "") -> str | None:
    """Return the text to pass to the task's check; None if there is none or it is too long."""
    found, _ = _extract(reply, lenient)
    return None if found is None or len(found) > MAX_ANSWER else found


def _extract(reply: str, lenient: bool) -> tuple[str | None, bool]:
    """Return the text in the answer tag, if there is one, and whether lenient extraction was needed."""
    text = after_thinking(reply)
    tag = answer_tag(text)
    if tag is not None or not lenient:
        return tag, False
    return next((line.strip() for line in reversed(text.split("\n")) if line.strip()), None), True


def _settings_json(name: str, settings: Mapping[str, Any]) -> str:
    reserved = {"seed", "size"} & set(settings)
    if reserved:
        raise UserError(
            f"gym:{name}: the settings {' and '.join(sorted(reserved))} are reserved; use problems.split and problems.size"
        )
    try:
        return json.dumps(settings, sort_keys=True)
    except TypeError as err:
        raise UserError(f"gym:{name}: settings must be numbers, texts, lists or tables ({err})") from err


def _generate(name: str, split: str, size: int, settings: str) -> list[tuple[EntryKey, str, str]]:
    """Generate problems in a subprocess with a fixed PYTHONHASHSEED."""
    process = subprocess.run(
        isolated("rethink.problems.gym", name, split, size, settings),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
        env=bare_environment(),
    )
    if process.returncode:
        raise UserError(f"gym:{name}: generating problems failed: {process.stderr.strip()[-500:]}")
    generated = json.loads(process.stdout)
    if isinstance(generated, str):
        raise UserError(f"gym:{name}{generated}")
    return [(EntryKey(*key), question, gold) for key, question, gold in generated]


def main(name: str, split: str, size: str, settings: str) -> None:
    """Print problems as JSON, or the text of an error: what the subprocess of `_generate` runs."""
    out = sys.stdout
    with redirect_stdout(sys.stderr):  # some tasks print
        try:
            generated: Any = list(_generate_entries(name, split, int(size), settings))
        except UserError as err:
            generated = str(err)
    json.dump(generated, out)


def _generate_entries(name: str, split: str, size: int, settings: str) -> Iterator[tuple[tuple[Any, ...], str, str]]:
    from reasoning_gym.factory import DATASETS

    if name not in DATASETS:
        near = ", ".join(difflib.get_close_matches(name, DATASETS, n=3))
        raise UserError(f" is not a task of reasoning-gym{near and f'; did you mean {near}?'}")
    seen: set[int] = set()
    n_failed, failure = 0, ""
    for n in count():
        key = EntryKey(name, settings, stable_hash("gym", name, split, n // DATA_SET_SIZE) % 2**31, n % DATA_SET_SIZE)
        _data_set(key.task, key.settings, key.seed)
        n_failed += 1
        try:
            entry = _entry(key)
        except Exception as err:  # some generators give up after a hundred tries; the next entry may succeed
            failure = f"; the last failure was {type(err).__name__}: {err}"
        else:
            fingerprint = _fingerprint(entry["question"])
            if fingerprint % 4 in SPLITS[split] and fingerprint not in seen:
                seen.add(fingerprint)
                n_failed = 0
                gold = NO_GOLD if entry["answer"] is None else str(entry["answer"])
                yield astuple(replace(key, fingerprint=fingerprint)), entry["question"], gold
        if len(seen) == size:
            return
        if n_failed == MAX_FAILED_DRAWS:
            raise UserError(f" has only about {len(seen)} different questions for {split}, not {size}{failure}")


@lru_cache(maxsize=16)
def _data_set(name: str, settings: str, seed: int) -> Any:
    import reasoning_gym

    try:
        return reasoning_gym.create_dataset(name, seed=seed, size=DATA_SET_SIZE, **json.loads(settings))
    except (TypeError, ValueError, AssertionError, AttributeError) as err:
        raise UserError(f" refuses these settings: {err or type(err).__name__}") from err


@lru_cache(maxsize=1)  # no worker holds other problems' answers
def _entry(key: EntryKey) -> dict[str, Any]:
    return _data_set(key.task, key.settings, key.seed)[key.index]


def _fingerprint(question: str) -> int:
    return stable_hash("gym", " ".join(question.split()))


if __name__ == "__main__":
    main(*sys.argv[1:])
