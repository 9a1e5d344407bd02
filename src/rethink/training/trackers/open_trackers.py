"""The trackers of a run: opened with its first record, continued when it resumes, and switched off if they fail."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rethink.errors import UserError, install_extra
from rethink.evaluation.answers import Answer
from rethink.jsonl import Record, to_json, write_text
from rethink.training.trackers.tracker import Start, Tracker, numbers_of, table_of

NAMES = ("tensorboard", "wandb", "trackio", "mlflow")
FILE = "trackers.json"
"""The file in the run folder that holds the id of the run, the trackers' ids of it, and the last updates they got."""


def check_trackers(names: Sequence[str]) -> None:
    """Raise UserError for an unknown tracker, and for one that is not installed."""
    for name in names:
        if name not in NAMES:
            raise UserError(f"trackers: there is no {name!r}; there are {', '.join(NAMES)}")
        package = _module(name).PACKAGE
        if find_spec(package) is None:
            raise UserError(f"trackers: {name} is not installed: {install_extra(name)}")


def _module(name: str) -> Any:
    return import_module(f"rethink.training.trackers.{name}")


def _is_state(stored: Any) -> bool:
    """Return whether this is what `Trackers` stores."""
    if not isinstance(stored, dict) or not isinstance(stored.get("id"), str):
        return False
    return isinstance(stored.get("known_as"), dict) and isinstance(stored.get("last"), dict)


class Trackers:
    """Passes each record on to the trackers of a run. Only rank 0 has any.

    A resumed run makes the last updates before it was stopped again. Those that a tracker already has are not sent again.
    """

    def __init__(
        self,
        names: Sequence[str] = (),
        folder: Path = Path(),
        config: Record | None = None,
        warn: Callable[[str], None] = print,
    ) -> None:
        self._names = list(dict.fromkeys(names))
        self._folder = folder
        self._config = config or {}
        self._warn = warn
        self._open: dict[str, Tracker] = {}
        self._state: Record = {"id": secrets.token_hex(4), "known_as": {}, "last": {}}
        with suppress(OSError, ValueError):  # there is none yet, or it is damaged: then this is another run to trackers
            stored = json.loads((folder / FILE).read_bytes())
            if _is_state(stored):
                self._state = stored

    def log(self, record: Record, answers: Sequence[Answer] = ()) -> None:
        """Send the record of an update or an evaluation, the latter with the first of its answers."""
        if not self._names:
            return
        kind = "evaluation" if record["phase"] == "evaluation" else "update"
        step = int(record["update"])
        for name in list(self._names):
            place = f"{name} {kind}"
            if step <= self._state["last"].get(place, -1):
                continue
            try:
                tracker = self._opened(name)
                tracker.log(step, numbers_of(record))
                if answers:
                    tracker.log_table(step, table_of(answers))
            except Exception as err:  # whatever a tracker raises: the network, a full disk, a server's refusal
                self._switch_off(name, err)
            else:
                self._state["last"][place] = step
        with suppress(UserError):  # a full disk stops the run where it writes its own records
            write_text(self._folder / FILE, to_json(self._state) + "\n")

    def _opened(self, name: str) -> Tracker:
        if name not in self._open:
            known_as = self._state["known_as"].get(name, "")
            start = Start(self._folder, self._folder.resolve().name, self._state["id"], self._config, known_as)
            tracker: Tracker = _module(name).open_tracker(start)
            self._open[name] = tracker
            self._state["known_as"][name] = tracker.known_as
        return self._open[name]

    def _switch_off(self, name: str, err: Exception) -> None:
        self._names.remove(name)
        self._warn(f"the tracker {name} failed and is off for the rest of this run ({type(err).__name__}: {err})")
        tracker = self._open.pop(name, None)
        if tracker is not None:
            with suppress(Exception):
                tracker.close()

    def close(self) -> None:
        """Close the trackers. They open again with the next record."""
        for name, tracker in list(self._open.items()):
            try:
                tracker.close()
            except Exception as err:
                self._warn(f"the tracker {name} could not be closed ({type(err).__name__}: {err})")
        self._open.clear()
