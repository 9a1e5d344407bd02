"""Damage: flip a bit of a file that a run or an evaluation left, or shorten the file, then use it.

A command must refuse the file, say what is wrong with it, or give the same result as with the undamaged file; anything else
is "silent".
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path

from drill_commands import HELD, Ended, Trial, difference, digest, run, without_seconds
from drill_kills import DEMO, EVAL, LORA, SMALL

TRAIN = ("train", "demo-think-twice", *SMALL)
LIMIT = "evaluation.problems.limit=4"
CHECKPOINT = "run/checkpoints/000006"
USES: dict[str, list[str]] = {
    "eval CHECKPOINT": ["eval", CHECKPOINT, "--on", "countdown", LIMIT, *DEMO, "--out", "used"],
    "answer CHECKPOINT": ["answer", CHECKPOINT, "--file", "../../questions.jsonl", *DEMO, "--out", "used/a.jsonl"],
    "export CHECKPOINT": ["export", CHECKPOINT, "--out", "used/model"],
    "train --resume": [*TRAIN, "--resume"],
    "teacher": [
        "prepare",
        "demo-gsr-data",
        f"teacher.path={CHECKPOINT}",
        "problems.limit=8",
        "--out",
        "used/d.parquet",
    ],
}
"""Commands that read a checkpoint."""


def trials(scratch: Path, n: int, seed: int) -> Iterator[Callable[[], Trial]]:
    """Yield trials: three of five damage a checkpoint (every fourth of them an adapter), the others a log."""
    for i in range(n):
        draw = random.Random(f"{seed} {i}")
        if i % 5 < 3:
            kind = list(USES)[(i // 5 * 3 + i % 5) % len(USES)]
            yield partial(damage_checkpoint, scratch, i, kind, "lora" if i % 4 == 0 else "full", draw)
        else:
            yield partial(damage_log, scratch, i, draw)


@cache
def original(scratch: Path, name: str) -> Path:
    """Return a folder with a finished run, and an evaluation for logs."""
    folder = scratch / "originals" / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (scratch / "questions.jsonl").write_text('{"question": "3 7 5 -> 26"}\n{"question": "4 7 5 -> 26"}\n')
    command = [*EVAL] if name == "eval" else [*TRAIN, *(LORA if name == "lora" else ())]
    _expect_success(run(folder, command))
    return folder


@cache
def result(scratch: Path, name: str, kind: str) -> dict[str, str]:
    """Return what a command makes of the undamaged checkpoint."""
    folder = scratch / "undamaged" / f"{name} {kind}".replace(" ", "-")
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(original(scratch, name), folder, symlinks=True)
    (folder / "used").mkdir()
    _expect_success(run(folder, _use(kind, name)))
    return digest(folder / ("run" if kind == "train --resume" else "used"))


def _use(kind: str, name: str) -> list[str]:
    lora = LORA if name == "lora" and kind == "train --resume" else ()
    return [*USES[kind][:2], *lora, *USES[kind][2:]] if lora else USES[kind]


def _expect_success(ended: Ended) -> None:
    if ended.code != 0:
        raise SystemExit(f"the drill's own command failed: {ended.tail}")


def _copy(scratch: Path, number: int, name: str) -> Path:
    folder = scratch / "trials" / str(number)
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(original(scratch, name), folder, symlinks=True)
    (folder / "used").mkdir()
    return folder


def _damage(file: Path, draw: random.Random) -> str:
    """Flip a bit, cut the end, empty the file or remove it; return what was done."""
    data = bytearray(file.read_bytes())
    how = draw.choice(["flip", "flip", "flip", "flip", "cut", "empty", "remove"])
    if how == "remove" or not data:
        file.unlink()
        return "removed"
    if how == "flip":
        place = draw.randrange(len(data))
        data[place] ^= 1 << draw.randrange(8)
        file.write_bytes(data)
        return f"a bit of byte {place} of {len(data)} flipped"
    keep = 0 if how == "empty" else draw.randrange(len(data))
    file.write_bytes(data[:keep])
    return f"cut to {keep} of {len(data)} bytes"


def damage_checkpoint(scratch: Path, number: int, kind: str, name: str, draw: random.Random) -> Trial:
    wanted = result(scratch, name, kind)
    folder = _copy(scratch, number, name)
    checkpoint = folder / CHECKPOINT
    file = draw.choice(sorted(path for path in checkpoint.rglob("*") if path.is_file()))
    what = f"{number}: {kind}, {name}: {file.relative_to(checkpoint)} {_damage(file, draw)}"
    ended = run(folder, _use(kind, name))
    if ended.code is None or "Traceback" in ended.output:
        return Trial(what, kind, "hung" if ended.code is None else "crashed", ended.tail)
    refused = ended.code != 0
    got = digest(folder / ("run" if kind == "train --resume" else "used"))
    if kind == "train --resume" and refused:
        lost = _lost_lines(scratch, name, folder)
        return Trial(what, kind, "lost" if lost else HELD, lost or "refused", counts={"refused": 1})
    changed = "" if refused else difference(wanted, got)
    if changed and "damaged" not in ended.output:
        return Trial(what, kind, "silent", f"other results: {changed}")
    shutil.rmtree(folder)
    return Trial(what, kind, HELD, "refused" if refused else "used", counts={"refused": int(refused)})


def _lost_lines(scratch: Path, name: str, folder: Path) -> str:
    """Return the logs that are shorter than before a refused command."""
    for log in ("metrics.jsonl", "samples.jsonl"):
        before = (original(scratch, name) / "run" / log).read_bytes()
        if (folder / "run" / log).read_bytes() != before:
            return f"{log} was changed"
    return ""


def damage_log(scratch: Path, number: int, draw: random.Random) -> Trial:
    """Damage a log of a run or an evaluation, and resume it."""
    name = draw.choice(["full", "full", "eval"])
    folder = _copy(scratch, number, name)
    if name == "full":
        shutil.rmtree(folder / CHECKPOINT)  # so that there is something left to train
    logs = ["answers.jsonl"] if name == "eval" else ["metrics.jsonl", "samples.jsonl"]
    file = folder / "run" / draw.choice(logs)
    before = file.read_text(encoding="utf-8").splitlines()
    kind = f"{'train' if name == 'full' else 'eval'} --resume, {file.name}"
    what = f"{number}: {kind}: {_damage(file, draw)}"
    ended = run(folder, [*EVAL, "--resume"] if name == "eval" else [*TRAIN, "--resume"])
    if ended.code is None or "Traceback" in ended.output:
        return Trial(what, kind, "hung" if ended.code is None else "crashed", ended.tail)
    said = ended.code != 0 or str(file.name) in ended.output or "damaged" in ended.output
    lost = _missing(before, folder / "run", file.name)
    if lost and not said:
        return Trial(what, kind, "silent", f"{lost} of {len(before)} records are gone or changed: {ended.tail}")
    shutil.rmtree(folder)
    return Trial(what, kind, HELD, f"{lost} records changed" if lost else "")


def _missing(before: list[str], folder: Path, name: str) -> int:
    """Return how many of the records are in no file of that name, or of a file that was set aside."""
    kept = {json.dumps(without_seconds(json.loads(line))) for line in before}
    for file in folder.glob(f"{name}*"):
        for line in file.read_bytes().split(b"\n"):
            try:
                kept.discard(json.dumps(without_seconds(json.loads(line))))
            except ValueError:
                continue
    return len(kept)
