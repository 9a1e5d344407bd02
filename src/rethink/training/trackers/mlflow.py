"""MLflow. MLFLOW_TRACKING_URI and MLFLOW_EXPERIMENT_NAME apply; tables are artifacts, eval/samples-UPDATE.json."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping, Sequence

from rethink.training.trackers.tracker import COLUMNS, Start

PACKAGE = "mlflow"
REFUSED = re.compile(r"[^\w/.\- :]")
"""Characters that MLflow does not allow in the name of a metric."""


class Mlflow:
    """A run of MLflow."""

    def __init__(self, start: Start) -> None:
        from mlflow import MlflowClient

        self._client = MlflowClient()
        self.known_as = start.known_as
        if not self.known_as:
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "rethink")
            known = self._client.get_experiment_by_name(name)
            experiment = known.experiment_id if known else self._client.create_experiment(name)
            self.known_as = self._client.create_run(experiment, run_name=start.name).info.run_id
            self._client.log_dict(self.known_as, start.config, "settings.json")
        self._client.update_run(self.known_as, status="RUNNING")

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = time.time_ns() // 1_000_000
        metrics = [Metric(REFUSED.sub("_", name), value, now, step) for name, value in numbers.items()]
        self._client.log_batch(self.known_as, metrics)

    def log_table(self, step: int, rows: Sequence[Sequence[str]]) -> None:
        table = {"columns": list(COLUMNS), "data": [list(row) for row in rows]}
        self._client.log_dict(self.known_as, table, f"eval/samples-{step:06d}.json")

    def close(self) -> None:
        self._client.set_terminated(self.known_as)


open_tracker = Mlflow
