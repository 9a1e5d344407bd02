"""The worker's side of grading apart: reads and writes JSON lines until its input ends.

["symbolic"]                       -> [true, "ready"]      import what the task needs
["symbolic", ["x + 1", "1 + x"]]   -> [true, "..."]        right (null: no verdict), and the reason
["own:score", [["a", "b"], {}, 1]] -> [false, "...", "", false, 0.5]   a function of the user's: arguments, keywords and
                                      the number from which on it says "right"; all fields of a verdict
                                   -> {"refused": "..."}   it cannot be imported, or returned what is no verdict
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
"""Address space of a worker for our own tasks."""
START_TIMEOUT_S, SPARE_S = 600, 5
"""A worker ends itself when a start takes this long, or an answer this much longer than its limit: whoever should have
killed it is gone."""


def serve(timeout_s: float, data_bytes: int = 0) -> None:
    """Answer requests. What a task prints goes nowhere, and it reads nothing: both are for requests and answers alone.
    `data_bytes` limits the memory that it may write to; 0 limits the address space to what our own tasks need."""
    requests, out = os.fdopen(os.dup(sys.stdin.fileno())), os.fdopen(os.dup(sys.stdout.fileno()), "w")
    with open(os.devnull, "r+") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdin.fileno())
        os.dup2(nowhere.fileno(), sys.stdout.fileno())
    _limit_memory(data_bytes)
    for line in requests:
        request = json.loads(line)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # a function of the user's may have set a handler
        signal.alarm(START_TIMEOUT_S if len(request) == 1 else math.ceil(timeout_s) + SPARE_S)
        print(json.dumps(_answer(*request)), file=out, flush=True)
        signal.alarm(0)


def _answer(task: str, arguments: list[Any] | None = None) -> Any:
    if task not in TASKS:
        return _answer_of_user(task, arguments)
    grade = _load(task)
    if arguments is None:
        return True, "ready"
    try:
        return grade(*arguments)
    except (Exception, RecursionError, MemoryError) as err:  # whatever an algebra system raises, it is no verdict
        return None, f"the comparison failed: {type(err).__name__}"


def _answer_of_user(name: str, arguments: list[Any] | None) -> Any:
    try:
        function = _import(name)
        return (True, "ready") if arguments is None else astuple(call_user_function(name, function, *arguments))
    except UserError as err:
        return {"refused": str(err)}


@cache
def _load(task: str) -> Callable[..., tuple[bool | None, str]]:
    module, _, function = TASKS[task].partition(":")
    loaded = importlib.import_module(module)
    prepare = getattr(loaded, "prepare", None)
    if prepare is not None:
        prepare()
    return getattr(loaded, function)


_import = cache(import_function)


def _limit_memory(data_bytes: int) -> None:
    with suppress(ImportError, OSError, ValueError):  # not every system has, or allows, such limits
        import resource

        # Libraries such as torch map far more addresses than they use, so that a user's function is limited in data alone.
        if data_bytes:
            resource.setrlimit(resource.RLIMIT_DATA, (data_bytes, data_bytes))
        else:
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))


if __name__ == "__main__":
    serve(float(sys.argv[1]), int(sys.argv[2]))
