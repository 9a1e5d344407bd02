"""A hash of an update, by which ranks check that they are about to train on the same one."""

from __future__ import annotations

import hashlib
from array import array

from rethink.objectives import Distill, Part, Update
from rethink.types import Sample

SAMPLES = ("samples", "chosen", "rejected", "teacher_samples")
"""The fields of parts that hold samples."""


def update_hash(update: Update) -> str:
    """Return 12 hexadecimal digits that depend on every sample, weight and setting of the update."""
    found = hashlib.sha256(repr((update.name, update.n_steps, update.on_policy)).encode())
    for part in update.parts:
        found.update(_settings(part).encode())
        for sample in (*part.samples, *_read_by_teacher(part)):
            _add(found, sample)
    return found.hexdigest()[:12]


def _read_by_teacher(part: Part) -> tuple[Sample, ...]:
    return part.teacher_samples if isinstance(part, Distill) else ()


def _settings(part: Part) -> str:
    kept = {name: value for name, value in vars(part).items() if name not in SAMPLES}
    return repr((type(part).__name__, kept))


def _add(found: hashlib._Hash, sample: Sample) -> None:
    found.update(repr((sample.prompt.group, sample.index, sample.version, sample.sampling, sample.stop)).encode())
    for kind, values in (("q", sample.prompt_ids), ("q", sample.ids), ("d", sample.log_probs)):
        found.update(array(kind, values).tobytes())
    found.update(bytes(sample.mask) + b"/" + bytes(sample.forced))
