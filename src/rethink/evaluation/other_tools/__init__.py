"""Evaluations of other tools: logs of inspect_ai, samples of lm-evaluation-harness, details of lighteval."""

from __future__ import annotations

from rethink.evaluation.other_tools.logs import Log as Log
from rethink.evaluation.other_tools.logs import find_log as find_log
from rethink.evaluation.other_tools.logs import reply_rows as reply_rows
