"""Grade the replies of a file with the package's grader and with the second checker; list where they disagree.

PYTHONPATH=tools python -m answer_audit answers.jsonl --answer gold --response reply
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from answer_audit.audit import check
from rethink.errors import UserError
from rethink.problems import mathematics
from rethink.problems.files import read_rows

NAMES = {True: "right", False: "wrong", None: "not graded"}


def audit(file: Path, answer: str, response: str) -> Counter[tuple[str, str]]:
    """Print a line per disagreement; return how many rows had each pair of verdicts (grader, checker).

    Raise UserError for a file that cannot be read, and for a row without one of the columns.
    """
    pairs: Counter[tuple[str, str]] = Counter()
    for row in read_rows(file):
        reply = row.text(response)
        gold = mathematics.parse_gold(row.text(answer))
        ours = mathematics.verify(reply, gold)
        right, reason = check(reply, gold)
        pair = (NAMES[ours.right], NAMES[right])
        pairs[pair] += 1
        if set(pair) == {"right", "wrong"}:
            print(f"row {row.n}: {pair[0]} ({ours.reason}), second checker {pair[1]} ({reason})")
            print(f"  gold {gold!r}, extracted {ours.extracted!r}")
    return pairs


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="answer_audit", description=__doc__)
    parser.add_argument("file", type=Path, help="a .jsonl or .parquet file")
    parser.add_argument("--answer", default="answer", help="column of the gold answer; use dots for nested columns")
    parser.add_argument("--response", default="response", help="column of the reply")
    named = parser.parse_args(arguments)
    try:
        pairs = audit(named.file, named.answer, named.response)
    except UserError as err:
        print(f"error: {err}", file=sys.stderr)
        return 2
    for (ours, theirs), n in sorted(pairs.items()):
        print(f"{n:6} rows: {ours}, second checker {theirs}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
