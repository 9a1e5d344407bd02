"""Runs with LoRA: the base stays as it is, a resumed run equals an undisturbed one, and what is exported answers alike."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from rethink.build import build_prompts
from rethink.errors import UserError
from rethink.jsonl import Record
from rethink.models.language_model import LanguageModel
from rethink.models.load import load_model
from rethink.policies.local import LocalPolicy
from rethink.recipe import Recipe, load_recipe
from rethink.training import checkpoint, loop
from rethink.training.export import export
from rethink.training.run import Run, open_run
from rethink.training.trainer import Trainer
from rethink.types import Sample
from support import random_models
from support.command_line import Rethink, assert_one_message, in_process
from support.processes import light

pytest.importorskip("peft", reason="the extra peft is not installed")

_light = pytest.fixture(scope="module", autouse=True)(light)


@pytest.fixture(scope="module")
def common(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two updates per batch; even a random model is right half of the time, so that it learns."""
    file = tmp_path_factory.mktemp("data") / "problems.jsonl"
    rows = [{"key": f"p{n}", "question": f"{n} 7 5 -> 26", "answer": "26"} for n in range(7)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [
        *(
            "model.device=cpu",
            "updates=8",
            "problems_per_batch=2",
            "checkpoint_every=4",
            "lora.rank=3",
            "training.lr=0.01",
        ),
        *(
            "method.name=think_twice",
            "method.n_solve=5",
            "method.n_refine=3",
            "method.solve.kl_coef=0.1",
            "method.solve.n_steps=1",
        ),
        *(f"problems.source={file}", "problems.id=key", "problems.verifier=support.coins:coin"),
        *("prompts.solve={question}", "prompts.refine=again", "sampling.max_tokens=5", "seed=3"),
    ]


def recipe_for(common: list[str], model: Path, out: Path, *more: str) -> Recipe:
    return load_recipe(None, [*common, f"model.path={model}", f"out={out}", *more])


@pytest.fixture(scope="module", params=["qwen3", "gpt2"])
def model(request: pytest.FixtureRequest, model_folders: dict[str, Path]) -> Path:
    return model_folders[request.param]


@pytest.fixture(scope="module")
def qwen_folder(model_folders: dict[str, Path]) -> Path:
    return model_folders["qwen3"]


@pytest.fixture(scope="module")
def undisturbed(common: list[str], model: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run; each update has changed its adapter, and nothing else."""
    run = open_run(recipe_for(common, model, tmp_path_factory.mktemp("undisturbed") / "run"))
    seen = [snapshot(run)]
    for _ in loop.train(run):
        seen.append(snapshot(run))
    assert [p.requires_grad for p in run.trainer.parameters] == [True] * len(run.trainer.parameters)
    assert len(seen) == 9
    assert sum(not all(map(torch.equal, a, b)) for a, b in itertools.pairwise(seen)) >= 6
    return run


def snapshot(run: Run) -> list[Tensor]:
    return [p.detach().clone() for p in run.trainer.parameters]


def records(out: Path) -> list[Record]:
    lines = (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [{k: v for k, v in json.loads(line).items() if not k.endswith("_s")} for line in lines]


def last(out: Path) -> Path:
    return out / "checkpoints" / "000008"


def test_the_base_is_left_alone(undisturbed: Run, model: Path) -> None:
    """Guards against weights that are trained or merged in place: they are the file's, to the last bit."""
    assert {name.split(".")[-3] for name, p in named(undisturbed) if p.requires_grad} == {"lora_A", "lora_B"}
    base = undisturbed.trainer.model.base
    assert base is not None
    stored = load_file(model / "model.safetensors")
    for name, p in base.module.named_parameters():
        assert torch.equal(p, stored[name] if name in stored else stored[name.removeprefix("transformer.")])
    assert undisturbed.trainer.initial is base


def named(run: Run) -> list[tuple[str, Tensor]]:
    return list(run.trainer.model.module.named_parameters())


def test_what_is_sampled_is_what_is_trained(undisturbed: Run) -> None:
    """Guards against a sampler with the weights of an earlier version, or of the base; and a KL term to anything but the
    start: it is 0 until the first step is taken, and grows."""
    found = records(undisturbed.folder.path)
    assert len(found) == 8
    # float32 sums in another order
    assert max(r["mismatch/log_prob_gap_max"] for r in found if "mismatch/log_prob_gap_max" in r) < 1e-4
    kl = [r["kl_to_initial_nats"] for r in found if r["phase"] == "solve"]
    assert kl[0] == 0
    assert kl[-1] > 1e-4


def test_a_resumed_run_equals_an_undisturbed_one(
    undisturbed: Run, common: list[str], model: Path, tmp_path: Path
) -> None:
    """Guards against an adapter that begins anew, loses its moments, or is trained on from the wrong base."""
    list(loop.train(open_run(recipe_for(common, model, tmp_path / "run", "updates=4"))))
    run = open_run(recipe_for(common, model, tmp_path / "run"), resume=True, warn=pytest.fail)
    assert run.trainer.version == 4
    list(loop.train(run))
    ours, theirs = last(tmp_path / "run"), last(undisturbed.folder.path)
    assert sorted(p.name for p in ours.iterdir()) == sorted(p.name for p in theirs.iterdir())
    for name in ("adapter_model.safetensors", "adapter_config.json", "adapter_base.json", "counters.json"):
        assert (ours / name).read_bytes() == (theirs / name).read_bytes()
    a, b = (torch.load(p / "optimizer.pt", weights_only=True)["state"] for p in (ours, theirs))
    assert all(torch.equal(a[i][key], b[i][key]) for i in b for key in b[i])
    assert records(tmp_path / "run") == records(undisturbed.folder.path)


def test_a_checkpoint_is_the_adapter_alone(undisturbed: Run) -> None:
    """Guards against checkpoints of the size of the base, and files that nobody checks."""
    path = last(undisturbed.folder.path)
    names = {p.name for p in path.iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "adapter_base.json", "tokenizer.json"} <= names
    assert not {"model.safetensors", "config.json"} & names
    assert set(json.loads((path / "manifest.json").read_text())) == names - {"manifest.json"}
    stored = load_file(path / "adapter_model.safetensors")
    assert sum(t.numel() for t in stored.values()) == sum(p.numel() for p in undisturbed.trainer.parameters)


def tokens(model: LanguageModel, run: Run) -> list[tuple[tuple[int, ...], tuple[float, ...]]]:
    policy = LocalPolicy(model, run.recipe.sampling)
    groups = policy.sample(build_prompts(run.recipe, 5).ask(run.problems[:3]), 4)
    return [(s.ids, s.log_probs) for group in groups for s in group]


def test_the_checkpoint_answers_as_the_run(undisturbed: Run) -> None:
    """Guards against an evaluation of the base. The start answers otherwise."""
    run = undisturbed
    assert tokens(load_model(str(last(run.folder.path))), run) == tokens(run.trainer.model, run)
    assert tokens(run.trainer.initial, run) != tokens(run.trainer.model, run)


# --------------------------------------------------------------------------------------------------------- exported


def flat(run: Run) -> list[Sample]:
    groups = run.policy.sample(build_prompts(run.recipe, 5).ask(run.problems[:3]), 4)
    return [s for group in groups for s in group]


def test_an_export_answers_as_the_adapter(undisturbed: Run, tmp_path: Path) -> None:
    """Guards against an export without the adapter, of the wrong layout (GPT-2's), or that needs this library or peft."""
    found = export(str(undisturbed.folder.path), tmp_path / "whole")
    assert found == last(undisturbed.folder.path)
    names = {p.name for p in (tmp_path / "whole").iterdir()}
    assert {"model.safetensors", "config.json", "generation_config.json", "tokenizer.json"} <= names
    assert not {name for name in names if name.startswith(("adapter", "optimizer", "counters", "manifest", "."))}
    samples = flat(undisturbed)
    whole = load_model(str(tmp_path / "whole"))
    assert whole.base is None
    scorer = Trainer(whole, undisturbed.recipe.training, 1, lambda: whole)
    ours, theirs = (trainer.log_probs(samples) for trainer in (scorer, undisturbed.trainer))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)  # the same merged weights
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "whole", dtype=torch.float32)
    words = AutoTokenizer.from_pretrained(tmp_path / "whole")
    assert words.chat_template == undisturbed.trainer.model.chat.tokenizer.chat_template
    start = dict(undisturbed.trainer.initial.module.named_parameters())
    moved = [name for name, p in plain.named_parameters() if not torch.equal(p, start[name])]
    assert len(moved) == len(undisturbed.trainer.parameters) // 2
    # The run itself is as it was: it may be exported while it goes on.
    assert tokens(load_model(str(found)), undisturbed) == tokens(undisturbed.trainer.model, undisturbed)


def test_an_export_in_bfloat16(undisturbed: Run, tmp_path: Path) -> None:
    """Guards against a sum that is rounded before it is whole: it is that of the export in float32, rounded once."""
    path = str(last(undisturbed.folder.path))
    export(path, tmp_path / "float32")
    (tmp_path / "bfloat16").mkdir()  # an empty folder may be there
    export(path, tmp_path / "bfloat16", "bfloat16")
    exact, rounded = (load_file(tmp_path / name / "model.safetensors") for name in ("float32", "bfloat16"))
    assert exact.keys() == rounded.keys()
    assert all(torch.equal(rounded[name], exact[name].bfloat16()) for name in exact)
    assert json.loads((tmp_path / "bfloat16" / "config.json").read_text())["dtype"] == "bfloat16"


def test_a_full_checkpoint_is_exported_as_it_is(common: list[str], qwen_folder: Path, tmp_path: Path) -> None:
    """Guards against an export that only adapters get."""
    run = open_run(recipe_for(common, qwen_folder, tmp_path / "run", "lora.rank=0", "updates=2"))
    list(loop.train(run))
    export(str(tmp_path / "run"), tmp_path / "whole")
    ours, theirs = (
        load_file(p / "model.safetensors") for p in (tmp_path / "whole", tmp_path / "run" / "checkpoints" / "000002")
    )
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert not (tmp_path / "whole" / "optimizer.pt").exists()


def contents(folder: Path) -> dict[Path, bytes]:
    return {p: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_an_export_overwrites_nothing(undisturbed: Run, tmp_path: Path) -> None:
    """Guards against a folder of other things that is written into, and half a folder where it fails."""
    source = str(undisturbed.folder.path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "full", tmp_path / "full" / "notes", tmp_path / "file", undisturbed.folder.path):
        before = contents(tmp_path)
        with pytest.raises(UserError, match="is there already"):
            export(source, out)
        assert contents(tmp_path) == before
    for wrong in (str(tmp_path / "nowhere"), str(tmp_path / "full")):
        with pytest.raises(UserError):
            export(wrong, tmp_path / "out")
    damaged = tmp_path / "damaged"
    shutil.copytree(last(undisturbed.folder.path), damaged)
    (damaged / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match=r"is damaged \(adapter_model.safetensors has changed"):
        export(str(damaged), tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["damaged", "file", "full"]


# ------------------------------------------------------------------------------------------------- the command line


@pytest.fixture
def rethink(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Rethink:
    return in_process(capsys, monkeypatch, tmp_path)


def test_train_evaluate_export_evaluate(rethink: Rethink, common: list[str], model: Path, tmp_path: Path) -> None:
    """The whole way on the command line; the export is as good as the adapter, answer for answer."""
    (tmp_path / "recipe.toml").write_text("")
    given = [*common, f"model.path={model}", "out=run", "updates=2"]
    assert rethink("train", "recipe.toml", *given).code == 0
    done = rethink("export", "run", "--out", "whole")
    assert done.code == 0, done.err
    assert "exported run/checkpoints/000002 to whole, in float32" in done.err
    problems = next(setting for setting in common if setting.startswith("problems.source")).partition("=")[2]
    settings = ["evaluation.problems.id=key", "evaluation.problems.verifier=support.coins:coin", "model.device=cpu"]
    settings += ["prompts.solve={question}", "prompts.refine=again", "evaluation.sampling.max_tokens=5"]
    for name, path in (("a", "run/checkpoints/000002"), ("b", "whole"), ("c", str(model))):
        found = rethink("eval", path, "--on", problems, "--out", name, *settings, "evaluation.sampling.temperature=1")
        assert found.code == 0, found.err
    lines = [(tmp_path / name / "answers.jsonl").read_text(encoding="utf-8").splitlines() for name in "abc"]
    replies = [[json.loads(line)["steps"] for line in found] for found in lines]
    assert replies[0] == replies[1] != replies[2]
    assert_one_message(rethink("export", "run", "--out", "whole"), "whole is there already")
    assert_one_message(rethink("export", "run", "--out", "w", "--dtype", "int8"), "float32 or bfloat16, not 'int8'")


def test_what_a_run_trains_stays_as_it_began(
    rethink: Rethink, common: list[str], qwen_folder: Path, tmp_path: Path
) -> None:
    """Guards against a LoRA run that goes on as a full one, the other way round, or with another adapter."""
    (tmp_path / "recipe.toml").write_text("")
    given = [*common, f"model.path={qwen_folder}", "updates=2"]
    for out, began, wrong in (("a", "3", "0"), ("b", "0", "3"), ("c", "3", "5")):
        assert rethink("train", "recipe.toml", *given, f"out={out}", f"lora.rank={began}").code == 0
        before = contents(tmp_path / out)
        found = rethink("train", "recipe.toml", *given, f"out={out}", f"lora.rank={wrong}", "updates=4", "--resume")
        assert_one_message(found, f"lora.rank was {began}, now {wrong}", "resume with the same lora.rank")
        assert contents(tmp_path / out) == before
    # A config.toml that was edited by hand does not let it through either.
    for out, wrong in (("a", "0"), ("b", "3")):
        config = tmp_path / out / "config.toml"
        rank = "rank = 3" if wrong == "0" else "rank = 0"
        config.write_text(config.read_text().replace(rank, f"rank = {wrong}"))
        before = {p: data for p, data in contents(tmp_path / out).items() if p != config}
        found = rethink("train", "recipe.toml", *given, f"out={out}", f"lora.rank={wrong}", "updates=4", "--resume")
        assert_one_message(found, "the run's checkpoint holds", "resume with the run's own lora.rank")
        assert {p: data for p, data in contents(tmp_path / out).items() if p != config} == before


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        (["lora.rank=-1"], ["lora.rank must be at least 0"]),
        (["lora.alpha=0"], ["lora.alpha must be above 0"]),
        (["lora.alpha=inf"], ["lora.alpha must be finite"]),
        (["lora.rank=1.5"], ["lora.rank"]),
        (["lora.ranks=3"], ["did you mean lora.rank?"]),
        (["lora.targets=[q_proj, qq_proj]".replace("[q", '["q').replace(", ", '", "').replace("]", '"]')], ["qq_proj"]),
        (["lora.targets=mlp"], ["no linear layer mlp", "gate_proj", '"all-linear" means all']),
        (["model.random=true"], ["model.random initializes them at random"]),
    ],
)
def test_mistakes(
    settings: Sequence[str],
    parts: Sequence[str],
    rethink: Rethink,
    common: list[str],
    qwen_folder: Path,
    tmp_path: Path,
) -> None:
    """Guards against settings that are taken as something else; nothing is written."""
    (tmp_path / "recipe.toml").write_text("")
    found = rethink("train", "recipe.toml", *common, f"model.path={qwen_folder}", "out=run", *settings)
    assert_one_message(found, *parts)
    assert not (tmp_path / "run").exists()


def test_an_adapter_is_no_start(undisturbed: Run, common: list[str], tmp_path: Path) -> None:
    """Guards against an adapter on an adapter, and against a full run that trains an adapter only."""
    for rank in ("0", "3"):
        with pytest.raises(UserError, match=r"is an adapter; merge it first \(rethink export"):
            open_run(recipe_for(common, last(undisturbed.folder.path), tmp_path / "run", f"lora.rank={rank}"))
        assert not (tmp_path / "run").exists()


def test_another_adapter_may_teach(undisturbed: Run, common: list[str], qwen_folder: Path, tmp_path: Path) -> None:
    """Guards against roles that only whole models can play, and against "initial" being the present weights."""
    recipe = recipe_for(common, qwen_folder, tmp_path / "run", f"teacher.path={last(undisturbed.folder.path)}")
    run = open_run(recipe)
    asked = build_prompts(recipe, 5).ask(undisturbed.problems[:3])
    teacher, initial = (run.role(name).sample(asked, 4) for name in ("teacher", "initial"))
    trained = undisturbed.policy.sample(asked, 4)
    assert [[s.ids for s in g] for g in teacher] == [[s.ids for s in g] for g in trained]
    start = LocalPolicy(load_model(str(qwen_folder)), recipe.sampling).sample(asked, 4)
    assert [[s.ids for s in g] for g in initial] == [[s.ids for s in g] for g in start]


def test_a_damaged_adapter_is_passed_over(undisturbed: Run, common: list[str], model: Path, tmp_path: Path) -> None:
    """Guards against a resume from half an adapter."""
    shutil.copytree(undisturbed.folder.path, tmp_path / "run")
    (tmp_path / "run" / "checkpoints" / "000008" / "adapter_model.safetensors").write_bytes(b"")
    warnings: list[str] = []
    run = open_run(recipe_for(common, model, tmp_path / "run"), resume=True, warn=warnings.append)
    assert run.trainer.version == 4
    assert ["adapter_model.safetensors has changed" in text for text in warnings] == [True]
    assert checkpoint.newest(run.folder.checkpoints, lambda _: None) == tmp_path / "run" / "checkpoints" / "000004"


@pytest.mark.parametrize("kind", list(random_models.SHAPES))
def test_a_bfloat16_base_is_trained(
    kind: str, common: list[str], model_folders: dict[str, Path], tmp_path: Path
) -> None:
    """Guards against a refusal: with LoRA only the adapter needs float32."""
    recipe = recipe_for(common, model_folders[kind], tmp_path / "run", "model.dtype=bfloat16", "updates=2")
    run = open_run(recipe)
    before = snapshot(run)
    found = [r for r in loop.train(run) if r["phase"] != "evaluation"]
    assert {p.dtype for p in run.trainer.parameters} == {torch.float32}
    assert not all(map(torch.equal, before, snapshot(run)))
    assert all(r["mismatch/prob_gap"] < 0.05 for r in found if "mismatch/prob_gap" in r)
