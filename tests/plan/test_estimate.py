"""What the estimate of a 4B model says about each setting."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from rethink.plan.advice import changes, first_fit
from rethink.plan.estimate import Estimates, MemoryEstimate, memory_settings
from rethink.plan.memory import GIB, MemorySettings
from rethink.plan.meta_model import read_config
from rethink.plan.token_counts import Lengths, count_batch
from rethink.recipe import load_recipe

QWEN = Path(__file__).parent.parent / "support" / "configs" / "qwen3-4b.json"
N_QWEN = 4_022_468_096

pytestmark = pytest.mark.slow


def estimates(*settings: str, n_gpus: int = 1) -> tuple[Estimates, MemorySettings]:
    small = ["training.gradient_checkpointing=false", "problems_per_batch=4", "sampling.max_tokens=100"]
    recipe = load_recipe("thinktwice-qwen3-4b", [*small, *settings])
    counted, _ = count_batch(recipe, Lengths(50, 1.0))
    return Estimates(read_config("", QWEN), counted), memory_settings(recipe, n_gpus, counted)


@cache
def estimate(*settings: str, n_gpus: int = 1) -> MemoryEstimate:
    found, memory = estimates(*settings, n_gpus=n_gpus)
    return found.estimate(memory)


def test_a_kl_term_keeps_the_start_model() -> None:
    """Guards against 4 bytes per parameter, and a copy, that are found missing when the run has started."""
    plain, kl = estimate(), estimate("method.solve.kl_coef=0.1")
    assert (plain.settings.frozen.compared, kl.settings.frozen.compared) == (False, True)
    assert kl.peak - plain.peak > 4 * N_QWEN
    plain, kl = (estimate(*more, n_gpus=4) for more in ((), ("method.solve.kl_coef=0.1",)))
    assert kl.peak - plain.peak == pytest.approx(4 * N_QWEN / 4)


def test_a_moving_reference_is_a_separate_model() -> None:
    """Guards against a plan in which it is the base under the adapters, which takes no memory."""
    adapted = ("lora.rank=16", "method.solve.kl_coef=0.1")
    fixed, moving = estimate(*adapted), estimate(*adapted, "training.reference_every=2")
    assert (fixed.settings.frozen.moves, moving.settings.frozen.moves) == (False, True)
    assert moving.peak - fixed.peak > 3.9 * N_QWEN


def test_adapters_on_several_gpus() -> None:
    """Guards against a plan for full fine-tuning: adapters need almost none of the optimizer's 8 bytes per parameter."""
    full, adapted = (estimate(f"lora.rank={rank}", n_gpus=2) for rank in (0, 16))
    assert full.peak - adapted.peak > 8 * N_QWEN / 2
    halved = estimate("lora.rank=16", "model.dtype=bfloat16", n_gpus=2)
    assert adapted.peak - halved.peak == pytest.approx(2 * N_QWEN / 2)


@pytest.mark.parametrize("setting", ["training.autocast=none", "sampler.dtype=float32"])
def test_each_setting_changes_the_estimate(setting: str) -> None:
    """Guards against settings that the plan does not read."""
    plain, other = estimate(), estimate(setting)
    assert (plain.sampling, plain.training) != (other.sampling, other.training)


def test_suggested_settings_save_what_the_advice_says() -> None:
    """Guards against a change that is named but not made: the same settings in the recipe give the same estimate."""
    found, memory = estimates()
    before = found.estimate(memory)
    for change in changes(found, memory):
        assert before.peak - found.estimate(change.settings).peak == pytest.approx(change.saved)
        if not change.setting.startswith("--"):
            assert before.peak - estimate(change.setting).peak == pytest.approx(change.saved)
    changed, then = first_fit(found, memory, before.needed - 10 * GIB)
    assert estimate(*changed).needed == pytest.approx(then.needed) != before.needed


def test_vllm_takes_the_place_of_a_copy() -> None:
    """Guards against a plan that counts our own sampler's copy beside vLLM, or vLLM while the trainer works."""
    servers = ("sampler.engine=vllm", 'sampler.urls=["http://localhost:1"]')
    own, beside, apart = (estimate(*more, n_gpus=4) for more in ((), ("sampler.engine=vllm",), servers))
    assert own.training is not None
    assert beside.training is not None
    assert beside.sampling is not None
    copy = own.training.items["sampler's weights, unsharded"]
    assert own.training.n_bytes - beside.training.n_bytes == pytest.approx(copy)
    assert beside.sampling.items["vLLM (sampler.gpu_memory)"] == 0.4 * 80 * GIB
    assert apart.training == beside.training
    assert apart.sampling is None
