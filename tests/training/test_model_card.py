"""Model cards: what the run folder says, nothing else, and nothing of the machine that it lies on."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants, metadata_load

from rethink.jsonl import append, to_json, write_text
from rethink.models.bundled import TINY_MODEL
from rethink.printable import printable
from rethink.problems.shapes import draw_example
from rethink.recipe import load_recipe, to_toml
from rethink.training.base_model import find_base_model
from rethink.training.export import export
from rethink.training.model_card import write_card
from support.command_line import in_process
from support.report_runs import answer, estimate, held_out, step, update_record
from support.vision_models import save_vision_model

UPDATE = 6


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of the demo with a checkpoint after six updates, and evaluations of the start and of these weights."""
    return make_run(tmp_path / "run")


def make_run(path: Path, *settings: str) -> Path:
    recipe = load_recipe("demo-think-twice", [f"out={path}", f"updates={UPDATE}", *settings])
    write_text(path / "config.toml", to_toml(recipe))
    append(path / "metrics.jsonl", [held_out(0, 0.25), update_record(1), held_out(3, 0.3), held_out(UPDATE, 0.5)])
    append(path / "metrics.jsonl", [update_record(8), held_out(9, 0.9)])
    (path / "eval").mkdir()
    asked = answer("sum-0", step("solve", "4", "right"), step("refine", "4", "right"), question="3 7 5 -> 26")
    append(path / "eval" / f"{UPDATE:06d}.jsonl", [asked])
    checkpoint(path).mkdir(parents=True)
    return path


def checkpoint(run: Path, update: int = UPDATE) -> Path:
    return run / "checkpoints" / f"{update:06d}"


def card_of(source: Path, folder: Path, name: str = "someone/model", dtype: str = "bfloat16") -> tuple[Any, str]:
    """Return the fields at the beginning of a card, and the rest of it."""
    folder.mkdir(exist_ok=True)
    write_card(folder, source, name, dtype)
    _, _, rest = (folder / "README.md").read_text().split("---\n", 2)
    return metadata_load(folder / "README.md"), rest


def test_the_numbers_are_those_of_the_exported_weights(run: Path, tmp_path: Path) -> None:
    """Guards against the numbers of other weights, of the best or the last evaluation, and against invented ones."""
    fields, text = card_of(checkpoint(run), tmp_path / "out")
    assert fields["tags"] == ["rethink", "think-twice", "reinforcement-learning"]
    assert (fields["library_name"], fields["pipeline_tag"]) == ("transformers", "text-generation")
    table = [line for line in text.splitlines() if line.startswith(("|  | solve", "| before", "| after"))]
    assert table == [
        "|  | solve | refined | fix rate | fresh | damage rate | fresh |",
        "| before training | 25.0 [20.0, 30.0] | 35.0 [30.0, 40.0] | 30.0 [25.0, 35.0] | 20.0 | 10.0 [5.0, 15.0] | 40.0 |",
        "| after 6 updates | 50.0 [45.0, 55.0] | 60.0 [55.0, 65.0] | 30.0 [25.0, 35.0] | 20.0 | 10.0 [5.0, 15.0] | 40.0 |",
    ]
    assert "ThinkTwice (Jiao et al., [arXiv 2604.01591](https://arxiv.org/abs/2604.01591)): solve, then refine" in text
    assert "| problems | `countdown`, split `train` |" in text
    assert "on 100 held-out problems of `countdown`, split `test`, 2 answers each at temperature 1. They were" in text
    assert "before the weights were rounded to bfloat16" in text
    assert "rounded" not in card_of(checkpoint(run), tmp_path / "out", dtype="float32")[1]


def test_what_is_not_known_is_said(run: Path, tmp_path: Path) -> None:
    """Guards against numbers of an evaluation that never was, or of other weights without a word."""
    checkpoint(run, 5).mkdir()
    _, text = card_of(checkpoint(run, 5), tmp_path / "five")
    assert "| after 3 updates | 30.0 [25.0, 35.0] |" in text
    assert "The weights after 5 updates were not evaluated." in text
    (run / "metrics.jsonl").unlink()
    _, text = card_of(checkpoint(run), tmp_path / "none")
    assert "The run has no held-out evaluation of these weights." in text
    assert "[" not in text.partition("## Held-out results")[2].partition("## Two passes")[0]
    other = tmp_path / "plain"
    other.mkdir()
    fields, text = card_of(other, tmp_path / "no-run", name="model")
    assert "Held-out" not in text
    assert fields["tags"] == ["rethink"]
    assert not (tmp_path / "no-run" / "recipe.toml").exists()
    write_text(run / "config.toml", to_toml(load_recipe("demo-grpo")).replace('"grpo"', '"mine:Own"'))
    _, text = card_of(checkpoint(run), tmp_path / "own")
    assert "| method | `mine:Own`, a custom method |" in text
    assert "could not be loaded" in text
    write_text(run / "config.toml", to_toml(load_recipe()))  # without held-out problems
    assert "| updates | 6 of 100 |" in card_of(checkpoint(run), tmp_path / "default")[1]


def test_a_checkpoint_that_was_copied_to_another_name(run: Path, tmp_path: Path) -> None:
    """`checkpoints/best` could not be exported: "invalid literal for int()". Its counters say how far it was trained."""
    whole = card_of(checkpoint(run), tmp_path / "out")
    best = checkpoint(run).rename(run / "checkpoints" / "best")
    assert "trained for" not in card_of(best, tmp_path / "unknown")[1]
    write_text(best / "counters.json", to_json({"n_updates": UPDATE}))
    assert card_of(best, tmp_path / "best") == whole


def test_only_first_answers_have_no_rates_of_refinements(run: Path, tmp_path: Path) -> None:
    """Guards against columns of "undefined" where the run refined nothing."""
    empty = {"value": None, "low": None, "high": None, "n": 0}
    nothing = dict.fromkeys(("refined", "gain", "fix", "damage", "fix_fresh", "damage_fresh"), empty)
    (run / "metrics.jsonl").write_text("")
    append(run / "metrics.jsonl", [held_out(UPDATE, 0.5, **nothing)])
    _, text = card_of(checkpoint(run), tmp_path / "out")
    assert "|  | solve |\n| --- | --- |\n| after 6 updates | 50.0 [45.0, 55.0] |" in text
    assert "Fix rate" not in text


@pytest.mark.parametrize(
    "damage",
    [{"fix": None}, {"solve": {"n": 3}}, {"update": "6"}, {"damage": {**estimate(0.1), "n": 7, "value": "x"}}],
    ids=["rate", "value", "update", "text"],
)
def test_a_damaged_record_of_an_evaluation_costs_the_table_alone(
    run: Path, tmp_path: Path, damage: dict[str, Any]
) -> None:
    """Guards against an export that ends in a traceback, or a card whose table lacks an evaluation without a word."""
    append(run / "metrics.jsonl", [held_out(UPDATE, 0.5) | damage])
    write_text(run / "eval" / f"{UPDATE:06d}.jsonl", '{"suite": "s"}\n7\n')
    _, text = card_of(checkpoint(run), tmp_path / "out")
    results = text.partition("## Held-out results")[2].partition("## Two passes")[0]
    assert results.strip() == "They cannot be shown: a record of them was damaged when this model was exported."
    assert "What is 17 * 24?" in text


def test_nothing_of_the_machine_is_published(tmp_path: Path) -> None:
    """Guards against folders, addresses and names of variables of the machine in a public card or recipe."""
    source = r"/home/secret/sums.jsonl,countdown, ~/secret/b.jsonl, \\secret\home\c.jsonl"
    settings = [f"problems.source={source}", "endpoint.url=http://secret.internal:8000"]
    settings += ["judge.path=/home/secret/judge", "problems.data=../data", 'trackers=["wandb"]', "model.device=cuda"]
    settings += ["prompts.refine=/again, please", "problems.verifier=boxed", "teacher.endpoint.key_env=SECRET_VARIABLE"]
    run = make_run(tmp_path / "secret", *settings, "model.path=/home/secret/base|`x`", "training.schedule=constant")
    _, text = card_of(checkpoint(run), tmp_path / "out")
    recipe = (tmp_path / "out" / "recipe.toml").read_text()
    for written in (text, recipe):
        assert "secret" not in written.lower()
        assert "home" not in written
    assert "| problems | `sums.jsonl`, `countdown`, `b.jsonl`, `c.jsonl`, split `train` |" in text
    assert "| base model | `base\\|'x'` |" in text
    found = load_recipe(tmp_path / "out" / "recipe.toml")
    assert found.problems.source == "sums.jsonl,countdown, b.jsonl, c.jsonl"
    assert (found.problems.data, found.judge.path) == ("data", "judge")
    assert (found.prompts.refine, found.updates, found.trackers) == ("/again, please", UPDATE, ())
    assert (found.model.device, found.out, found.endpoint.url) == ("auto", "runs/run", "")


def test_questions_of_private_problems_are_not_shown(run: Path, tmp_path: Path) -> None:
    """Guards against a question of a private file as the example of a public card."""
    _, text = card_of(checkpoint(run), tmp_path / "out")
    assert "rethink answer model '3 7 5 -> 26' --recipe model/recipe.toml" in text
    assert "hf download someone/model --local-dir model" in text
    private = make_run(tmp_path / "private", "evaluation.problems.source=mine.jsonl")
    _, text = card_of(checkpoint(private), tmp_path / "out")
    assert "3 7 5 -> 26" not in text
    drawn = make_run(tmp_path / "drawn", "evaluation.problems.source=shapes:count")
    assert "3 7 5 -> 26" in card_of(checkpoint(drawn), tmp_path / "out")[1]


def test_the_license_is_that_of_the_base_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a guessed license, and one that is lost when a run begins with the model of another run."""
    card = "---\nlicense: other\nlicense_name: theirs\nlicense_link: LICENSE\ntags:\n- x\n---\n# base\n"
    theirs = {"license": "other", "license_name": "theirs", "license_link": "LICENSE"}
    base = tmp_path / "base"
    base.mkdir()
    first = make_run(tmp_path / "first", f"model.path={base}")
    second = make_run(tmp_path / "second", f"model.path={checkpoint(first)}")
    for silent in (None, "# base\n", "---\n: [\n---\n", "---\ntags: [x]\n---\n"):
        if silent is not None:
            (base / "README.md").write_text(silent)
        fields, text = card_of(checkpoint(second), tmp_path / "out")
        assert "license" not in fields
        assert "Not known: no card of `base`" in text
        assert "# license: not known" in (tmp_path / "out" / "README.md").read_text()
    (base / "README.md").write_text(card)
    fields, text = card_of(checkpoint(second), tmp_path / "out")
    assert {name: value for name, value in fields.items() if "license" in name} == theirs
    assert "base_model" not in fields  # nobody knows what it is called on the hub
    assert "`other`, `theirs`, `LICENSE`: the license of `base`." in text
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(f'{{"base_model_name_or_path": "{base}"}}')
    assert find_base_model(adapter).license == theirs

    of_hub = make_run(tmp_path / "hub", "model.path=someone/base", "problems.source=hub:someone/sums,gsm8k")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    fields, _ = card_of(checkpoint(of_hub), tmp_path / "out")
    assert ("base_model" in fields, "license" in fields) == (False, False)  # it may be a folder of another machine
    snapshot = tmp_path / "cache" / "models--someone--base" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot.parent.parent / "refs").mkdir()
    (snapshot.parent.parent / "refs" / "main").write_text("abc")
    (snapshot / "config.json").write_text("{}")
    assert card_of(checkpoint(of_hub), tmp_path / "out")[0]["base_model"] == "someone/base"
    (snapshot / "README.md").write_text("---\nlicense: mit\n---\n")
    fields, text = card_of(checkpoint(of_hub), tmp_path / "out")
    assert (fields["license"], fields["datasets"]) == ("mit", ["someone/sums", "openai/gsm8k"])
    assert "[someone/base](https://huggingface.co/someone/base), trained for 6 updates" in text


@pytest.mark.slow
def test_the_snippets_run(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against a card whose code does not run, or asks with other prompts than the model was trained with: it is
    compared with the replies that this package gets."""
    shutil.copytree(TINY_MODEL, checkpoint(run), dirs_exist_ok=True)
    export(str(run / "checkpoints" / f"{UPDATE:06d}"), tmp_path / "model", "float32")
    text = (tmp_path / "model" / "README.md").read_text()
    assert "`apache-2.0`" in text
    rethink = in_process(capsys, monkeypatch, tmp_path)
    (command,) = re.findall(r"rethink (answer .*)", text)
    name, question, *options = re.fullmatch(r"answer (\S+) '(.*)' (\S+) (\S+)", command).groups()  # type: ignore[union-attr]
    shown = rethink("answer", name, question, *options, "evaluation.sampling.temperature=0")
    assert shown.code == 0, shown.err
    draft, refinement = re.search(r"-- draft --\n(.*)\n\n-- refinement --\n(.*)\n\nanswer", shown.out).groups()  # type: ignore[union-attr]
    assert run_snippet(text, capsys) == f"{draft}\n\n{refinement}\n"


def run_snippet(text: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Return what the Python code of a card prints."""
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    capsys.readouterr()
    exec(compile(code, "README.md", "exec"), {})
    return capsys.readouterr().out


@pytest.mark.slow
def test_the_snippets_of_a_vision_language_model_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against a card that calls the model one of text alone, and code that cannot open it or show it an image: it
    is compared with the replies that this package gets."""
    pytest.importorskip("PIL")
    run = make_run(tmp_path / "run", "evaluation.problems.source=shapes:count", "evaluation.sampling.max_tokens=6")
    asked = {"question": "How many circles?", "images": ["0.png"]}
    (run / "eval" / f"{UPDATE:06d}.jsonl").write_text(f"{to_json(asked)}\n")
    save_vision_model(checkpoint(run), "LLaVA")
    model = tmp_path / "model"
    shutil.copytree(checkpoint(run), model)
    fields, text = card_of(checkpoint(run), model, name="model", dtype="float32")
    assert fields["pipeline_tag"] == "image-text-to-text"
    assert "rethink answer model 'How many circles?' --image image.png --recipe model/recipe.toml" in text
    (tmp_path / "image.png").write_bytes(draw_example())
    rethink = in_process(capsys, monkeypatch, tmp_path)
    shown = rethink(
        *("answer", "model", "How many circles?", "--image", "image.png", "--recipe", "model/recipe.toml"),
        *("evaluation.sampling.temperature=0", "evaluation.sampling.max_tokens=6"),
    )
    assert shown.code == 0, shown.err
    found = re.search(r"-- draft --\n(.*)\n\n-- refinement --\n(.*)\n\nanswer", shown.out, re.DOTALL)
    assert found is not None
    assert printable(run_snippet(text, capsys)) == f"{found[1]}\n\n{found[2]}\n"
    for file in model.glob("*processor_config.json"):
        file.unlink()
    assert "AutoProcessor" not in card_of(checkpoint(run), model)[1]
