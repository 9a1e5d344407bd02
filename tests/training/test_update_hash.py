"""The hash by which ranks check that they train the same update."""

from __future__ import annotations

import hashlib
import pickle
from dataclasses import fields, replace
from typing import Any

from rethink.objectives import Clip, Distill, Divergence, Imitate, PolicyGradient, Prefer, Update
from rethink.training.update_hash import update_hash
from rethink.types import Sample, Sampling, Verdict
from support.samples import factors, make_prompt, make_sample

CHOSEN, REJECTED = make_sample((7, 8, 1), group="c"), make_sample((9, 1), group="c")
GRADIENT = PolicyGradient((make_sample((4, 5, 1)), make_sample((6, 1), group="q")), (0.5, -0.5))
UPDATE = Update("solve", (GRADIENT, Imitate((CHOSEN,), (1.0,)), Prefer((CHOSEN,), (REJECTED,))), n_steps=2)


def with_sample(**changes: Any) -> Update:
    first, *others = GRADIENT.samples
    samples = (replace(first, **changes), *others)
    return replace(UPDATE, parts=(replace(GRADIENT, samples=samples), *UPDATE.parts[1:]))


def with_part(k: int, **changes: Any) -> Update:
    parts: list[Any] = list(UPDATE.parts)
    parts[k] = replace(parts[k], **changes)
    return replace(UPDATE, parts=tuple(parts))


def with_hint(*prompt_ids: int, **changes: Any) -> Update:
    shown = replace(CHOSEN, prompt_ids=prompt_ids)
    return replace(UPDATE, parts=(*UPDATE.parts, Distill((CHOSEN,), (shown,), **changes)))


DIFFERENT = {
    "name": replace(UPDATE, name="refine"),
    "n_steps": replace(UPDATE, n_steps=3),
    "on_policy": replace(UPDATE, on_policy=False),
    "parts reordered": replace(UPDATE, parts=UPDATE.parts[::-1]),
    "other kind of part": replace(UPDATE, parts=(Imitate(GRADIENT.samples, factors(GRADIENT)), *UPDATE.parts[1:])),
    "samples reordered": with_part(0, samples=GRADIENT.samples[::-1]),
    "advantages": with_part(0, advantages=(0.5, -0.5 + 1e-12)),
    "other clip": with_part(0, surrogate=Clip(0.2, 0.3)),
    "imitate: weights": with_part(1, weights=(0.5,)),
    "prefer: swapped": with_part(2, chosen=(REJECTED,), rejected=(CHOSEN,)),
    "distill: hint": with_hint(2, 32, 3),
    "distill: other hint": with_hint(2, 33, 3),
    "distill: other divergence": with_hint(2, 32, 3, divergence=Divergence("reverse")),
    "prompt": with_sample(prompt=make_prompt("other")),
    "seed": with_sample(prompt=make_prompt("p", seed=3)),
    "index": with_sample(index=1),
    "prompt_ids": with_sample(prompt_ids=(2, 32, 3)),
    "ids": with_sample(ids=(4, 5, 2)),
    "mask": with_sample(mask=(True, False, True)),
    "log_probs": with_sample(log_probs=(-1.0, -1.0 - 1e-12, -1.0)),
    "forced": with_sample(forced=(False, True, False)),
    "sampling": with_sample(sampling=Sampling(0.9)),
    "stop": with_sample(stop="length"),
    "version": with_sample(version=1),
    "a token moves from prompt to reply": with_sample(
        prompt_ids=(2, 31), ids=(3, 4, 5, 1), mask=(True,) * 4, log_probs=(-1.0,) * 4
    ),
}


def test_every_change_changes_the_hash() -> None:
    """Guards against ranks that silently train different updates, and fields of Sample that `DIFFERENT` lacks."""
    hashes = [update_hash(u) for u in (UPDATE, *DIFFERENT.values())]
    assert len(set(hashes)) == len(hashes)
    assert all(len(h) == 12 and int(h, 16) >= 0 for h in hashes)
    not_trained = {"text", "verdict", "reward", "terms", "usage"}
    assert {f.name for f in fields(Sample)} <= not_trained | DIFFERENT.keys() | {"prompt"}


def test_equal_updates_have_the_same_hash_in_any_process() -> None:
    """Guards against a hash of identities, of Python's salted `hash`, or of what is not trained."""
    again = pickle.loads(pickle.dumps(make_sample((4, 5, 1), group="x").ids))
    update = with_sample(ids=tuple(again), text="other words", verdict=Verdict(True))
    assert update_hash(update) == update_hash(with_sample(text="", verdict=None))
    assert update_hash(replace(UPDATE, groups=((CHOSEN,),))) == update_hash(UPDATE)
    assert update_hash(Update("empty", ())) == hashlib.sha256(b"('empty', 1, True)").hexdigest()[:12]
