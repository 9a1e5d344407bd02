"""Logs of inspect_ai: `.eval` files, which are archives with a JSON file per sample, and `.json` files."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rethink.errors import UserError
from rethink.evaluation.other_tools.archive import Archive, open_archive
from rethink.evaluation.other_tools.scored import Scored, flat_scores

NAME = "inspect_ai"
ATTACHMENT = re.compile(r"attachment://([0-9a-f]+)")


def is_log(file: Path) -> bool:
    """Return whether a file is a log of inspect_ai."""
    if file.suffix == ".eval":
        return True
    if file.suffix != ".json":
        return False
    with file.open("rb") as data:
        start = data.read(4096)
    return b'"status"' in start and b'"eval"' in start and b'"version"' in start


def read(file: Path) -> list[Scored]:
    """Return the samples of a log. Raise UserError for an evaluation that did not finish, and if it logged no samples."""
    header, samples = _archive(file) if file.suffix == ".eval" else _json(file)
    status = header.get("status")
    if status != "success":
        raise UserError(
            f"{file}: the evaluation did not finish (status {status}), and which samples are missing may depend on the "
            f"model; finish it with `inspect eval-retry {file}`, or evaluate with --no-fail-on-error"
        )
    task = str((header.get("eval") or {}).get("task", file.stem))
    found = [_scored(task, sample, file) for sample in samples]
    if not found:
        raise UserError(f"{file} has no samples; evaluate without --no-log-samples")
    return found


def _archive(file: Path) -> tuple[dict[str, Any], Iterator[Any]]:
    with open_archive(file) as archive:
        if "header.json" not in archive.names:
            return {"status": "started"}, iter(())
        header = _parse(archive, file, "header.json")
    return header, _samples(file)


def _samples(file: Path) -> Iterator[Any]:
    """Yield the samples one by one: all of them, as objects, may not fit in memory."""
    with open_archive(file) as archive:
        for name in archive.names:
            if name.startswith("samples/") and name.endswith(".json"):
                yield _parse(archive, file, name)


def _parse(archive: Archive, file: Path, name: str) -> dict[str, Any]:
    try:
        found = json.loads(archive.read(name))
    except (ValueError, RecursionError) as err:
        raise UserError(f"{file}: {name} is not valid JSON ({err})") from err
    if not isinstance(found, dict):
        raise UserError(f"{file}: {name} is not a JSON object")
    return found


def _json(file: Path) -> tuple[dict[str, Any], Iterable[Any]]:
    try:
        header = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as err:
        raise UserError(f"{file}: not valid JSON ({err})") from err
    return header, header.get("samples") or ()


def _scored(task: str, sample: Mapping[str, Any], file: Path) -> Scored:
    try:
        attached = sample.get("attachments") or {}
        error = sample.get("error") or {}
        choices = (sample.get("output") or {}).get("choices") or []
        reply = _restore(_text(choices[0]["message"]["content"]), attached) if choices else None
        target = sample["target"]
        scores = dict(_scores(sample.get("scores") or {}))
        limit = (sample.get("limit") or {}).get("type")
        why = str(error.get("message", "")) or (f"stopped by a limit ({limit})" if limit else "")
        return Scored(
            task=task,
            doc=str(sample["id"]),
            repeat=int(sample["epoch"]) - 1,
            question=_restore(_question(sample["input"]), attached),
            gold=target if isinstance(target, str) else " or ".join(target),
            replies=() if reply is None or (error and not scores) else (reply,),
            scores=scores,
            error=why,
            stop={"stop": "stop", "max_tokens": "length"}.get(choices[0].get("stop_reason")) if choices else None,
        )
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as err:
        name = sample.get("id") if isinstance(sample, Mapping) else sample
        raise UserError(f"{file}: sample {name} is not one that inspect_ai writes ({err!r})") from err


def _scores(scores: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, Any]]:
    for name, score in scores.items():
        yield from flat_scores(name, score["value"])


def _question(given: str | list[dict[str, Any]]) -> str:
    """Return what the sample asks, without system messages."""
    if isinstance(given, str):
        return given
    return "\n\n".join(_text(message["content"]) for message in given if message["role"] != "system")


def _text(content: str | list[dict[str, Any]]) -> str:
    """Return the text of a message; reasoning and images are left out."""
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] for part in content if part["type"] == "text")


def _restore(text: str, attached: Mapping[str, str]) -> str:
    """Return a text with its attachments, which long texts of some versions are."""
    return ATTACHMENT.sub(lambda found: attached.get(found[1], found[0]), text)
