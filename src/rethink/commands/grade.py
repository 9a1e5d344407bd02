"""`rethink grade`: grade the replies in a file, or a suite's own gold answers."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from itertools import chain
from pathlib import Path

from rethink.commands.console import print_json, print_note, print_result, progress, warn
from rethink.errors import UserError
from rethink.evaluation.bounds import ACCURACY_NOTE
from rethink.evaluation.grade import GradeSettings, Tally, check_gold_answers, grade_rows
from rethink.evaluation.intervals import Estimate, clustered_rate
from rethink.evaluation.other_tools import reply_rows
from rethink.grading.sandbox.lockdown import guard
from rethink.jsonl import Record, check_writable, make_folder, to_json, write_lines
from rethink.lock import Lock
from rethink.printable import align_columns, printable_line
from rethink.problems.source import answer_format_of, load_problems
from rethink.settings import ProblemSource

VERDICTS = ("right", "wrong", "not graded")
N_PRINTED = 20
"""The number of refused gold answers that are printed."""


def grade_file(file: Path, out: Path, settings: GradeSettings, as_json: bool = False) -> None:
    """Write a verdict per row to `out`, replacing it once all rows are graded, and print a summary, as text or as JSON."""
    if out.resolve() == file.resolve():
        raise UserError("--out would overwrite the file to grade; choose another name")
    check_writable(out)
    start, tally = time.perf_counter(), Tally()
    records = grade_rows(reply_rows(file, strict=False), settings)
    first = next(records, None)
    if first is None:
        raise UserError(f"{file} has no rows")
    make_folder(out.parent)
    with Lock(out, warn), progress() as bar:
        task = bar.add_task("grade", total=None, note="")

        def lines() -> Iterator[str]:
            for record in chain([first], records):
                tally.add(record)
                bar.advance(task)
                yield to_json(record)
            if not tally.n_readable:
                reason, location = next(iter(tally.locations.items()))
                why = f"{location}: {reason.removeprefix('not graded: ')}"
                raise UserError(f"{file} has no row with a reply and a gold answer; {why}")

        write_lines(out, lines())
    n, seconds = tally.verdicts.total(), time.perf_counter() - start
    if as_json:
        print_json({"verdicts": str(out), "seconds": seconds, **summarize(tally, settings)})
    else:
        print_result(describe(tally, settings))
    print_note(f"{n} rows in {seconds:.1f} s ({n / seconds:.0f} per second); verdicts: {out}; guard: {guard()}")
    if settings.could_be_lenient and 2 * tally.n_without_answer > n:
        warn(
            f"{tally.n_without_answer} of {n} replies are wrong because they have no answer where this format asks for it; "
            "if their prompts did not ask for it there, --lenient also reads answers elsewhere (docs/grading.md)"
        )
    if n and n == tally.verdicts["not graded"]:
        ((reason, _),) = tally.reasons.most_common(1)
        raise UserError(f"none of the {n} rows was graded; most frequent: {reason}")


def describe(tally: Tally, settings: GradeSettings) -> str:
    """Return the summary as text with tables."""
    lines = [["", "rows", "right", "wrong", "not graded", "accuracy of graded"]]
    for name, counts in sorted(tally.groups.items()) if settings.by else ():
        lines.append(_counts(name, counts, _accuracy(counts, tally.problems[name])))
    lines.append(_counts("all", tally.verdicts, _accuracy(tally.verdicts, _all_problems(tally))))
    note = f"\n{ACCURACY_NOTE}" if tally.not_graded else ""
    parts = [align_columns(lines) + note]
    if tally.not_graded:
        kinds = [[kind, str(n)] for kind, n in tally.not_graded.most_common()]
        parts.append(align_columns([["not graded", "rows"], *kinds]))
    reasons: list[list[str]] = []
    for reason, n in tally.reasons.most_common(12):
        first = f" (first: {tally.locations[reason]})" if reason in tally.locations else ""
        reasons.append([f"{reason}{first}", str(n)])
    parts.append(align_columns([["reasons", "rows"], *reasons]))
    if tally.against:
        parts.append(_agreement(f"column {settings.against}", tally.against))
    if tally.disagreements:
        parts.append("\n".join(["disagreements", *map(_disagreement, tally.disagreements)]))
        if tally.n_disagreements > len(tally.disagreements):
            parts.append(f"and {tally.n_disagreements - len(tally.disagreements)} more, in the file")
    return "\n\n".join(parts)


def summarize(tally: Tally, settings: GradeSettings) -> Record:
    """Return the numbers of the summary as a record: counts and accuracies, of all rows and of each group."""
    record: Record = {"n": tally.verdicts.total(), **_numbers(tally.verdicts, _all_problems(tally))}
    if settings.by:
        record["groups"] = {
            name: _numbers(counts, tally.problems[name]) for name, counts in sorted(tally.groups.items())
        }
    record["not_graded_by_kind"] = dict(tally.not_graded.most_common())
    record["reasons"] = dict(tally.reasons.most_common())
    if settings.against:
        record["against"] = [
            {"ours": ours, "theirs": theirs, "n": n} for (ours, theirs), n in sorted(tally.against.items())
        ]
    return record


def _numbers(counts: Counter[str], problems: Counter[tuple[int, int]]) -> Record:
    right, wrong, not_graded = (counts[verdict] for verdict in VERDICTS)
    accuracy = asdict(_accuracy(counts, problems))
    return {"right": right, "wrong": wrong, "not_graded": not_graded, "accuracy_of_graded": accuracy}


def _accuracy(counts: Counter[str], problems: Counter[tuple[int, int]]) -> Estimate:
    """Return the accuracy of graded replies. Those to one problem are not independent."""
    return clustered_rate(problems, counts["not graded"])


def _all_problems(tally: Tally) -> Counter[tuple[int, int]]:
    found: Counter[tuple[int, int]] = Counter()
    for problems in tally.problems.values():
        found.update(problems)
    return found


def check_suites(names: str, data: str, split: str, lenient: bool, as_json: bool = False) -> None:
    """Grade each gold answer of the suites as if it were a reply. Exit with code 1 if one is not accepted."""
    refused = 0
    record: Record = {}
    for name in names.split(","):
        source = ProblemSource(name, data, split, extraction="lenient" if lenient else "strict")
        problems, answer_format = load_problems(source, purpose="test"), answer_format_of(source)
        found = [(p, v) for p, v in check_gold_answers(problems, answer_format) if v.right is not True]
        refused += len(found)
        record[name] = {"n": len(problems), "n_accepted": len(problems) - len(found), "refused": []}
        for problem, verdict in found:
            record[name]["refused"].append({"id": problem.id, "gold": problem.gold, "reason": verdict.reason})
        if as_json:
            continue
        print_result(f"{name}: {len(problems) - len(found)} of {len(problems)} gold answers accepted")
        for problem, verdict in found[:N_PRINTED]:
            print_result(f"  {problem.id}: {problem.gold!r} {verdict} ({verdict.reason})")
        if len(found) > N_PRINTED:
            print_result(f"  and {len(found) - N_PRINTED} more")
    if as_json:
        print_json({"suites": record})
    if refused:
        raise SystemExit(1)


def _counts(name: str, counts: Counter[str], accuracy: Estimate) -> list[str]:
    cells = [counts.total(), counts["right"], counts["wrong"], counts["not graded"]]
    return [name, *map(str, cells), accuracy.percent()]


def _agreement(title: str, counts: Counter[tuple[str, str]]) -> str:
    others = {other for _, other in counts}
    header, lines = [""], [[f"ours: {ours}"] for ours in VERDICTS]
    for other in VERDICTS:
        if other in others:
            header.append(f"{title}: {other}")
            for ours, line in zip(VERDICTS, lines, strict=True):
                line.append(str(counts[ours, other]))
    same = counts["right", "right"] + counts["wrong", "wrong"]
    total = same + counts["right", "wrong"] + counts["wrong", "right"]
    rate = f" ({100 * same / total:.1f}%)" if total else ""
    n, n_open = counts.total(), counts.total() - total
    if n_open:
        rate += f"; of all {n}, with the {n_open} that one of the two did not grade: "
        rate += f"{100 * same / n:.1f}% if they disagree there, {100 * (same + n_open) / n:.1f}% if they agree"
    return f"{align_columns([header, *lines])}\nagreement: {same} of {total}{rate}"


def _disagreement(record: Record) -> str:
    ours = f"{record['verdict']} ({record['reason']})"
    names = ", ".join(printable_line(f"{name} {record[name]}"[:60]) for name in ("task", "id") if name in record)
    row = f"row {record['row']}" + (f" ({names})" if names else "")
    return f"  {row}: {ours}, against {record['against']}; extracted {record['extracted']!r}"
