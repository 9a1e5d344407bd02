"""The hash by which ranks check that they train the same update."""

from __future__ import annotations

import hashlib
import pickle
from dataclasses import fields, replace
from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st

from rethink.objectives import AdvantageAwareShaping, Clip, Imitate, PolicyGradient, Prefer, Update
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


DIFFERENT = {
    "name": replace(UPDATE, name="refine"),
    "n_steps": replace(UPDATE, n_steps=3),
    "on_policy": replace(UPDATE, on_policy=False),
    "one part less": replace(UPDATE, parts=UPDATE.parts[:2]),
    "parts reordered": replace(UPDATE, parts=UPDATE.parts[::-1]),
    "other kind of part": replace(UPDATE, parts=(Imitate(GRADIENT.samples, factors(GRADIENT)), *UPDATE.parts[1:])),
    "one sample less": with_part(0, samples=GRADIENT.samples[:1], advantages=(0.5,)),
    "samples reordered": with_part(0, samples=GRADIENT.samples[::-1]),
    "advantages": with_part(0, advantages=(0.5, -0.5 + 1e-12)),
    "other clip": with_part(0, surrogate=Clip(0.2, 0.3)),
    "other surrogate": with_part(0, surrogate=AdvantageAwareShaping()),
    "loss_aggregation": with_part(0, loss_aggregation="sequence"),
    "constant_length": with_part(0, constant_length=2),
    "kl_coef": with_part(0, kl_coef=0.1),
    "coefficient": with_part(0, coefficient=2.0),
    "imitate: weights": with_part(1, weights=(0.5,)),
    "imitate: coefficient": with_part(1, coefficient=0.5),
    "prefer: beta": with_part(2, beta=0.2),
    "prefer: coefficient": with_part(2, coefficient=0.5),
    "prefer: swapped": with_part(2, chosen=(REJECTED,), rejected=(CHOSEN,)),
    "prompt": with_sample(prompt=make_prompt("other")),
    "seed": with_sample(prompt=make_prompt("p", seed=3)),
    "index": with_sample(index=1),
    "prompt_ids": with_sample(prompt_ids=(2, 32, 3)),
    "ids": with_sample(ids=(4, 6, 1)),
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


numbers = st.floats(allow_nan=False, width=64)


@given(st.lists(st.tuples(st.integers(0, 2**40), numbers), min_size=1, max_size=4), st.data())
def test_every_token_and_log_prob_counts(tokens: list[tuple[int, float]], data: st.DataObject) -> None:
    """Guards against rounded values, and values left out at either end."""
    ids, log_probs = (tuple(column) for column in zip(*tokens, strict=True))
    k = data.draw(st.integers(0, len(tokens) - 1))
    one = make_sample(ids, log_probs=log_probs)
    other_id = make_sample((*ids[:k], ids[k] + 1, *ids[k + 1 :]), log_probs=log_probs)
    near = torch.nextafter(torch.tensor(log_probs[k], dtype=torch.float64), torch.tensor(1e308, dtype=torch.float64))
    other_log_prob = make_sample(ids, log_probs=(*log_probs[:k], float(near), *log_probs[k + 1 :]))
    found = [update_hash(Update("u", (Imitate((s,), (1.0,)),))) for s in (one, other_id)]
    assert found[0] != found[1]
    if float(near) != log_probs[k]:
        assert update_hash(Update("u", (Imitate((other_log_prob,), (1.0,)),))) != found[0]
