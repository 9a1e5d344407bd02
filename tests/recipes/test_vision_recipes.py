"""The recipes for vision-language models run for two updates on a small random Qwen2.5-VL and made-up problems.

Replaced are the model's folder, where the data are, sizes and precisions; a coin decides verdicts, as in `test_recipes`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import datasets
import pytest
from datasets import Features, Image, List, Value
from pyarrow import parquet
from transformers import GenerationConfig

from rethink.commands import prepare as prepare_command
from rethink.images import FIRST_ID
from rethink.objectives import Clip, Imitate, PolicyGradient
from rethink.problems import source
from rethink.recipe import load_recipe
from support.coins import coin
from support.command_line import in_process
from support.images import png
from support.processes import light
from support.recipe_runs import Ran, check_run, run_recipe
from support.vision_models import save_vision_model
from support.vision_suite_rows import VISION_CASES

pytestmark = pytest.mark.slow

_light = pytest.fixture(scope="module", autouse=True)(light)

SMALL = ["model.image_pixels=[256, 1024]", "sampler.max_prompt_tokens=420", "sampling.max_tokens=61"]
COLORS = ("red", "blue", "green", "black", "yellow", "purple", "gray", "white", "orange", "pink")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that ends most of its replies: many tokens end them, because a random model hardly ever chooses one."""
    folder = save_vision_model(tmp_path_factory.mktemp("vision"), "Qwen2.5-VL")
    GenerationConfig(eos_token_id=[1, *range(60, 140)], pad_token_id=0).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ViRL39K with paths of images and a question without one, GeoQA with images inside, and MathVista."""
    folder = tmp_path_factory.mktemp("data")
    rows = [{"qid": "text", "question": "1 + 1?", "answer": "\\boxed{2}", "image": []}]
    for n, color in enumerate(COLORS):
        (folder / f"{color}.png").write_bytes(png(color))
        rows.append(
            {"qid": f"q{n}", "question": "<image>Area?", "answer": f"\\boxed{{{n}}}", "image": [f"{color}.png"]}
        )
    table = {
        "qid": Value("string"),
        "question": Value("string"),
        "answer": Value("string"),
        "image": List(Value("string")),
    }
    datasets.Dataset.from_list(rows, Features(table)).to_parquet(folder / "virl39k.parquet")
    form = Features({"problem": Value("string"), "answer": Value("string"), "image": Image()})
    for name, words in {"geoqa": "Area?", "geoqa-test": "Angle?"}.items():
        shown = [
            {"problem": f"{n}. {words}", "answer": f"{n}", "image": {"bytes": png(color), "path": None}}
            for n, color in enumerate(COLORS)
        ]
        datasets.Dataset.from_list(shown, form).to_parquet(folder / f"{name}.parquet")
    VISION_CASES["mathvista"].table().to_parquet(folder / "mathvista.parquet")
    return folder


@pytest.fixture(autouse=True)
def _coins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        source.ANSWER_FORMATS, "boxed", dataclasses.replace(source.ANSWER_FORMATS["boxed"], verify=coin)
    )


def check_images(ran: Ran) -> None:
    """Check that every prompt about a problem with an image holds its vectors, as many as the recipe's bounds allow."""
    n_shown = 0
    for sample in ran.samples:
        n_vectors = sum(i >= FIRST_ID for i in sample.prompt_ids)
        assert 1 <= n_vectors <= 4 if sample.problem.images else n_vectors == 0
        n_shown += bool(n_vectors)
    assert n_shown


def test_vl_rethinker(model: Path, data: Path, tmp_path: Path) -> None:
    """Guards against continuations and replayed samples that lose their images, and settings of another method."""
    ran = run_recipe(
        "vlrethinker-qwen2.5-vl-7b",
        *SMALL,
        *(f"model.path={model}", f"out={tmp_path / 'run'}", f"problems.source={data / 'virl39k.parquet'}"),
        *("method.rethink.after=0", "method.rethink.min_tokens=1", "problems_per_batch=5", "method.n_solve=3"),
        f"evaluation.problems.data={data}",
    )
    check_run(ran)
    check_images(ran)
    first, second, _ = ran.records
    assert first["method/n_kept"] > 0
    assert second["method/n_replayed"] > 0
    gradient, imitated = ran.updates[0].parts
    assert isinstance(gradient, PolicyGradient)
    assert isinstance(imitated, Imitate)
    assert (gradient.surrogate, gradient.kl_coef, imitated.coefficient) == (Clip(0.2, 0.35, None), 0, 0.05)
    assert any(any(sample.forced) for sample in ran.samples)
    assert {len(sample.problem.images) for sample in ran.samples} == {0, 1}


def test_ton(model: Path, data: Path, tmp_path: Path) -> None:
    """Guards against prepared rows without images, a cold start that trains other texts, and a run that cannot begin from
    its checkpoint."""
    form = load_recipe("ton-qwen2.5-vl-3b").build_method().form
    geoqa, prepared, start = data / "geoqa.parquet", tmp_path / "ton.parquet", tmp_path / "start"
    few = ["model.device=cpu", "model.dtype=float32", "problems_per_batch=5", "sampler.dtype=float32"]
    own = [f"model.path={model}", f"problems.source={geoqa}", "sampler.cache_gib=0.25"]
    prepare_command.prepare("ton-qwen2.5-vl-3b-data", [*SMALL, *few, *own], prepared)
    rows = {row["problem"]: row for row in parquet.read_table(prepared).to_pylist()}
    assert len(rows) >= 2
    assert all((prepared.parent / name).is_file() for row in rows.values() for name in row["images"])
    evaluation = [f"evaluation.problems.source={data / 'geoqa-test.parquet'}"]
    learning = [f"model.path={model}", f"problems.source={prepared}", f"out={start}", "method.n_cold=2"]
    ran = run_recipe("ton-qwen2.5-vl-3b-start", *SMALL, *learning, *evaluation, "problems_per_batch=2")
    texts = []
    for sample in (sample for update in ran.updates for sample in update.parts[0].samples):
        row = rows[sample.problem.id]
        assert sample.text in (row["reply"], form.skip(row["reply"]))
        assert sum(i >= FIRST_ID for i in sample.prompt_ids) >= 1
        texts.append(sample.text)
    assert all(form.fits(text) for text in texts)
    assert "\\boxed{" in texts[0]
    assert ran.run.trainer.version == 2

    checkpoint = json.dumps(str(ran.run.newest_checkpoint()))
    going_on = [f"model.path={checkpoint}", f"problems.source={geoqa}", f"out={tmp_path / 'run'}"]
    ran = run_recipe("ton-qwen2.5-vl-3b", *SMALL, *going_on, *evaluation)
    check_run(ran)
    check_images(ran)
    part = ran.part()
    assert (part.kl_coef, part.loss_aggregation) == (0.04, "sequence")
    assert {term.name for sample in ran.samples for term in sample.terms} == {"form"}


def test_eval_on_suites_with_images(
    model: Path, data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Guards against a suite that `rethink eval --on` cannot evaluate, and transcripts without its images."""
    rethink = in_process(capsys, monkeypatch, tmp_path)
    for name in ("mmmu", "geometry3k"):
        VISION_CASES[name].table().to_parquet(data / f"{name}.parquet")
    settings = ("model.device=cpu", "evaluation.sampling.max_tokens=6", f"evaluation.problems.data={data}")
    on = ("--on", "mathvista", "mmmu", "geometry3k", "--strategy", "solve", "--out", tmp_path / "eval")
    shown = rethink("eval", model, *on, *settings, "model.image_pixels=[256, 1024]")
    assert shown.code == 0, shown.err
    answers = [json.loads(line) for line in (tmp_path / "eval" / "answers.jsonl").read_text().splitlines()]
    expected = {
        f"{name}/{n}": len(problem.images)
        for name in ("mathvista", "mmmu", "geometry3k")
        for n, problem in enumerate(VISION_CASES[name].expected)
    }
    assert {answer["problem"]: len(answer["images"]) for answer in answers} == expected
