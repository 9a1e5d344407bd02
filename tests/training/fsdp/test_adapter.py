"""Adapters in several processes: the run of one process, whatever their number, and checkpoints that all of them read.

How far rounding may part them is as in `test_ranks`: one process trains the factors of Llama's layers joined, ranks those
of `peft`'s layers, and sums have other orders.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers.utils import logging

from rethink.models.language_model import LanguageModel
from rethink.models.load import load_model
from rethink.models.shards import is_sharded
from rethink.plan.memory import MemorySettings, kept_items
from rethink.plan.meta_model import build_meta_model
from rethink.policies.local import LocalPolicy
from rethink.prompts import Prompts
from rethink.training.export import export
from rethink.types import Problem, Sampling
from support import random_models
from support import ranks_cases as cases
from support import ranks_lora_cases as of_lora
from support.fake_vllm import FakeVllm, running
from support.processes import light
from support.ranks_lora_cases import UPDATES, Job
from support.ranks_start import together
from support.samples import assert_same_gradient
from training.fsdp.test_runs import (
    BFLOAT16,
    FLOAT32,
    MONITORS,
    WEIGHTS,
    all_in,
    arguments,
    assert_refused,
    assert_same_records,
    assert_well,
    distance,
    gap,
    lines,
    mean_gap,
    records,
    share,
    train,
)

pytest.importorskip("peft", reason="the extra peft is not installed")

_light = pytest.fixture(scope="module", autouse=True)(light)

ADAPTER = ("adapter_model.safetensors", "adapter_config.json", "adapter_base.json")


# ------------------------------------------------------------------------------------------------------ the trainer

KINDS = ("qwen3", "gpt2, some layers")

Works = dict[str, tuple[cases.Found, cases.Found]]


@pytest.fixture(scope="module")
def works(tmp_path_factory: pytest.TempPathFactory) -> Works:
    """What three ranks, and what one process, make of the same updates, by the name of the job."""
    folder = tmp_path_factory.mktemp("works")
    logging.disable_progress_bar()
    for kind in ("qwen3", "gpt2"):
        random_models.save_random_model(folder / kind, kind)
    rounded = load_model(str(folder / "qwen3"), dtype="bfloat16")
    rounded.module.float().save_pretrained(folder / "rounded")
    rounded.chat.tokenizer.save_pretrained(folder / "rounded")
    qwen3 = folder / "qwen3"
    jobs = {
        "qwen3": Job(qwen3, folder / "a"),
        "gpt2, some layers": Job(folder / "gpt2", folder / "b", targets=("c_attn", "c_fc")),
        "a bfloat16 base": Job(qwen3, folder / "c", dtype="bfloat16", how={"gradient_checkpointing": True}),
        "rounded": Job(folder / "rounded", folder / "d"),
    }
    one = {name: of_lora.plain_work(job) for name, job in jobs.items()}
    shared = {name: job for name, job in jobs.items() if name != "rounded"}
    assert_well(together(3, of_lora.sharded_work, shared, folder / "found", folder=folder / "said"))
    found = torch.load(folder / "found", weights_only=False)
    for name, job in shared.items():
        one[name]["read back"] = of_lora.plain_reading(job, of_lora.of_ranks(job, name))
    return {name: (found.get(name, {}), one[name]) for name in jobs}


@pytest.mark.parametrize("kind", KINDS)
def test_log_probs_of_ranks_are_those_of_one_process(kind: str, works: Works) -> None:
    """Guards against an adapter that ranks leave out, or scale otherwise, and against weights that are not sharded."""
    got, want = works[kind]
    assert got["left whole"] == []
    for a, b in zip(got["log-probs"], want["log-probs"], strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=FLOAT32)


@pytest.mark.parametrize("update", UPDATES)
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_ranks_are_those_of_one_process(kind: str, update: str, works: Works) -> None:
    """Guards against gradients of one rank's share, or of the base, and against a norm that counts a shard."""
    got, want = (w[update] for w in works[kind])
    assert got["gradient"].keys() == works[kind][1]["trained"]
    assert_same_gradient(got["gradient"], want["gradient"], FLOAT32)
    assert got["numbers"] == pytest.approx(want["numbers"], rel=FLOAT32, abs=1e-5)
    assert want["numbers"]["grad_norm"] > 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_several_steps_move_the_adapter_and_nothing_else(kind: str, works: Works) -> None:
    """Guards against a base that moves (by weight decay, say), and steps that ranks take otherwise."""
    got, want = (w["several"] for w in works[kind])
    assert got["numbers"] == pytest.approx(want["numbers"], rel=FLOAT32, abs=1e-5)
    assert gap(got["weights"], want["weights"]) <= WEIGHTS
    start, trained = (works[kind][1][key] for key in ("start", "trained"))
    assert {name for name in start if not torch.equal(got["weights"][name], start[name])} == trained
    assert gap(got["weights"], start) > 10 * WEIGHTS


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_before_the_first_step_goes_over(kind: str, works: Works) -> None:
    """Guards against an optimizer that has counted a step nobody took. Ranks read what one process wrote, and one process
    what ranks wrote."""
    got, want = works[kind]
    for read in (got["read"], want["read back"]):
        assert mean_gap(read, want["read"]) <= 1e-6


@pytest.mark.parametrize("kind", KINDS)
def test_ranks_publish_merged_weights(kind: str, works: Works) -> None:
    """Guards against names of `peft`'s, factors of one shard, and a sampler that gets the base; tied weights go once."""
    got, want = works[kind]
    assert [name for name, _ in got["merged"]] == [name for name, _ in want["merged"]]
    assert got["shapes"] == [(name, tuple(weight.shape)) for name, weight in want["merged"]]
    assert got["meta_model"] == [(name, shape, "meta") for name, shape in got["shapes"]]
    for (name, ours), (_, theirs) in zip(got["merged"], want["merged"], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6, msg=name)


@pytest.mark.parametrize(("name", "dtype"), [("qwen3", "float32"), ("a bfloat16 base", "bfloat16")])
def test_the_plan_counts_what_ranks_hold(name: str, dtype: str, works: Works) -> None:
    """Guards against a base that has moments, is whole on each rank, or is kept in another dtype than the plan says."""
    got, want = works[name]
    items = kept_items(build_meta_model(want["config"], dtype, 3), MemorySettings(n_gpus=3, rank=3, base=dtype))
    assert got["held"] == (3 * items["weights"], 3 * items["optimizer, adamw"])


def test_a_bfloat16_base_on_ranks(works: Works) -> None:
    """Guards against an adapter in its base's dtype, a head in bfloat16, or sums over ranks in it, and layers whose frozen
    weights are gone when they are computed again: against the same base, rounded, in float32. What is merged is not rounded
    again."""
    (got, want), exact = works["a bfloat16 base"], works["rounded"][1]
    weights = got["several"]["weights"]
    assert {name for name, w in weights.items() if w.dtype == torch.float32} == want["trained"]
    assert {w.dtype for name, w in weights.items() if name not in want["trained"]} == {torch.bfloat16}
    for update in UPDATES:
        assert {g.dtype for g in got[update]["gradient"].values()} == {torch.float32}
        ours, theirs = (distance(x[update]["gradient"], exact[update]["gradient"]) for x in (got, want))
        assert 1e-3 < ours < BFLOAT16
        assert ours < 3 * theirs, update
    gaps = [float((a - b).abs().max()) for a, b in zip(got["log-probs"], exact["log-probs"], strict=True) if len(a)]
    assert 1e-3 < max(gaps) < BFLOAT16
    for (name, ours), (_, theirs) in zip(got["merged"], exact["merged"], strict=True):
        torch.testing.assert_close(ours.float(), theirs, rtol=0, atol=1e-6, msg=name)


# ----------------------------------------------------------------------------------------------------------- the run


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two updates per batch of three problems, of which there are seven, with a KL term."""
    folder = tmp_path_factory.mktemp("given")
    file, base = folder / "train.jsonl", random_models.save_random_model(folder / "base", "qwen3")
    rows = [{"key": f"p{k}", "question": f"{k} 7 5 -> 26", "answer": "26"} for k in range(7)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [
        f"model.path={base}",
        *(
            "model.device=cpu",
            "updates=6",
            "problems_per_batch=3",
            "checkpoint_every=2",
            "keep_checkpoints=9",
            "seed=3",
        ),
        *("method={name = 'think_twice'}", "method.n_solve=4", "method.n_refine=3", "method.solve={n_steps = 2}"),
        *("method.refine={n_steps = 1, kl_coef = 0.1}", "prompts.solve={question}", "prompts.refine=again"),
        *("sampling.max_tokens=5", "training.lr=0.01", "distributed.timeout_s=300", "lora.rank=3"),
        *("problems.id=key", "problems.verifier=support.ranks_cases:coin", f"problems.source={file}"),
    ]


def folder_of(settings: Sequence[str]) -> Path:
    """Where the base is."""
    return Path(settings[0].removeprefix("model.path="))


def base_of(settings: Sequence[str]) -> dict[str, Tensor]:
    return {name: p.detach() for name, p in load_model(str(folder_of(settings))).module.named_parameters()}


def adapter(out: Path, n: int) -> dict[str, Tensor]:
    return load_file(out / "checkpoints" / f"{n:06d}" / ADAPTER[0])


def moments(out: Path, n: int) -> dict[str, Tensor]:
    """The optimizer's, of the whole adapter, and its steps."""
    state = torch.load(out / "checkpoints" / f"{n:06d}" / "optimizer.pt", weights_only=True)["state"]
    return {f"{i} {key}": value for i, entries in state.items() for key, value in entries.items()}


@pytest.fixture(scope="module")
def undisturbed(settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process; its adapter moved by far more than what rounding may make of it."""
    out = train(settings, tmp_path_factory.mktemp("undisturbed") / "run")
    assert gap(adapter(out, 2), adapter(out, 6)) > 50 * WEIGHTS
    assert all(0 < r["reward"] < 1 and r["grad_norm"] > 0 for r in records(out))
    return out


@pytest.fixture(scope="module")
def two_updates(settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of two ranks at its first checkpoint."""
    out = tmp_path_factory.mktemp("begun") / "run"
    assert_well(share(2, settings, out, "updates=2"))
    return out


@pytest.fixture
def begun(two_updates: Path, tmp_path: Path) -> Path:
    """A copy of it, to go on from."""
    return Path(shutil.copytree(two_updates, tmp_path / "run"))


def test_two_ranks_one_process_and_three_ranks_in_turn(settings: list[str], undisturbed: Path, begun: Path) -> None:
    """Guards against another run on more processes, an adapter or moments that a change of their number loses, and samples
    of other weights than are trained: of the base, say."""
    train(settings, begun, "updates=4", resume=True)
    assert_well(share(3, settings, begun, "--resume"))
    assert [r.get("n_ranks") for r in lines(begun / "metrics.jsonl")] == [2, 2, None, None, 3, 3]
    assert lines(begun / "samples.jsonl") == lines(undisturbed / "samples.jsonl")
    assert_same_records(records(begun), records(undisturbed))
    kl = [r["kl_to_initial_nats"] for r in records(begun) if r["phase"] == "refine"]
    assert kl[-1] > 10 * MONITORS, "the start model is not the trained one"
    for n in (2, 4, 6):
        assert gap(adapter(begun, n), adapter(undisturbed, n)) <= WEIGHTS
        assert gap(moments(begun, n), moments(undisturbed, n)) <= WEIGHTS
    compared = [r["mismatch/log_prob_gap_max"] for r in records(begun) if "mismatch/log_prob_gap_max" in r]
    assert len(compared) == 6
    assert max(compared) < 1e-4  # float32 sums in another order


def test_ranks_write_the_files_of_one_process(two_updates: Path, undisturbed: Path) -> None:
    """Guards against checkpoints with the base in them, or in a format of the ranks' own."""
    ours, theirs = (out / "checkpoints" / "000002" for out in (two_updates, undisturbed))
    assert sorted(p.name for p in ours.iterdir()) == sorted(p.name for p in theirs.iterdir())
    assert not is_sharded(ours)
    for name in ADAPTER[1:]:
        assert (ours / name).read_bytes() == (theirs / name).read_bytes()
    kept, wanted = (torch.load(p / "optimizer.pt", weights_only=True) for p in (ours, theirs))
    assert kept["param_groups"] == wanted["param_groups"]


def test_what_ranks_trained_is_exported_and_asked(
    two_updates: Path, undisturbed: Path, settings: list[str], tmp_path: Path
) -> None:
    """Guards against an export or an evaluation of the base."""
    wholes = []
    for name, out in (("ours", two_updates), ("theirs", undisturbed)):
        found = out / "checkpoints" / "000002"
        export(str(found), tmp_path / name)
        wholes.append(load_file(tmp_path / name / "model.safetensors"))
    assert gap(*wholes) <= WEIGHTS
    assert gap(wholes[0], base_of(settings)) > 50 * WEIGHTS
    checkpoint = load_model(str(two_updates / "checkpoints" / "000002"))
    merged = load_model(str(tmp_path / "ours"))
    assert checkpoint.base is not None
    assert replies(checkpoint) == replies(merged) != replies(checkpoint.base)


def replies(model: LanguageModel) -> list[tuple[int, ...]]:
    asks = Prompts(solve="{question}").ask([Problem("p", "3 7 5 -> 26", "", cases.coin)])
    return [s.ids for group in LocalPolicy(model, Sampling(max_tokens=7)).sample(asks, 20) for s in group]


# --------------------------------------------------------------------------------------------------------- with vLLM


def test_vllm_gets_merged_weights_from_ranks(settings: list[str], qwen: LanguageModel, tmp_path: Path) -> None:
    """Guards against weights that vLLM does not know by name, and a server that samples from the base: the fake computes
    its log-probs with what it was sent."""
    (stop_id,) = qwen.chat.stop_ids
    fake = FakeVllm(stop_id)

    @torch.no_grad()
    def log_probs(prompt: list[int], ids: list[int]) -> list[float]:
        qwen.module.load_state_dict(fake.weights, strict=False)
        logits = qwen.module(input_ids=torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 : -1]
        found: list[float] = logits.log_softmax(-1).gather(-1, torch.tensor(ids)[:, None])[:, 0].tolist()
        return found

    fake.log_probs = log_probs
    fake.script = lambda body: [2 + body["sampling_params"]["seed"] % k for k in (7, 11)] + [stop_id]
    out = tmp_path / "run"
    with running(fake):
        assert_well(share(2, settings, out, "sampler.engine=vllm", f'sampler.urls=["{fake.url}"]', "updates=4"))
    start = base_of(settings)
    assert gap(fake.weights, start) > 50 * WEIGHTS
    compared = [r["mismatch/log_prob_gap_max"] for r in records(out)]
    assert len(compared) == 4
    assert max(compared) < 1e-4


# ---------------------------------------------------------------------------------------------------------- refusals

REFUSED: dict[str, tuple[Sequence[str], Sequence[str]]] = {
    "all weights": (["lora.rank=0"], ["lora.rank was 3, now 0", "resume with the same lora.rank"]),
    "another rank": (["lora.rank=5"], ["lora.rank was 3, now 5", "resume with the same lora.rank"]),
    "another base": ([], ["was trained on other weights than its base has now"]),
    "a config that was edited": (["lora.rank=0"], ["the run's checkpoint holds an adapter, but lora.rank = 0 trains"]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_ranks_train_stays_as_it_began(case: str, settings: list[str], begun: Path) -> None:
    """Guards against an adapter that goes on as something else, or on another base; it is told once, and all is kept."""
    more, words = REFUSED[case]
    config, weights = begun / "config.toml", folder_of(settings) / "model.safetensors"
    kept = weights.read_bytes()
    if case == "a config that was edited":
        config.write_text(config.read_text().replace("rank = 3", "rank = 0"))
    if case == "another base":
        save_file({name: 1.1 * w for name, w in load_file(weights).items()}, weights, metadata={"format": "pt"})
    before = kept_of(begun)
    try:
        assert_refused(share(2, settings, begun, "--resume", *more, "updates=2"), *words)
    finally:
        weights.write_bytes(kept)
    assert kept_of(begun) == before


def kept_of(run: Path) -> dict[str, bytes]:
    """What is in a run's folder; its config.toml is brought up to date (where it lies, how many updates) before more is
    known."""
    return {name: data for name, data in all_in(run).items() if name != "config.toml"}


def test_all_weights_do_not_go_on_as_an_adapter(settings: list[str], tmp_path: Path) -> None:
    """Guards against an adapter on shards that all ranks wrote, whose optimizer's state would be that of other weights."""
    out = tmp_path / "run"
    assert_well(share(2, settings, out, "lora.rank=0", "updates=1"))
    config = (out / "config.toml").read_text()
    (out / "config.toml").write_text(config.replace("rank = 0", "rank = 3"))
    before = kept_of(out)
    assert_refused(share(2, settings, out, "--resume", "updates=1"), "the run's checkpoint holds all weights, but")
    assert kept_of(out) == before


UNFIT: dict[str, tuple[Sequence[str], str]] = {
    "no such layer": (["lora.targets=mlp"], "lora.targets: the model has no linear layer mlp"),
    "no weights to adapt": (["model.random=true"], "model.random initializes them at random"),
    "eight bits": (
        ["training.optimizer=adamw8bit"],
        "several ranks train adapters with AdamW only",
    ),
    "an adapter": ([], "is an adapter; merge it first (rethink export"),
    "an adapter, all weights": (["lora.rank=0"], "is an adapter; merge it first (rethink export"),
}


@pytest.mark.parametrize("case", UNFIT)
def test_what_cannot_be_adapted_is_told_once(case: str, settings: list[str], two_updates: Path, tmp_path: Path) -> None:
    """Guards against a fault that rank 0 meets alone while the others wait for it; nothing is written."""
    more, words = UNFIT[case]
    start = [f"model.path={two_updates / 'checkpoints' / '000002'}"] if case.startswith("an adapter") else []
    assert_refused(share(2, settings, tmp_path / "run", *start, *more), words)
    assert not (tmp_path / "run").exists()


def test_an_adapter_that_cannot_be_written_ends_the_run(settings: list[str], begun: Path) -> None:
    """Guards against ranks that wait for the first, whose disk is full, and against the loss of the checkpoint before."""
    before = all_in(begun / "checkpoints")
    given = arguments(settings, begun, "--resume", "updates=4", "distributed.timeout_s=20")
    ended = together(2, of_lora.full_disk, *given, folder=begun.with_suffix(".said"))
    kept = f"the last good checkpoint, {begun / 'checkpoints' / '000002'}, is untouched"
    assert_refused(ended, f"cannot write the checkpoint {begun / 'checkpoints' / '000004'}: ", "No space left", kept)
    assert all_in(begun / "checkpoints") == before
