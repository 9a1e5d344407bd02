"""Runs on images: training, resuming, evaluating and answering, and what the run folder keeps."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rethink.errors import UserError
from rethink.models.forward.embedding import tower_parameters
from rethink.models.load import load_model
from rethink.problems.source import load_problems
from rethink.prompts import Prompts
from rethink.recipe import Recipe, load_recipe
from rethink.report.page import write_report
from rethink.sample_data import sample_from_data, sample_to_data
from rethink.settings import ProblemSource
from rethink.training import loop
from rethink.training.check import check_run
from rethink.training.export import export
from rethink.training.run import open_run
from rethink.types import Sampling
from support.command_line import Rethink, in_process
from support.images import image, png
from support.runs import assert_same, finished, records
from support.vision_models import save_vision_model

pytestmark = pytest.mark.slow

Make = Callable[..., Recipe]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_vision_model(tmp_path_factory.mktemp("vision"), "Idefics3")


@pytest.fixture(scope="module")
def problems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six questions with the same words about different images, with paths."""
    folder = tmp_path_factory.mktemp("data")
    rows = []
    for n, color in enumerate(("red", "blue", "green", "black", "yellow", "purple")):
        (folder / f"{color}.png").write_bytes(png(color))
        rows.append(
            {"key": f"p{n}", "question": "What color?", "answer": color, "image": f"{color}.png", "reply": color}
        )
    file = folder / "problems.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.fixture
def rethink(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Rethink:
    """The command line, in this process and in an empty folder."""
    return in_process(capsys, monkeypatch, tmp_path)


@pytest.fixture
def make(model: Path, problems: Path, tmp_path: Path) -> Make:
    def recipe(*more: str, out: str = "run") -> Recipe:
        settings = [
            *("model.device=cpu", "problems_per_batch=2", "checkpoint_every=2", "training.lr=0.003", "seed=3"),
            *(f"problems.source={problems}", "problems.id=key", "problems.verifier=support.coins:coin"),
            *("prompts.solve={question}", "prompts.refine=again", "sampling.max_tokens=5", "updates=6"),
            *("method.name=think_twice", "method.n_solve=4", "method.n_refine=3", "training.schedule=constant"),
        ]
        return load_recipe(None, [*settings, f"model.path={model}", f"out={tmp_path / out}", *more])

    return recipe


@pytest.mark.parametrize(
    "more",
    [
        *("", "async_level=1", "lora.rank=2", "training.gradient_checkpointing=true"),
        "training.vision=all training.reference_every=2 method.solve.kl_coef=0.1",
    ],
)
def test_a_resumed_run_is_the_same(make: Make, more: str) -> None:
    """Guards against ids or vectors of images that depend on the process, and samples of a checkpoint whose images are
    lost. The run that is resumed has computed no image before."""
    if "lora" in more:
        pytest.importorskip("peft")
    settings = more.split()
    whole = finished(make(*settings))
    logged = records(whole)
    assert all(record["mismatch/kl"] < 1e-6 for record in logged if "mismatch/kl" in record)
    assert any(record["grad_norm"] > 0 for record in logged if "grad_norm" in record)
    stopped = open_run(make(*settings, out="again"))
    for record in loop.train(stopped):
        if record.get("update") == 3:
            break
    resumed = open_run(make(*settings, out="again"), resume=True)
    list(loop.train(resumed))
    assert_same(whole, resumed)


def test_the_run_folder_keeps_each_image_once(make: Make, tmp_path: Path) -> None:
    """Guards against transcripts without their images, and copies of them."""
    recipe = make(
        "evaluation.problems.source=shapes",
        "evaluation.problems.limit=3",
        "n_logged_samples=8",
        "evaluation.sampling.max_tokens=6",
    )
    recipe = replace(recipe, updates=2)
    finished(recipe)
    out = Path(recipe.out)
    shown = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    assert shown
    evaluated = [json.loads(line) for line in next((out / "eval").glob("*.jsonl")).read_text().splitlines()]
    named = {name for record in (*shown, *evaluated) for name in record["images"]}
    assert named == {file.name for file in (out / "images").iterdir()}
    by_problem = {record["problem"]: record["images"] for record in shown}
    assert by_problem.get("p0", [image().name]) == [image().name]
    for record in shown:
        assert next(turn[2:] for turn in record["prompt"] if turn[0] == "user") == record["images"]
        assert all(len(turn) == 2 for turn in record["prompt"] if turn[0] == "assistant")
    page = write_report(out).read_text()
    assert named == set(re.findall(r'id="image-([^"]+)" data-type="image/png"', page))


@pytest.mark.parametrize("vision", ["frozen", "all"])
def test_checkpoints_and_exports_are_whole_models(vision: str, make: Make, model: Path, tmp_path: Path) -> None:
    """Guards against checkpoints that can no longer see: without tower, or without the image processor; and against those
    that see as before training."""
    recipe = replace(make(f"training.vision={vision}"), updates=2)
    run = finished(recipe)
    export(recipe.out, tmp_path / "exported", "float32")
    prompt = Prompts().messages(run.problems[0])
    again = load_model(str(tmp_path / "exported"))
    assert again.chat.encode(prompt) == run.trainer.model.chat.encode(prompt)
    assert again.image_vectors is not None
    theirs = run.trainer.model.image_vectors
    assert theirs is not None
    assert torch.equal(again.image_vectors.vectors(image()), theirs.vectors(image()))
    start = load_model(str(model)).image_vectors
    assert start is not None
    assert torch.equal(again.image_vectors.vectors(image()), start.vectors(image())) == (vision == "frozen")


def test_commands_with_images(rethink: Rethink, model: Path, problems: Path, tmp_path: Path) -> None:
    """Guards against commands that leave out the images. The same words about two images get other replies."""
    plain = ("model.device=cpu", "prompts.solve={question}", "prompts.refine=again", "evaluation.sampling.max_tokens=6")
    replies = []
    for color in ("red", "blue"):
        image = problems.parent / f"{color}.png"
        shown = rethink("answer", model, "What color?", "--image", image, "--strategy", "solve", *plain)
        assert shown.code == 0, shown.err
        replies.append(shown.out)
    assert replies[0] != replies[1]
    out = tmp_path / "eval"
    source = ("evaluation.problems.id=key", "evaluation.problems.verifier=support.coins:coin")
    shown = rethink("eval", model, "--on", problems, "--out", out, "--strategy", "solve", *plain, *source)
    assert shown.code == 0, shown.err
    answers = [json.loads(line) for line in (out / "answers.jsonl").read_text().splitlines()]
    assert {name for answer in answers for name in answer["images"]} == {f.name for f in (out / "images").iterdir()}
    assert len({step["text"] for answer in answers for step in answer["steps"]}) > 1
    missing = rethink("answer", model, "What?", "--image", "none.png", *plain)
    assert missing.code == 2
    assert "--image none.png: there is no file none.png" in missing.err


def test_what_is_not_supported_is_said_before_anything_is_loaded(make: Make, model_folders: dict[str, Path]) -> None:
    """Guards against runs that fail late, or train on questions without their images."""
    with pytest.raises(UserError, match=r"problem p0 has images, but .* takes none: it has no vision tower"):
        check_run(make(f"model.path={model_folders['qwen3']}"))
    asked = ("method={name='think_tuning',n_solve=4}", f"teacher.path={model_folders['qwen3']}")
    with pytest.raises(
        UserError, match=r"problem p0 has images, but the teacher .*qwen3.* takes none: it has no vision"
    ):
        check_run(make(*asked))


def test_the_tower_of_the_package_is_trained(tmp_path: Path) -> None:
    """Guards against a recipe for images that trains no tower, or samples from another model than it trains."""
    settings = [
        "updates=2",
        "problems_per_batch=2",
        "method.n_solve=4",
        "problems.limit=8",
        "evaluation.problems.limit=4",
    ]
    run = finished(load_recipe("demo-vision-grpo", [*settings, "training.vision=all", f"out={tmp_path / 'run'}"]))
    updates = [record for record in records(run) if "grad_norm" in record]
    assert len(updates) == 2
    assert any(record["grad_norm"] > 0 for record in updates)
    assert all(record["mismatch/kl"] < 1e-5 for record in updates)
    trained, start = (tower_parameters(found.module) for found in (run.trainer.model, load_model("tiny-shapes")))
    assert not any(torch.equal(a, b) for a, b in zip(trained, start, strict=True) if bool(b.any()))


def test_samples_in_checkpoints_find_their_images(problems: Path, model: Path) -> None:
    """Guards against samples that were sampled ahead, whose ids stand for images that nobody knows any more."""
    from rethink.policies.local import LocalPolicy

    policy = LocalPolicy(load_model(str(model)), Sampling(max_tokens=4))
    found = load_problems(ProblemSource(str(problems), id="key", limit=1))
    ((sample,),) = policy.sample(Prompts().ask(found), 1)
    data = json.loads(json.dumps(sample_to_data(sample)))
    assert sample_from_data(data) == sample
    assert policy.score([sample_from_data(data)])[0] == pytest.approx(sample.log_probs, abs=1e-5)
