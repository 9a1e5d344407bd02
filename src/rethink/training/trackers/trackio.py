"""Trackio, a local tracker: `trackio show` opens its page. TRACKIO_PROJECT, TRACKIO_DIR and TRACKIO_SPACE_ID apply."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from rethink.training.trackers.tracker import COLUMNS, Start

PACKAGE = "trackio"


class Trackio:
    """A run of Trackio. It has no names besides ids, so the id begins with the name of the run folder."""

    def __init__(self, start: Start) -> None:
        import trackio

        self._trackio = trackio
        self.known_as = start.known_as or f"{start.name}-{start.id}"
        self._run = trackio.init(
            project=os.environ.get("TRACKIO_PROJECT", "rethink"),
            name=self.known_as,
            space_id=os.environ.get("TRACKIO_SPACE_ID"),
            config=None if start.known_as else start.config,
            resume="allow",
            embed=False,
        )

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        self._run.log(dict(numbers), step=step)

    def log_table(self, step: int, rows: Sequence[Sequence[str]]) -> None:
        import pandas as pd

        table = self._trackio.Table(dataframe=pd.DataFrame(list(rows), columns=list(COLUMNS)))
        self._run.log({"eval/samples": table}, step=step)

    def close(self) -> None:
        self._run.finish()


open_tracker = Trackio
