"""The worker's side of grading in a pool: read and write JSON lines until the input ends.

["symbolic"]                       -> [true, "ready"]      import what the task needs
["symbolic", ["x + 1", "1 + x"]]   -> [true, "..."]        right (null: not graded), and the reason
["own:score", [["a", "b"], {}, 1]] -> [false, "...", "", false, 0.5]   a user's function: arguments, keywords and
                                      right_threshold; all fields of a verdict
                                   -> {"refused": "..."}   it cannot be imported, or did not return a verdict
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
from dataclasses import astuple
from functools import cache
from typing import Any

from rethink.errors import UserError
from rethink.grading.user_code import call_user_function, import_function

TASKS = {
    "symbolic": "rethink.grading.symbolic:grade",
    "gym": "rethink.problems.gym:score",
}
MEMORY_BYTES = 3 * 2**30
"""Address space of a worker for built-in tasks."""
START_TIMEOUT_S, GRACE_S = 600, 5
"""A worker ends itself if a start takes this long, or an answer this much longer than its limit: then the process that
should have killed it is gone."""


def serve(timeout_s: float, data_bytes: int = 0) -> None:
    """Answer requests until the input ends. Tasks cannot print or read: both streams are for requests and answers only.
    `data_bytes` limits the memory that the process may write to; 0 limits its address space to what built-in tasks need.
    """
    requests, out = os.fdopen(os.dup(sys.stdin.fileno())), os.fdopen(os.dup(sys.stdout.fileno()), "w")
    with open(os.devnull, "r+") as devnull:
        os.dup2(devnull.fileno(), sys.stdin.fileno())
        os.dup2(devnull.fileno(), sys.stdout.fileno())
    _limit_memory(data_bytes)
    for line in requests:
        request = json.loads(line)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # a user's function may have set a handler
        signal.alarm(START_TIMEOUT_S if len(request) == 1 else math.ceil(timeout_s) + GRACE_S)
        print(json.dumps(_run_task(*request)), file=out, flush=True)
        signal.alarm(0)


def _run_task(task: str, arguments: list[Any] | None = None) -> Any:
    if task not in TASKS:
        return _run_user_function(task, arguments)
    grade = _load_task(task)
    if arguments is None:
        return True, "ready"
    try:
        return grade(*arguments)
    except (Exception, RecursionError, MemoryError) as err:  # whatever an algebra system raises, there is no verdict
        return None, f"the comparison failed: {type(err).__name__}"


def _run_user_function(name: str, arguments: list[Any] | None) -> Any:
    try:
        function = _import_cached(name)
        return (True, "ready") if arguments is None else astuple(call_user_function(name, function, *arguments))
    except UserError as err:
        return {"refused": str(err)}


@cache
def _load_task(task: str) -> Callable[..., tuple[bool | None, str]]:
    module, _, function = TASKS[task].partition(":")
    loaded = importlib.import_module(module)
    prepare = getattr(loaded, "prepare", None)
    if prepare is not None:
        prepare()
    return getattr(loaded, function)


_import_cached = cache(import_function)


def _limit_memory(data_bytes: int) -> None:
    with suppress(ImportError, OSError, ValueError):  # not every system has or allows these limits
        import resource

        # Libraries such as torch map far more addresses than they use, so a user's function is limited in data only.
        if data_bytes:
            resource.setrlimit(resource.RLIMIT_DATA, (data_bytes, data_bytes))
        else:
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))


if __name__ == "__main__":
    serve(float(sys.argv[1]), int(sys.argv[2]))
