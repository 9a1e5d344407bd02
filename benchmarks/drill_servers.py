"""Servers: evaluate against a server that fails in one of a hundred ways (tests/support/server_faults.py), at the first
request, the third, every other, or always; then resume against a sound server.

The command must end in time and without a traceback. What was answered must be kept. A resumed evaluation must be complete.
"""

from __future__ import annotations

import json
import random
import re
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from drill_commands import HELD, Command, Ended, Trial
from support.server_faults import FAULTS, TIMES, faulty_server

N_QUESTIONS = 6
LIMIT_S = 90.0
"""A request may take two seconds here, and is sent at most three times; the rest is the time to start and to wait."""


def trials(scratch: Path, n: int, seed: int) -> Iterator[Callable[[], Trial]]:
    """Yield trials: all faults at all times, in random order, again from the start if there are more trials."""
    rows = [json.dumps({"question": f"Say {i}.", "answer": str(i)}) for i in range(N_QUESTIONS)]
    (scratch / "questions.jsonl").write_text("\n".join(rows) + "\n")
    pairs = [(fault, when) for fault in FAULTS for when in TIMES]
    random.Random(seed).shuffle(pairs)
    for i in range(n):
        fault, when = pairs[i % len(pairs)]
        yield partial(evaluate, scratch, i, fault, when)


def evaluate(scratch: Path, number: int, fault: str, when: str) -> Trial:
    folder = scratch / "trials" / str(number)
    shutil.rmtree(folder, ignore_errors=True)
    name, kind = f"{number}: {fault}, {when}", f"fault at the {when}" if when in ("first", "third") else f"fault {when}"
    with faulty_server(fault, TIMES[when], _answer) as server:
        ended = _eval(folder, server.url)
        served = {question for i, question in enumerate(server.asked) if not TIMES[when](i, question)}
    if ended.code is None:
        return Trial(name, kind, "hung", ended.tail)
    if ended.code not in (0, 1, 2) or "Traceback" in ended.output:
        return Trial(name, kind, "crashed", ended.tail)
    kept = {record["question"] for record in _records(folder) if record["right"]}
    if when == "always" and FAULTS[fault][0] == "error" and ended.code == 0:
        return Trial(name, kind, "silent", ended.tail)
    if when == "first" and FAULTS[fault][0] == "answered" and len(kept) < N_QUESTIONS:
        return Trial(name, kind, "lost", f"a request that could be repeated was not: {ended.tail}")
    answers = folder / "run" / "answers.jsonl"
    before = answers.read_bytes() if answers.exists() else b""
    with faulty_server(fault, lambda n, question: False, _answer) as server:
        resumed = _eval(folder, server.url, *(["--resume"] if (folder / "run").exists() else []))
        asked_again = served & set(server.asked)
    if asked_again:
        return Trial(name, kind, "lost", f"answered, and asked again: {sorted(map(_number, asked_again))}")
    if resumed.code not in (0, 1) or len(_records(folder)) != N_QUESTIONS:
        return Trial(name, kind, "lost", f"not resumed: {resumed.tail}")
    if not answers.read_bytes().startswith(before):
        return Trial(name, kind, "lost", "the resumed evaluation changed answers")
    shutil.rmtree(folder)
    return Trial(name, kind, HELD, f"exit code {ended.code}")


def _eval(folder: Path, url: str, *more: str) -> Ended:
    settings = [f"endpoint.url={url}", "endpoint.timeout_s=1", "endpoint.retries=2", "endpoint.concurrency=1"]
    command = ["eval", "the-model", "--on", "../../questions.jsonl", "--strategy", "solve", "--out", "run", *settings]
    return Command(folder, [*command, *more]).wait(LIMIT_S)


def _answer(question: str) -> str:
    return f"\\boxed{{{_number(question)}}}"


def _number(question: str) -> str:
    found = re.search(r"Say (\d+)", question)
    return found[1] if found else ""


def _records(folder: Path) -> list[dict[str, object]]:
    """Return the number in the question, and whether the answer was right, for each answer that is kept."""
    file = folder / "run" / "answers.jsonl"
    found = []
    for line in file.read_text().splitlines() if file.exists() else ():
        record = json.loads(line)
        steps = record["steps"]
        found.append({"question": _number(record["question"]), "right": bool(steps) and steps[0]["verdict"] == "right"})
    return found
