"""Experiment trackers: each gets what metrics.jsonl gets. A tracker that fails is switched off; it never stops training."""

from __future__ import annotations

from rethink.training.trackers.open_trackers import FILE as FILE
from rethink.training.trackers.open_trackers import Trackers as Trackers
from rethink.training.trackers.open_trackers import check_trackers as check_trackers
