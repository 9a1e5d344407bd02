"""Samples of lm-evaluation-harness: `samples_TASK_DATE.jsonl`, with a line per document and filter."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rethink.errors import UserError
from rethink.evaluation.other_tools.scored import Scored, flat_scores
from rethink.problems.files import read_rows

NAME = "lm-evaluation-harness"
QUESTIONS = ("question", "problem", "query", "goal", "sentence", "prompt", "input", "instruction", "text")
"""Columns of a document that hold its question, the first that is there; otherwise the prompt stands for it."""


def is_log(file: Path) -> bool:
    """Return whether a file has samples of lm-evaluation-harness."""
    if file.suffix != ".jsonl":
        return False
    with file.open("rb") as lines:
        first = lines.readline()
    try:
        return {"doc_id", "doc", "resps", "filtered_resps"} <= json.loads(first).keys()
    except (ValueError, AttributeError):
        return False


def task_of(file: Path) -> str:
    """Return the task in a file's name: gsm8k for samples_gsm8k_2026-11-29T20-06-59.611211.jsonl."""
    return re.sub(r"^samples_|_\d{4}-\d\d-\d\dT[\d.-]+$", "", file.stem)


def read(file: Path) -> list[Scored]:
    """Return the documents of a file; the scores after each filter are named METRIC,FILTER, as in the tool's results."""
    found: dict[str, Scored] = {}
    contents: dict[str, object] = {}
    for row in read_rows(file):
        try:
            new = _scored(task_of(file), row.values)
            content = row.values.get("doc_hash") or row.values["doc"]
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as err:
            raise UserError(f"{row.location}: not a line that lm-evaluation-harness writes ({err!r})") from err
        known = found.get(new.doc)
        if known is None:
            found[new.doc], contents[new.doc] = new, content
            continue
        if contents[new.doc] != content or known.scores.keys() & new.scores.keys():
            raise UserError(f"{row.location}: the document {new.doc} is there twice; give the file of one evaluation")
        found[new.doc] = replace(known, scores={**known.scores, **new.scores})
    return list(found.values())


def _scored(task: str, line: Mapping[str, Any]) -> Scored:
    replies = line["resps"][0]
    is_text = all(isinstance(reply, str) for reply in replies)
    after = line.get("filter") or "none"
    scores: dict[str, Any] = {}
    for metric in line["metrics"]:
        scores.update((f"{name},{after}", value) for name, value in flat_scores(metric, line[metric]))
    return Scored(
        task=task,
        doc=str(line["doc_id"]),
        repeat=0,
        question=_question(line),
        gold=str(line["target"]),
        replies=tuple(replies) if is_text else (),
        scores=scores,
        shown="" if is_text else f"log-likelihoods: {json.dumps(line['resps'])}",
    )


def _question(line: Mapping[str, Any]) -> str:
    doc = line["doc"]
    if isinstance(doc, Mapping):
        for name in QUESTIONS:
            if isinstance(doc.get(name), str) and doc[name].strip():
                return str(doc[name])
    return str(line["arguments"]["gen_args_0"]["arg_0"])
