"""Grade answers whose right verdict is known, by rethink and by math-verify, and count the mistakes of both by kind.

    python benchmarks/grading.py [CASES.jsonl ...] [--pairs 10000] [--hostile 10000] [--seed 0] [--only pairs,replies]
                                 [--graders rethink,math-verify] [--out OUT.jsonl] [--before OUT.jsonl]

pairs     generated: equal in other dress, and different by one digit, sign, unit or name (tests/support/answer_dress.py)
hostile   what a policy under training could write (drill_answers.py); for some of them any verdict will do
cases     files with the columns gold, response, mode ("boxed strict"), right_outcome ("right or not judged")
replies   1,526 replies of Qwen3-4B, with the truth of tests/grading/traces.tsv (RETHINK_TEST_DATA, see tests/README.md)
refinements   these replies, reviewed: what people could end a refinement with (tests/support/refinements.py)

Of refinements, two more graders show what the rule for them does: "first-answers" grades by the rule for first answers,
and "last-box" takes the last box, whatever stands before it.

Each grader runs in a process of its own, which is killed after 20 seconds without a verdict. math-verify has its defaults
and its own timeouts; it gets answer and gold answer in a box, or the whole reply. Where it cannot parse the gold answer,
it has not judged. --before adds a column of an earlier run's --out.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import resource
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parent.parent / "tests"
sys.path.insert(0, str(TESTS))

LIMIT_S = 20.0
HANG_S = 8.0
"""More than a worker's limit and its restart."""
GRADERS = ("rethink", "math-verify")
PARTS = ("pairs", "hostile", "cases", "replies", "refinements")


@dataclass(frozen=True)
class Question:
    """A gold answer with an answer, or with a whole reply; `wanted` has the verdicts that are right."""

    kind: str
    gold: str
    answer: str
    wanted: tuple[str, ...]
    verifier: str = ""
    """Of a reply; "" if `answer` is only an answer."""
    lenient: bool = False
    refinement: bool = False


@dataclass(frozen=True)
class Outcome:
    """What a grader made of a question: "right", "wrong", "not judged", "crash" or "hang"."""

    grader: str
    kind: str
    gold: str
    answer: str
    wanted: tuple[str, ...]
    verdict: str
    reason: str
    seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", type=Path)
    parser.add_argument("--pairs", type=int, default=10_000)
    parser.add_argument("--hostile", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default=",".join(PARTS))
    parser.add_argument("--graders", default=",".join(GRADERS))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--before", type=Path)
    parser.add_argument("--show", type=int, default=10, help="mistakes to print per kind")
    given = parser.parse_args()
    questions = list(all_questions(given))
    before = right_before(given.before)
    if given.out:
        given.out.write_text("")
    for grader in given.graders.split(","):
        judge = Judge(grader)
        outcomes = []
        for question in questions:
            outcomes.append(judge.ask(question))
            if given.out:
                with given.out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(asdict(outcomes[-1])) + "\n")
        print(f"\n{grader}, seed {given.seed}\n")
        print_mistakes(outcomes, given.show)
        print_table(outcomes, before.get(grader, {}))
        print(f"\nlargest process of {grader}: {judge.close() / 2**20:.0f} MiB", flush=True)


def all_questions(given: argparse.Namespace) -> Iterator[Question]:
    parts = given.only.split(",")
    if "pairs" in parts:
        from support.answer_dress import pairs

        for pair in pairs(given.seed, given.pairs):
            kind = f"{pair.kind}, {'equal' if pair.equal else 'different'}"
            yield Question(kind, pair.gold, pair.answer, ("right",) if pair.equal else ("wrong",))
    if "hostile" in parts:
        from drill_answers import hostile

        for i in range(given.hostile):
            made = hostile(i, random.Random(f"{given.seed} {i}"), Path("/nonexistent/code-ran"))
            wanted = ("wrong",) if made.differs else ("right", "wrong", "not judged")
            yield Question(f"hostile: {made.kind}", made.gold, made.reply, wanted, made.verifier)
    if "cases" in parts:
        for file in given.cases:
            for line in file.read_text(encoding="utf-8").splitlines():
                row = json.loads(line)
                verifier, reading = row["mode"].split()
                wanted = tuple(row["right_outcome"].split(" or "))
                yield Question(
                    f"case: {row['kind']}", row["gold"], row["response"], wanted, verifier, reading == "lenient"
                )
    if "replies" in parts:
        yield from replies()
    if "refinements" in parts:
        from support.refinements import refinements

        bodies = dict(enumerate(row["response"] for row in read_traces()))
        for found in refinements(bodies):
            wanted = ("right",) if found.right else ("wrong",)
            kind = f"refinements, {found.kind}, {wanted[0]}"
            yield Question(kind, found.gold, found.reply, wanted, "boxed", refinement=True)


def read_traces() -> list[dict[str, Any]]:
    from pyarrow import parquet

    return parquet.read_table(Path(os.environ["RETHINK_TEST_DATA"]) / "traces" / "qwen3-4b.parquet").to_pylist()


def replies() -> Iterator[Question]:
    """Yield the real replies. Those that are not in the table are right if the data set's score is 1."""
    truths = {}
    for line in (TESTS / "grading" / "traces.tsv").read_text(encoding="utf-8").splitlines()[1:]:
        row, _, truth, *_ = line.split("\t")
        truths[int(row)] = "right" if truth == "right" else "wrong"
    for n, found in enumerate(read_traces()):
        truth = truths.get(n, "right" if float(found["score"]) == 1 else "wrong")
        yield Question(f"replies of Qwen3-4B, {truth}", found["ground_truth"], found["response"], (truth,), "boxed")


class Judge:
    """A grader in a process of its own, which is replaced when it hangs or ends."""

    def __init__(self, grader: str) -> None:
        self.grader = grader
        self.largest = 0
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(self.grader, theirs))
        self.process.start()
        theirs.close()
        self.pipe.recv()  # it has imported everything

    def ask(self, question: Question) -> Outcome:
        start = time.monotonic()
        verdict, reason, seconds = "hang", "", LIMIT_S
        try:
            self.pipe.send(question)
            if self.pipe.poll(LIMIT_S):
                verdict, reason, seconds = self.pipe.recv()
        except (EOFError, OSError):
            verdict, reason, seconds = "crash", "its process ended", time.monotonic() - start
        if reason == "its process ended" or verdict == "hang":
            self.process.kill()
            self.process.join()
            self._start()
        if seconds > HANG_S:
            verdict = "hang"
        return Outcome(
            self.grader, question.kind, question.gold, question.answer[-300:], question.wanted, verdict, reason, seconds
        )

    def close(self) -> int:
        """End the process, and return the bytes that it or one of its children used at most."""
        self.pipe.send(None)
        largest: int = self.pipe.recv()
        self.process.join()
        return largest


def serve(grader: str, pipe: Connection) -> None:
    ask = {
        "rethink": ask_rethink,
        "first-answers": lambda question: ask_rethink(replace(question, refinement=False)),
        "last-box": ask_last_box,
        "math-verify": ask_math_verify,
    }[grader]
    warm_up = Question("", "x+1", "1+x", ())
    ask(warm_up)
    pipe.send("ready")
    largest = 0
    for n, question in enumerate(iter(pipe.recv, None)):
        start = time.monotonic()
        try:
            verdict, reason = ask(question)
        except Exception as err:
            verdict, reason = "crash", repr(err)[:200]
        pipe.send((verdict, reason, time.monotonic() - start))
        if n % 200 == 0:
            largest = max(largest, largest_child())
    pipe.send(max(largest, largest_child(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024))


def ask_rethink(question: Question) -> tuple[str, str]:
    from rethink.errors import UserError
    from rethink.problems.grade import grade
    from rethink.problems.mathematics import compare, parse_gold

    try:
        if question.verifier:
            verdict = grade(
                question.answer,
                question.gold,
                question.verifier,
                lenient=question.lenient,
                refinement=question.refinement,
            )
        else:
            verdict = compare(question.answer, parse_gold(question.gold))
    except (UserError, ValueError) as err:  # a damaged gold answer is refused
        return "not judged", str(err)
    return {True: "right", False: "wrong", None: "not judged"}[verdict.right], verdict.reason


def ask_last_box(question: Question) -> tuple[str, str]:
    from rethink.grading.extract import boxes

    found = boxes(question.answer)
    return ask_rethink(replace(question, answer=rf"\boxed{{{found[-1][1]}}}" if found else "", refinement=False))


def ask_math_verify(question: Question) -> tuple[str, str]:
    import logging

    from math_verify import parse, verify

    logging.disable(logging.ERROR)
    gold: list[Any] = parse(rf"\boxed{{{question.gold}}}")
    if not gold:
        return "not judged", "the gold answer was not parsed"
    answer: list[Any] = parse(question.answer if question.verifier else rf"\boxed{{{question.answer}}}")
    return ("right" if verify(gold, answer) else "wrong"), f"{gold[:1]} {answer[:1]}"[:200]


def largest_child() -> int:
    """Return the bytes that the largest process below this one has used."""
    largest = 0
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError, IndexError):
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    family = {os.getpid()}
    for pid in sorted(parents):
        if parents[pid] in family:
            family.add(pid)
            with suppress(OSError):
                for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                    if line.startswith("VmHWM"):
                        largest = max(largest, int(line.split()[1]) * 1024)
    return largest


def right_before(file: Path | None) -> dict[str, dict[str, int]]:
    """Return how many were right by grader and kind in an earlier run."""
    found: dict[str, dict[str, int]] = {}
    for line in file.read_text(encoding="utf-8").splitlines() if file else []:
        row = json.loads(line)
        kinds = found.setdefault(row["grader"], {})
        kinds[row["kind"]] = kinds.get(row["kind"], 0) + (row["verdict"] in row["wanted"])
    return found


def print_mistakes(outcomes: list[Outcome], n: int) -> None:
    shown: dict[str, int] = {}
    for outcome in outcomes:
        if outcome.verdict not in outcome.wanted:
            shown[outcome.kind] = shown.get(outcome.kind, 0) + 1
            if shown[outcome.kind] <= n:
                pair = f"{outcome.answer[-150:]!r} for {outcome.gold[:100]!r}"
                print(f"{outcome.kind}: {outcome.verdict}: {pair}: {outcome.reason[:150]}")


def print_table(outcomes: list[Outcome], before: dict[str, int]) -> None:
    kinds: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        kinds.setdefault(outcome.kind, []).append(outcome)
    heads = ["kind", "given", "right before", "right now", "wrong called right", "right called wrong", "not judged"]
    heads += ["crashes", "hangs", "median ms", "p99 ms", "max ms"]
    print("| " + " | ".join(heads) + " |")
    print("|---" * len(heads) + "|")
    for outcome in outcomes:
        kinds.setdefault(f"ALL {family(outcome.kind)}", []).append(outcome)
    for kind, n in [*before.items()]:
        total = f"ALL {family(kind)}"
        before[total] = before.get(total, 0) + n
    for kind, found in sorted(kinds.items()):
        earlier = before.get(kind, 0)
        print(f"| {kind} | {len(found)} | {earlier if before else ''} | " + " | ".join(cells(found)) + " |")


def family(kind: str) -> str:
    """Return what a kind is counted under, too."""
    first, _, rest = kind.partition(": ")
    if rest:
        return first
    if kind.startswith(("replies", "refinements")):
        return kind.split()[0].rstrip(",")
    return f"pairs, {kind.rpartition(', ')[2]}"


def cells(found: list[Outcome]) -> list[str]:
    right = wrong_called_right = right_called_wrong = 0
    counts = {"not judged": 0, "crash": 0, "hang": 0}
    times = []
    for outcome in found:
        right += outcome.verdict in outcome.wanted
        wrong_called_right += outcome.verdict == "right" and "right" not in outcome.wanted
        right_called_wrong += outcome.verdict == "wrong" and "wrong" not in outcome.wanted
        if outcome.verdict in counts:
            counts[outcome.verdict] += 1
        times.append(1000 * outcome.seconds)
    slow = sorted(times)[min(len(times) - 1, int(0.99 * len(times)))]
    numbers = [right, wrong_called_right, right_called_wrong, *counts.values()]
    return [*map(str, numbers), f"{statistics.median(times):.1f}", f"{slow:.0f}", f"{max(times):.0f}"]


if __name__ == "__main__":
    main()
