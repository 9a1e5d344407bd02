"""The settings of TRL, verl and OpenRLHF, and ours."""

from __future__ import annotations

import pytest

from rethink.methods import METHODS
from rethink.recipe import known_keys
from rethink.recipes import keys
from rethink.recipes.other_libraries import TABLES, find


@pytest.mark.parametrize("library", TABLES)
def test_every_counterpart_is_a_setting(library: str) -> None:
    """Guards against suggestions that are refused in turn, and against names of ours that are called foreign."""
    ours = {*known_keys(), *keys.known_keys(METHODS["grpo"], "method."), "rewards", "method.name", "method.objective"}
    for name, counterpart in TABLES[library].items():
        assert set(counterpart.settings) <= ours, name
        assert counterpart.settings or counterpart.note, name
        assert name not in ours


@pytest.mark.parametrize(
    ("key", "settings"),
    [
        ("num_generations", ("method.n_solve",)),
        ("training.beta", ("method.solve.kl_coef",)),
        ("--n-samples-per-prompt", ("method.n_solve",)),
        ("actor_rollout_ref.actor.optim.lr", ("training.lr",)),
        ("+data.train_batch_size", ("problems_per_batch",)),
        ("trainer.logger", ("trackers",)),
        ("trainer.nnodes", ()),
        ("algorithm.filter_groups.max_num_gen_batches", ("method.fill_rounds",)),
        ("actor_rollout_ref.actor.loss_scale_factor", ("method.solve.constant_length",)),
    ],
)
def test_names_are_found_in_any_form(key: str, settings: tuple[str, ...]) -> None:
    """Guards against names that are found only as the library's own configuration writes them."""
    found = find(key)
    assert found is not None
    assert found.settings == settings


def test_other_names_are_not_found() -> None:
    """Guards against a counterpart for every name."""
    assert find("updtes") is None
