"""`rethink plan`: what it counts, what it prints, what it advises, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rethink.plan.advice import changes, first_fit
from rethink.plan.estimate import Estimates, MemoryEstimate, memory_settings
from rethink.plan.memory import GIB, FrozenModels, MemorySettings
from rethink.plan.meta_model import read_config
from rethink.plan.token_counts import Lengths, count_batch
from rethink.recipe import load_recipe
from support.command_line import Rethink, assert_one_message, in_process

CONFIGS = Path(__file__).parent.parent / "support" / "configs"
QWEN = CONFIGS / "qwen3-4b.json"
SHORT = "sampling.max_tokens=40"
N_QWEN = 4_022_468_096


@pytest.fixture
def rethink(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Rethink:
    return in_process(capsys, monkeypatch, tmp_path)


def estimates(*settings: str, n_gpus: int = 1, recipe: str = "thinktwice-qwen3-4b") -> tuple[Estimates, MemorySettings]:
    resolved = load_recipe(recipe, ["training.gradient_checkpointing=false", *settings])
    counted, _ = count_batch(resolved, Lengths(50, 1.0))
    return Estimates(read_config("", QWEN), counted), memory_settings(resolved, n_gpus, counted)


def estimate(*settings: str, n_gpus: int = 1) -> MemoryEstimate:
    found, choice = estimates(*settings, n_gpus=n_gpus)
    return found.estimate(choice)


# What is counted


def test_tokens_of_think_twice() -> None:
    """Two updates: 3 problems with 5 solutions each, then 2 refinements of one of them, all as long as their cap allows."""
    settings = ["problems_per_batch=3", "method.n_solve=5", "method.n_refine=2", SHORT]
    counted, named = count_batch(load_recipe("thinktwice-qwen3-4b", settings), Lengths(50, 1.0))
    solve, refine = counted.requests
    assert [(r.phase, len(r.prompts), r.n, r.n_sampled) for r in (solve, refine)] == [
        ("solve", 3, 5, 3 * 5 * 40),
        ("refine", 3, 2, 3 * 2 * 40),
    ]
    # A refinement sees the draft, which is as long as a reply without its end.
    assert all(b >= a + 39 for a, b in zip(solve.prompts, refine.prompts, strict=True))
    assert [len(u.parts[0].samples) for u in counted.updates] == [15, 6]
    assert named == "questions of 50 tokens"


@pytest.mark.parametrize(
    ("name", "phases"),
    [
        ("demo-grpo", ["solve"]),
        ("demo-reflect-retry-reward", ["solve", "reflect", "retry"]),
        ("demo-gsr", []),
        ("warm-start", []),
    ],
)
def test_every_method_is_counted_by_running_it(name: str, phases: list[str]) -> None:
    """Guards against a table of methods that has to be kept up: whoever writes one is planned for."""
    counted, _ = count_batch(load_recipe(name), Lengths())
    assert [r.phase for r in counted.requests if r.role == "policy"] == phases
    assert counted.updates
    assert sum(len(part.samples) for u in counted.updates for part in u.parts) > 0


def test_a_teacher_is_counted_apart() -> None:
    """Guards against a teacher's tokens that count as the policy's, and a frozen model that is forgotten."""
    recipe = load_recipe("demo-think-tuning")
    counted, _ = count_batch(recipe, Lengths())
    assert {r.role for r in counted.requests} == {"policy", "teacher"}
    frozen = memory_settings(recipe, 1, counted).frozen
    assert (frozen.start, frozen.start_answers, frozen.other_answers) == (True, True, False)
    away = load_recipe("demo-think-tuning", ["teacher.endpoint.url=http://localhost:1"])
    assert memory_settings(away, 1, counted).frozen == FrozenModels()
    here = load_recipe("demo-think-tuning", ["teacher.path=tiny-talk"])
    assert memory_settings(here, 1, counted).frozen == FrozenModels(other_answers=True)


def test_a_kl_term_keeps_the_start_model() -> None:
    """Guards against 4 bytes per parameter and a copy that only show when the run has started."""
    plain, kl = estimate(SHORT), estimate(SHORT, "method.solve.kl_coef=0.1")
    assert (plain.choice.frozen.start, kl.choice.frozen.start) == (False, True)
    assert kl.peak - plain.peak > 4 * N_QWEN


def test_adapters_on_several_gpus() -> None:
    """Guards against the refusal of what is trained by now, and against a run of all weights that is planned in its place:
    of the optimizer's 8 bytes per parameter the adapters have next to nothing, and the rest of the base is as it was."""
    full, adapted = (estimate(SHORT, f"lora.rank={rank}", n_gpus=2) for rank in (0, 16))
    assert full.peak - adapted.peak > 8 * N_QWEN / 2
    halved = estimate(SHORT, "lora.rank=16", "model.dtype=bfloat16", n_gpus=2)
    assert adapted.peak - halved.peak == pytest.approx(2 * N_QWEN / 2)
    together, then = first_fit(*estimates(SHORT, n_gpus=2), 28 * GIB)
    assert then.choice.rank == 16, together


# What is advised


def test_advice_saves_what_it_says_and_fits_in_the_end() -> None:
    """Guards against a change that is named but not made, and settings that are named although they are not needed."""
    found, choice = estimates("sampling.max_tokens=400")
    before = found.estimate(choice)
    advised = list(changes(found, choice))
    for change in advised:
        assert before.peak - found.estimate(change.choice).peak == pytest.approx(change.saved)
    names = {change.setting.partition("=")[0] for change in advised}
    assert {"training.optimizer", "lora.rank", "--gpus 2"} <= names
    limit = before.needed - 10 * GIB
    together, then = first_fit(found, choice, limit)
    assert limit >= then.needed
    assert together
    # Made for real, the settings give the same figure.
    real = [s for s in together if not s.startswith(("--", "lora"))]
    assert len(real) == len(together)
    assert estimate("sampling.max_tokens=400", *real).needed == pytest.approx(then.needed)
    for left_out in real:
        fewer = [s for s in real if s != left_out]
        assert estimate("sampling.max_tokens=400", *fewer).needed > limit


def test_more_gpus_when_nothing_else_is_enough() -> None:
    """Guards against an end without an answer."""
    found, choice = estimates(SHORT)
    together, then = first_fit(found, choice, 24 * GIB)
    assert then.needed <= 24 * GIB
    assert any(s.startswith(("--gpus", "lora")) for s in together)
    _, hopeless = first_fit(found, choice, GIB)
    assert hopeless.needed > GIB


def test_each_setting_does_what_it_is_there_for() -> None:
    """Guards against settings that the plan does not read."""
    plain = estimate("sampling.max_tokens=400")
    for setting in (
        "training.gradient_checkpointing=true",
        "training.optimizer=adamw8bit",
        "training.micro_batch_tokens=1024",
        "training.autocast=none",
        "sampler.dtype=float32",
    ):
        other = estimate("sampling.max_tokens=400", setting)
        pairs = [(plain.sampling, other.sampling), (plain.training, other.training)]
        assert any(a and b and a.n_bytes != b.n_bytes for a, b in pairs), setting
    small = estimate("sampling.max_tokens=400", "sampler.cache_gib=1").sampling
    large = plain.sampling
    assert small is not None
    assert large is not None
    assert small.n_bytes < large.n_bytes


# The command


def test_a_plan_that_does_not_fit(rethink: Rethink) -> None:
    """Guards against a table without its verdict, and figures on the screen that are not those of the file."""
    found = rethink(
        *("plan", "thinktwice-qwen3-4b", "--gpus", 2, "--gpu-memory", 40, "--config", QWEN, "--json", "plan.json"),
        "sampling.max_tokens=400",
    )
    assert found.code == 0
    figures = json.loads(Path("plan.json").read_text())
    assert not figures["fits"]
    assert f"DOES NOT FIT: needs {figures['needed_gib']:.1f} GiB" in found.out
    for change in figures["changes"]:
        assert change["setting"] in found.out
        assert change["saved_gib"] > 0
    assert " ".join(figures["together"]["settings"]) in found.out
    for stage in ("sampling", "training"):
        items = figures["memory"][stage]["gib"]
        assert all(name in found.out for name in items)
        assert (sum(items.values()) * 1.05 + 1) <= figures["needed_gib"] * 1.001
    assert "gathered layers" in found.out
    assert "2 GPUs of 40 GiB" in found.out


@pytest.mark.parametrize(("gib", "expected"), [(0, 80 / 3), (4, 4)])
def test_a_cache_left_open_takes_a_third_of_the_gpu(rethink: Rethink, gib: int, expected: float) -> None:
    """Guards against a plan for the cache of a CPU. FullModel groups of at most 0.2 GiB a row fit into it."""
    rethink(
        *("plan", "thinktwice-qwen3-4b", "--config", QWEN, "--gpu-memory", 80, "--json", "plan.json"),
        *("sampling.max_tokens=400", "problems_per_batch=1000", f"sampler.cache_gib={gib}"),
    )
    found = json.loads(Path("plan.json").read_text())["memory"]["sampling"]["gib"]["keys and values"]
    assert expected - 2 < found <= expected


def test_a_plan_that_fits(rethink: Rethink) -> None:
    """The tiny model, with problems that are at hand."""
    found = rethink("plan", "demo-think-twice", "--json", "plan.json")
    assert found.code == 0
    figures = json.loads(Path("plan.json").read_text())
    assert figures["fits"]
    assert "FITS: needs 1." in found.out
    assert "the first 32 problems of countdown" in found.out
    assert "together" not in figures
    # 32 problems, 8 samples, 24 tokens at most, half of it expected; one update of two.
    updates = figures["updates"]
    assert updates["most"]["sampled"] == {"solve": 32 * 8 * 24 / 2, "refine": 32 * 8 * 24 / 2}
    assert updates["mean"]["sampled"]["solve"] == 32 * 8 * 12 / 2
    assert updates["mean"].keys() == {"sampled", "prompts", "others", "trained"}


@pytest.mark.parametrize("config", ["llama-8b.json", "olmo2-7b.json"])
def test_other_models(rethink: Rethink, config: str) -> None:
    """A head apart from the embedding, and layers that are not Llama's."""
    found = rethink("plan", "grpo-qwen3-4b", SHORT, "--gpus", 8, "--config", CONFIGS / config)
    assert found.code == 0
    assert "gathered layers" in found.out


MISTAKES = {
    ("--gpus", "0"): "--gpus must be at least 1, not 0",
    ("--gpu-memory", "0"): "--gpu-memory is the memory of one GPU in GiB, above 0, not 0",
    ("--gpu-memory", "-3"): "above 0, not -3",
    ("--gpu-memory", "nan"): "above 0, not nan",
    ("--reply-share", "0"): "--reply-share must lie in (0, 1]",
    ("--question-tokens", "0"): "--question-tokens be 1 or more",
    ("--config", "nowhere.json"): "there is no file nowhere.json",
    ("model.path=no/such-model",): "cannot read the configuration of 'no/such-model'",
    ("trainng.lr=1",): "unknown key trainng",
    ("--gpus", "64"): "64 ranks share the problems of a batch, but problems_per_batch is only",
    (
        "--gpus",
        "2",
        "lora.rank=4",
        "training.optimizer=adamw8bit",
    ): "several ranks train adapters with AdamW only",
}


@pytest.mark.parametrize(("arguments", "message"), MISTAKES.items())
def test_a_mistake_is_named(rethink: Rethink, arguments: tuple[str, ...], message: str) -> None:
    """Guards against a traceback, and a plan of nonsense."""
    assert_one_message(rethink("plan", "demo-grpo", *arguments), message)


def test_a_recipe_that_is_not_there(rethink: Rethink) -> None:
    """As with `rethink train`."""
    assert_one_message(rethink("plan", "demo-grop"), "no recipe file demo-grop", "demo-grpo")


def test_a_config_that_is_none(rethink: Rethink, tmp_path: Path) -> None:
    """Guards against errors of the library that reach the user."""
    (tmp_path / "bad.json").write_text("{")
    assert_one_message(
        rethink("plan", "demo-grpo", "--config", "bad.json"), "cannot read the configuration of 'bad.json'"
    )
    (tmp_path / "kind.json").write_text('{"model_type": "nonsense"}')
    assert_one_message(rethink("plan", "demo-grpo", "--config", "kind.json"), "cannot read the configuration")
