"""The worker's side of judging apart: reads and writes JSON lines until its input ends.

["symbolic"]                      -> [true, "ready"]       import what the task needs
["symbolic", ["x + 1", "1 + x"]]  -> [true, "..."]         right (null: no verdict), and the reason
"""

from __future__ import annotations

import importlib
import json
import math
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import Any

TASKS = {
    "symbolic": "rethink.grading.symbolic:judge",
    "gym": "rethink.problems.gym:score",
}
MEMORY_BYTES = 3 * 2**30
START_LIMIT_S, SPARE_S = 600, 5
"""A worker ends itself when a start takes this long, or an answer this much longer than its limit: whoever should have
killed it is gone."""


def serve(limit_s: float) -> None:
    """Answer requests. Whatever a task prints goes nowhere, as the output is for answers alone."""
    out = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())
    _limit_memory()
    for line in sys.stdin:
        request = json.loads(line)
        signal.alarm(START_LIMIT_S if len(request) == 1 else math.ceil(limit_s) + SPARE_S)
        print(json.dumps(_answer(*request)), file=out, flush=True)
        signal.alarm(0)


def _answer(task: str, arguments: list[Any] | None = None) -> tuple[bool | None, str]:
    judge = _load(task)
    if arguments is None:
        return True, "ready"
    try:
        return judge(*arguments)
    except (Exception, RecursionError, MemoryError) as err:  # whatever an algebra system raises, it is no verdict
        return None, f"the comparison failed: {type(err).__name__}"


@cache
def _load(task: str) -> Callable[..., tuple[bool | None, str]]:
    module, _, function = TASKS[task].partition(":")
    loaded = importlib.import_module(module)
    prepare = getattr(loaded, "prepare", None)
    if prepare is not None:
        prepare()
    return getattr(loaded, function)


def _limit_memory() -> None:
    with suppress(ImportError, OSError, ValueError):  # not every system has, or allows, such limits
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))


if __name__ == "__main__":
    serve(float(sys.argv[1]))
