"""Folders of runs and evaluations for tests of the page: small, and made without training."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
from pathlib import Path
from typing import Any

from rethink.jsonl import Record, append
from rethink.run_folder import RunFolder

HOSTILE = (
    "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'>",
    "red \x1b[31malert\x1b[0m and \u202egnp.exe\u202c reversed",
    r"\(\href{javascript:window.hacked=3}{x}\) \(\htmlStyle{color:red}{y}\) \(\includegraphics{https://example.org/x.png}\)",
    "</script><script>window.hacked = 4</script>",
    "long " + "x" * 60_000,
)
"""Replies that try to run, to load, to reorder or to break the page."""


def step(phase: str, text: str, verdict: str, **more: Any) -> Record:
    """A reply in an answers file."""
    return {
        "phase": phase,
        "index": 0,
        "text": text,
        "prompt": [["user", "asked"]],
        "verdict": verdict,
        "extracted": None,
        "reason": "",
        "lenient": False,
        "stop": "stop",
        "n_prompt_tokens": 3,
        "n_tokens": len(text.split()),
        "log_prob": -1.0,
        "seed": "00",
        "draft": None,
        **more,
    }


def answer(problem: str, draft: Record, final: Record, **more: Any) -> Record:
    """A record of an answers file: a draft and its refinement."""
    return {
        "suite": "sums",
        "problem": problem,
        "repeat": 0,
        "strategy": "refine",
        "question": f"What is {problem}?",
        "gold": "4",
        "steps": [draft, {**final, "draft": 0}],
        "finals": [1],
        "tied": False,
        "n_prompt_tokens": 6,
        "n_tokens": 8,
        "depth": 2,
        "notes": {},
        **more,
    }


def estimate(value: float, n: int = 100) -> Record:
    return {"value": value, "low": value - 0.05, "high": value + 0.05, "n": n, "at_least": None, "at_most": None}


def held_out(update: int, right: float, **more: Any) -> Record:
    """The record of an evaluation in metrics.jsonl."""
    rates = {"solve": right, "refined": right + 0.1, "gain": 0.1, "fix": 0.3, "damage": 0.1}
    record: Record = {"batch": update, "update": update, "phase": "evaluation", "n_problems": 100, "n_not_graded": 0}
    for name, value in rates.items():
        record[name] = estimate(value)
    record |= {"fix_fresh": estimate(0.2), "damage_fresh": estimate(0.4)}
    record["transitions"] = {"right_right": 40, "right_wrong": 5, "wrong_right": 15, "wrong_wrong": 40}
    return record | more


def update_record(update: int, **more: Any) -> Record:
    """The record of an update in metrics.jsonl."""
    phase = "solve" if update % 2 else "refine"
    record: Record = {"batch": (update - 1) // 2, "update": update, "optimizer_steps": 4 * update, "phase": phase}
    record |= {"reward": 0.4 + 0.01 * update, "entropy_nats": 0.3, "n_samples": 8, "sample_s": 1.0, "alarms": []}
    return record | more


def sample(problem: str, reply: str, version: int, **more: Any) -> Record:
    """A line of samples.jsonl: a reply without a draft."""
    return {
        "batch": version,
        "problem": problem,
        "phase": "solve",
        "index": 0,
        "question": f"What is {problem}?",
        "prompt": [["user", f"What is {problem}?"]],
        "draft": None,
        "draft_extracted": None,
        "reply": reply,
        "extracted": None,
        "gold": "4",
        "reward": 0.0,
        "terms": {},
        "verdict": "wrong",
        "reason": "",
        "draft_verdict": None,
        "stop": "stop",
        "n_tokens": len(reply.split()),
        "version": version,
        "seed": "00",
        **more,
    }


def training_folder(path: Path, n_answers: int = 40, n_updates: int = 6) -> RunFolder:
    """A training run with one evaluation whose drafts and refinements have all four transitions, a quarter each, and with
    hostile replies among its samples.
    """
    folder = RunFolder(path)
    folder.create(f'out = "runs/<x>"\nupdates = {n_updates}\n\n[method]\nname = "think_twice"\n')
    append(folder.metrics, [update_record(n) for n in range(1, n_updates + 1)])
    append(folder.metrics, [held_out(n_updates, 0.5)])
    records: list[Record] = []
    for n in range(n_answers):
        before, after = ("wrong", "right", "right", "wrong")[n % 4], ("right", "wrong", "right", "wrong")[n % 4]
        draft = step("solve", rf"First, \(2 + 2 = {n}\), so \boxed{{{n}}}.", before, extracted=str(n))
        final = step("refine", rf"Again, \(2 + 2 = {n}\), so \boxed{{4}}.", after, extracted="4", reason="compared")
        records.append(answer(f"sum-{n}", draft, final))
    append(path / "eval" / f"{n_updates:06d}.jsonl", records)
    append(folder.samples, [sample(f"hostile-{n}", text, n) for n, text in enumerate(HOSTILE)])
    return folder


def put_image(folder: Path, data: bytes, ending: str = "png") -> str:
    """Write an image into a run folder, and return the name that records give it."""
    name = f"{hashlib.sha256(data).hexdigest()[:24]}.{ending}"
    (folder / "images").mkdir(parents=True, exist_ok=True)
    (folder / "images" / name).write_bytes(data)
    return name


def embedded(page: str, name: str) -> Record:
    """Return a document that a page holds."""
    (packed,) = re.findall(rf'<script type="text/plain" id="{name}">([^<]*)</script>', page)
    return json.loads(gzip.decompress(base64.b64decode(packed)))
