"""The plan of the comparison of methods: what is trained, in which order."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

import zoo
from rethink.recipe import load_recipe
from zoo import (
    BEYOND,
    CHOSEN_RATES,
    NEW_SEEDS,
    RATES,
    SEEDS,
    THREE_SEEDS,
    ColdStart,
    Data,
    Job,
    best_rate,
    needed_cold_starts,
    needed_data,
    plan,
    run_job,
    update_records,
)
from zoo_arms import ARMS, WORLD


def jobs_by_list(out: Path, names: list[str], seeds: list[int], best: float = RATES[1]) -> list[list[str]]:
    """Return the names of the jobs of each list, if every arm is best with the same learning rate."""
    (out / "rates.json").write_text(json.dumps(dict.fromkeys(names, best)))
    return [[job.name for job in jobs] for jobs in plan(out, names, seeds)]


@pytest.mark.parametrize("name", ARMS)
def test_each_arm_has_a_recipe_that_loads(name: str) -> None:
    """Guards against an arm that fails hours after the start of the study."""
    arm = ARMS[name]
    load_recipe(arm.recipe, [*WORLD, *arm.settings]).build_method()
    for recipe in filter(None, (arm.data, arm.cold)):
        load_recipe(recipe, [*arm.settings] if recipe == arm.cold else []).build_method()
    assert arm.of in ("", *ARMS)
    assert arm.teacher in ("", "start", *ARMS)


@pytest.mark.parametrize("name", [name for name, arm in ARMS.items() if arm.is_method and not arm.of])
def test_demo_recipes_have_the_rates_of_the_comparison(name: str) -> None:
    """Guards against a demo that shows another learning rate than the results, perhaps a harmful one."""
    recipe = load_recipe(ARMS[name].recipe, [])
    compared = load_recipe(ARMS[name].recipe, [*WORLD, f"training.lr={json.loads(CHOSEN_RATES.read_text())[name]}"])
    assert recipe.training == compared.training


def test_stages_can_be_left_out_and_rates_are_known_without_trials(tmp_path: Path) -> None:
    """Guards against trials that are repeated on every machine, and against runs at a rate that was not chosen."""
    lists = [*plan(tmp_path, ["grpo", "gsr", "grpo-100"], [0, 4], ["runs", "ablations"])]
    assert [[job.name for job in jobs] for jobs in lists] == [["grpo-0", "grpo-4"], ["gsr-0", "gsr-4"], ["grpo-100-0"]]
    assert zoo.rates(tmp_path)["gsr"] == 4.5e-4
    (tmp_path / "rates.json").write_text('{"gsr": 1e-4}')
    assert zoo.rates(tmp_path)["gsr"] == 1e-4
    assert zoo.rates(tmp_path).keys() == {name for name, arm in ARMS.items() if not arm.of}


def test_teachers_come_first_and_ablations_last(tmp_path: Path) -> None:
    """Guards against a pupil without its teacher, and an ablation without its method's learning rate."""
    lists = jobs_by_list(tmp_path, ["grpo", "gsr", "gsr-direct"], [0, 4, 5])
    assert lists[1] == []
    assert lists[4] == []
    assert lists[0] == [f"grpo-rate-{rate:g}" for rate in RATES]
    assert lists[2] == ["grpo-0", "grpo-4"]
    assert lists[5] == ["gsr-0", "gsr-4"]
    assert lists[6] == ["gsr-direct-0"]  # seed 4 is not among those of ablations
    assert lists[7:] == [["grpo-5"], ["gsr-5"]]  # trained for longer
    assert 4 not in THREE_SEEDS
    assert not {*SEEDS} & {*NEW_SEEDS}


def test_objectives_and_long_ablations_are_trained_for_longer(tmp_path: Path) -> None:
    """Guards against tables over training that lack them."""
    names = ["objective-sapo", "shuffled", "self-distillation-fixed"]
    lists = [*plan(tmp_path, names, [5, 6, 7], ["longer"])]
    assert [job.name for jobs in lists for job in jobs] == [
        f"{name}-{seed}" for seed in NEW_SEEDS for name in names if name != "shuffled"
    ]
    assert {job.n_updates for jobs in lists for job in jobs} == {320}  # an ablation ended after 160


@pytest.mark.parametrize("best", RATES)
def test_another_rate_is_tried_where_the_last_one_was_best(tmp_path: Path, best: float) -> None:
    """Guards against a grid that ends where an arm is best."""
    lists = jobs_by_list(tmp_path, ["grpo", "pag"], [0], best=best)
    more = [f"grpo-rate-{rate:g}" for rate in BEYOND.values() if [f"grpo-rate-{rate:g}", f"pag-rate-{rate:g}"] in lists]
    assert more == ([f"grpo-rate-{BEYOND[best]:g}"] if best in BEYOND else [])


@pytest.mark.parametrize(
    ("found", "best"),
    [({1e-5: 0.90, 1e-4: 0.95}, 1e-4), ({1e-5: 0.945, 1e-4: 0.95}, 1e-5), ({1e-5: 0.95, 1e-4: 0.90, 1e-3: 0.1}, 1e-5)],
)
def test_a_tie_goes_to_the_lower_rate(found: dict[float, float], best: float) -> None:
    assert best_rate(found) == best


def test_data_and_cold_starts_are_made_once(tmp_path: Path) -> None:
    """Guards against two processes that write the same file."""
    names = ["grpo", "ton", "gsr", "gsr-direct", "gsr-no-teacher", "ton-no-dropout"]
    (tmp_path / "rates.json").write_text(json.dumps(dict.fromkeys(names, RATES[1])))
    jobs = [job for some in plan(tmp_path, names, [0]) for job in some]
    assert needed_data(jobs) == [
        Data("demo-ton-data", "", 0),
        Data("demo-gsr-data", "grpo", 0),
        Data("demo-gsr-data", "start", 0),
    ]
    assert needed_cold_starts(jobs) == [ColdStart("ton", 0), ColdStart("ton-no-dropout", 0)]


@pytest.mark.slow
def test_a_run_goes_on_where_it_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a run that trains again what it has trained, or keeps weights of other updates."""
    monkeypatch.setattr(zoo, "MARKS", (1, 3))
    monkeypatch.setattr(zoo, "SHORT", 1)
    monkeypatch.setattr(zoo, "BUDGET", 10)
    monkeypatch.setattr(zoo, "WORLD", (*WORLD, "problems_per_batch=2", "evaluation.problems.limit=2"))
    (tmp_path / "rates.json").write_text('{"grpo": 1e-4}')
    for job in (Job("grpo", 0), Job("grpo", 0, goes_on=True)):
        assert run_job(tmp_path, 0, job) is job
        assert len(update_records(tmp_path / "grpo-0")) == (3 if job.goes_on else 1)
    assert sorted(kept.name for kept in (tmp_path / "grpo-0" / "kept").iterdir()) == ["1", "3", "sampled", "trained"]
    monkeypatch.setitem(ARMS, "whole", ARMS["grpo"])
    (tmp_path / "rates.json").write_text('{"whole": 1e-4}')
    run_job(tmp_path, 0, Job("whole", 0, goes_on=True))
    one, other = (load_file(tmp_path / f"{name}-0" / "kept" / "3" / "model.safetensors") for name in ("grpo", "whole"))
    assert all(one[name].equal(other[name]) for name in one)
