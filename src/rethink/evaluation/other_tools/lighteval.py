"""Details of lighteval: `details_TASK_DATE.parquet`, with a row per document."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rethink.errors import UserError
from rethink.evaluation.other_tools.scored import Scored, flat_scores
from rethink.problems.files import read_rows

NAME = "lighteval"


def is_log(file: Path) -> bool:
    """Return whether a file has details of lighteval."""
    if file.suffix != ".parquet":
        return False
    from pyarrow import ArrowException, parquet

    try:
        return {"doc", "metric", "model_response"} <= set(parquet.read_schema(file).names)
    except (ArrowException, OSError):
        return False


def task_of(file: Path) -> str:
    """Return the task in a file's name, for details that do not name it: gsm8k|0 for details_gsm8k|0_DATE.parquet."""
    return re.sub(r"^details_|_\d{4}-\d\d-\d\dT[\d.-]+$", "", file.stem)


def read(file: Path) -> list[Scored]:
    """Return the documents of a file."""
    found: dict[str, Scored] = {}
    for row in read_rows(file):
        try:
            new = _scored(task_of(file), row.values, row.n)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as err:
            raise UserError(f"{row.location}: not a row that lighteval writes ({err!r})") from err
        if new.doc in found:
            raise UserError(f"{row.location}: the document {new.doc} is there twice")
        found[new.doc] = new
    return list(found.values())


def _scored(task: str, row: Mapping[str, Any], n: int) -> Scored:
    doc, response = row["doc"], row["model_response"]
    gold = doc["gold_index"] if isinstance(doc["gold_index"], list) else [doc["gold_index"]]
    scores: dict[str, Any] = {}
    for name, value in row["metric"].items():
        scores.update(flat_scores(name, value))
    replies = response.get("text") or ()
    return Scored(
        task=str(doc.get("task_name") or task),
        doc=str(doc.get("id") or n),
        repeat=0,
        question=str(doc.get("original_query") or doc["query"]),
        gold=" or ".join(str(doc["choices"][place]) for place in gold),
        replies=tuple(map(str, replies)),
        scores=scores,
        shown="" if replies else f"log-likelihoods: {json.dumps(response.get('logprobs'))}",
    )
