"""Escapes: code in a reply that tries to get out of the worker that grades it.

Half of the trials run every attempt of tests/support/escapes.py, in a worker for built-in tasks and in one for users'
functions. In the others, replies to all reasoning-gym tasks call the interpreter; they need the extra `gym`.
"""

from __future__ import annotations

import atexit
import os
import random
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path

from drill_commands import HELD, Trial
from rethink.grading.pool import built_in_pool
from rethink.problems import gym
from rethink.types import Problem
from support.escapes import ATTEMPTS, Prison, children_of, prison

PAYLOADS = (
    "__import__('pathlib').Path({mark!r}).touch()",
    "__import__('os').system('touch {mark}')",
    "open({mark!r}, 'w')",
    "[open({mark!r}, 'w')]",
    "[[0, open({mark!r}, 'w')]]",
    "(lambda: open({mark!r}, 'w'))()",
    "eval(compile('open({mark!r}, chr(119))', '', 'eval'))",
    "x**2 + open({mark!r}, 'w')",
    "sin(x) + __import__('os').system('touch {mark}')",
    "().__class__.__base__.__subclasses__()[-1].__init__.__globals__['sys'].modules['os'].system('touch {mark}')",
    "{{'a': open({mark!r}, 'w')}}",
    "exec(\"open('{mark}', 'w')\")",
    "__import__('subprocess').Popen(['sh', '-c', 'sleep 1; touch {mark}'])",
    "__import__('builtins').__dict__.update(str=lambda *a: '1')",
    "(x := open({mark!r}, 'w'))",
    "f\"{{open('{mark}', 'w')}}\"",
)


def trials(scratch: Path, n: int, seed: int) -> Iterator[Callable[[], Trial]]:
    """Yield all attempts for both kinds of workers, then tasks of reasoning-gym with a payload each."""
    attempts = [(name, for_users) for name in ATTEMPTS for for_users in (False, True)]
    for name, for_users in attempts[:n]:
        yield partial(escape, scratch, name, for_users)
    tasks = gym_tasks()
    for i in range(n - len(attempts) if tasks else 0):
        draw = random.Random(f"{seed} {i}")
        yield partial(reply_to_task, scratch, i, tasks[i % len(tasks)], draw)


def escape(scratch: Path, name: str, for_users: bool) -> Trial:
    kind = "escape from a user's function" if for_users else "escape from a built-in task"
    found = place(scratch, for_users).attempt(name)
    return Trial(f"{kind}: {name}", kind, "code ran" if found else HELD, found)


@cache
def place(scratch: Path, for_users: bool) -> Prison:
    """Return a worker, with a key in the environment and one in a home folder of ours. It ends with this process."""
    home, folder = scratch / "home", scratch / f"place-{for_users}"
    (home / ".ssh").mkdir(parents=True, exist_ok=True)
    folder.mkdir(exist_ok=True)
    (home / ".ssh" / "id_rsa").write_text("a key")
    (home / ".netrc").write_text("a password")
    os.environ.update(HOME=str(home), ESCAPE_API_KEY="sk-secret")
    opened = prison(folder, for_users)
    atexit.register(opened.__exit__, None, None, None)
    return opened.__enter__()


@cache
def gym_tasks() -> list[str]:
    try:
        from reasoning_gym.factory import DATASETS
    except ImportError:
        return []
    return sorted(set(DATASETS) - set(gym.UNUSABLE))


@cache
def problem_of(task: str) -> Problem | None:
    """Return a problem of a task; None if the task cannot make one here."""
    try:
        return gym.problems(task, "train", 1, {})[0]
    except Exception as err:
        print(f"escapes: no problem of {task}: {err}")
        return None


def reply_to_task(scratch: Path, number: int, task: str, draw: random.Random) -> Trial:
    kind = "code in a reply to reasoning-gym"
    mark = scratch / "mark"
    mark.unlink(missing_ok=True)
    problem = problem_of(task)
    if problem is None:
        return Trial(f"{number}: {task}", kind, HELD, "no problem")
    payload = draw.choice(PAYLOADS).format(mark=str(mark))
    verdict = problem.grade(f"<answer>{payload}</answer>")
    name = f"{number}: {task}: {payload}"
    afterwards = problem.grade(f"<answer>{problem.gold}</answer>").right
    if mark.exists():
        return Trial(name, kind, "code ran")
    if verdict.right:
        return Trial(name, kind, "wrong called right", verdict.reason)
    for worker in built_in_pool("gym")._workers:
        if worker._process is not None and children_of(worker._process.pid):
            return Trial(name, kind, "code ran", "a process stays")
    if afterwards is not True and problem.gold != gym.NO_GOLD:
        return Trial(name, kind, "code ran", f"the gold answer is not right afterwards: {afterwards}")
    return Trial(name, kind, HELD)
