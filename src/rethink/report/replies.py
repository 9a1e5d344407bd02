"""The replies of a run or an evaluation as columns for the page. Texts are stored once, and rows refer to their numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from rethink.evaluation.stored import TRANSITIONS
from rethink.jsonl import Record
from rethink.strategies import parse
from rethink.strategies.attempt import OVERLONG

NONE = -1
"""The number that stands for no text and no reply."""


@dataclass(frozen=True)
class Limits:
    """How much of a run a page holds: records, letters of all texts together, of one text, and of all images in base64."""

    n_records: int = 10_000
    n_letters: int = 30_000_000
    n_letters_of_text: int = 100_000
    n_image_letters: int = 20_000_000

    def share(self, n: int) -> Limits:
        """Return the limits of each of n runs that have these together."""
        return replace(
            self,
            n_records=self.n_records // n,
            n_letters=self.n_letters // n,
            n_image_letters=self.n_image_letters // n,
        )


REPLY_COLUMNS = ("phase", "text", "verdict", "extracted", "reason", "stop", "n_tokens", "prompt")
ROW_COLUMNS = (
    "id",
    "source",
    "suite",
    "problem",
    "question",
    "gold",
    "strategy",
    "phase",
    "update",
    "repeat",
    "draft",
    "final",
    "transition",
    "reward",
    "terms",
    "steps",
    "images",
)


@dataclass
class ReplyTable:
    """Rows for the transcript browser, built record by record. A row is a final answer with the draft that it revises.

    `images` are the names of the images' files, in the order in which they first appear.
    """

    limits: Limits
    texts: list[str] = field(default_factory=list)
    images: dict[str, int] = field(default_factory=dict)
    replies: dict[str, list[Any]] = field(default_factory=lambda: {name: [] for name in REPLY_COLUMNS})
    rows: dict[str, list[Any]] = field(default_factory=lambda: {name: [] for name in ROW_COLUMNS})
    n_records: int = 0
    n_letters: int = 0
    _numbers: dict[str, int] = field(default_factory=dict)
    _known_replies: dict[tuple[Any, ...], int] = field(default_factory=dict)

    @property
    def is_full(self) -> bool:
        """Whether no further record fits."""
        return self.n_records >= self.limits.n_records or self.n_letters >= self.limits.n_letters

    def data(self, n_total: int) -> Record:
        """Return the table as plain data. `n_total` is the number of records that there are."""
        return {
            "n_records": self.n_records,
            "n_total": n_total,
            "texts": self.texts,
            "images": list(self.images),
            "replies": self.replies,
            "rows": self.rows,
        }

    def add_sample(self, record: Mapping[str, Any]) -> None:
        """Add a line of samples.jsonl: a reply that was trained on, with the draft in its prompt if there is one."""
        draft = NONE
        if record.get("draft_verdict") is not None:
            verdict = record["draft_verdict"]
            text = record.get("draft") or last_answer(record["prompt"])
            draft = self._reply(
                {"phase": "draft", "text": text, "verdict": verdict, "extracted": record.get("draft_extracted")}
            )
        final = self._reply({**record, "text": record["reply"]})
        asked = [record.get(name) for name in ("problem", "phase", "index", "seed", "version")]
        self._row(
            key=("training", *asked),
            record=record,
            source="training",
            question=record.get("question") or first_question(record["prompt"]),
            phase=record["phase"],
            update=record.get("version"),
            draft=draft,
            final=final,
            verdicts=(record.get("draft_verdict"), record["verdict"]),
        )
        self.n_records += 1

    def add_answer(self, record: Mapping[str, Any], source: str, update: int | None) -> None:
        """Add a line of an answers file: a row for each of its final answers."""
        steps: Sequence[Mapping[str, Any]] = record["steps"]
        numbers = list(map(self._reply, steps))
        revises = bool(record["strategy"]) and parse(record["strategy"]).revises
        is_overlong = bool(record["notes"].get(OVERLONG))
        for place in record["finals"]:
            final = steps[place]
            revised = final["draft"] if revises else None
            if revises and final["phase"] == "solve":  # kept, though it could have been revised, unless it was too long
                revised = None if is_overlong else place
            before = None if revised is None else steps[revised]["verdict"]
            self._row(
                key=(source, update, record["suite"], record["problem"], record["repeat"], record["strategy"], place),
                record=record,
                source=source,
                question=record["question"],
                phase=final["phase"],
                update=update,
                draft=NONE if revised is None else numbers[revised],
                final=numbers[place],
                verdicts=(before, final["verdict"]),
                steps=numbers if len(numbers) > 2 else (),
            )
        self.n_records += 1

    def _row(
        self,
        *,
        key: Sequence[Any],
        record: Mapping[str, Any],
        source: str,
        question: str,
        phase: str,
        update: int | None,
        draft: int,
        final: int,
        verdicts: tuple[str | None, str | None],
        steps: Sequence[int] = (),
    ) -> None:
        before, after = verdicts
        values = {
            "id": hashlib.sha256(repr(tuple(key)).encode("utf-8", "replace")).hexdigest()[:10],
            "source": self._text(source),
            "suite": self._text(record.get("suite") or str(record["problem"]).partition(":")[0]),
            "problem": self._text(record["problem"]),
            "question": self._text(question),
            "gold": self._text(record.get("gold")),
            "strategy": self._text(record.get("strategy")),
            "phase": self._text(phase),
            "update": update,
            "repeat": record.get("repeat", record.get("index")),
            "draft": draft,
            "final": final,
            "transition": self._text(TRANSITIONS.get((before or "", after or ""))),
            "reward": record.get("reward"),
            "terms": record.get("terms") or None,
            "steps": list(steps) or None,
            "images": self._images(record.get("images") or ()) or None,
        }
        for name, value in values.items():
            self.rows[name].append(value)

    def _reply(self, step: Mapping[str, Any]) -> int:
        """Return the number of a reply. Strategies share first answers, so equal ones are stored once."""
        prompt: list[tuple[str | int, ...]] = []
        for role, text, *images in step.get("prompt") or ():
            prompt.append((str(role), self._text(text), *self._images(images)))
        values = (
            self._text(step["phase"]),
            self._text(step["text"]),
            self._text(step.get("verdict")),
            self._text(step.get("extracted")),
            self._text(step.get("reason")),
            self._text(step.get("stop")),
            step.get("n_tokens"),
        )
        key = (*values, tuple(prompt))
        if key in self._known_replies:
            return self._known_replies[key]
        for name, value in zip(REPLY_COLUMNS, (*values, prompt), strict=True):
            self.replies[name].append(value)
        number = self._known_replies[key] = len(self._known_replies)
        return number

    def _images(self, names: Iterable[str]) -> list[int]:
        """Return the numbers of images."""
        return [self.images.setdefault(str(name), len(self.images)) for name in names]

    def _text(self, text: Any) -> int:
        """Return the number of a text, with its middle left out if it is too long; NONE for None."""
        if text is None:
            return NONE
        shown = shorten(str(text), self.limits.n_letters_of_text)
        number = self._numbers.get(shown)
        if number is None:
            number = self._numbers[shown] = len(self.texts)
            self.texts.append(shown)
            self.n_letters += len(shown)
        return number


def shorten(text: str, n: int) -> str:
    """Return the text, with a note in place of its middle if it is longer than n letters.

    >>> shorten("a" * 10, 4)
    'aa\\n[6 letters are not shown here]\\naa'
    """
    if len(text) <= n:
        return text
    half = n // 2
    return f"{text[:half]}\n[{len(text) - 2 * half:,} letters are not shown here]\n{text[-half:]}"


def first_question(prompt: Iterable[Sequence[str]]) -> str:
    """Return the first message of the user in a prompt."""
    return next((text for role, text, *_ in prompt if role == "user"), "")


def last_answer(prompt: Sequence[Sequence[str]]) -> str:
    """Return the last message of the assistant in a prompt."""
    return next((text for role, text, *_ in reversed(prompt) if role == "assistant"), "")
