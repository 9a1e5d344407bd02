"""Settings without effect in shipped recipes."""

from __future__ import annotations

from pathlib import Path

import pytest

from rethink import recipes
from rethink.recipe import load_recipe
from rethink.training.no_effect import settings_without_effect


@pytest.mark.parametrize("file", sorted(recipes.FOLDER.glob("*.toml")), ids=lambda f: f.stem)
def test_every_setting_of_a_shipped_recipe_has_an_effect(file: Path) -> None:
    """Guards against rules that refuse what works."""
    assert list(settings_without_effect(load_recipe(file))) == []


def test_a_file_has_no_splits(tmp_path: Path) -> None:
    """Guards against `split = "test"` on a file, which would train on all of its rows."""
    file = tmp_path / "own.jsonl"
    file.write_text('{"question": "1 + 1?", "answer": "2"}\n')
    recipe = load_recipe(None, [f"problems.source={file}", "problems.split=test"])
    (message,) = settings_without_effect(recipe)
    assert message.startswith("problems.split has no effect: ")
    replaced = [f"problems.source={file}", f"evaluation.problems.source={file}"]
    assert list(settings_without_effect(load_recipe("demo-think-twice", replaced))) == []


def test_shapes_use_what_they_read() -> None:
    """Guards against a refusal of demonstrations for shapes, which once were called those of countdown and signs only."""
    given = ["problems.source=shapes:count", "problems.level=2", "problems.replies.p_right=1.0"]
    assert list(settings_without_effect(load_recipe(None, [*given, "problems.extraction=lenient"]))) == []
    (message,) = settings_without_effect(load_recipe(None, [*given, "problems.question=q"]))
    assert (
        message == "problems.question has no effect: shapes:count makes its problems; set problems.source to your file"
    )


USED = {
    "demo-supercorrect": ["training.reference_every=5"],  # DPO compares with the start model
    "demo-score": [
        "training.reference_every=5",
        "method.solve.kl_coef=0",
        "method.refine.kl_coef=0",
        "method.solve.kl_estimator=k1",  # its first stage has a KL coefficient that is no objective's
    ],
    "demo-think-tuning": ["teacher.path=tiny", "sampler.engine=vllm", "sampler.cuda_graphs=true"],  # the teacher's
    "demo-grpo": ["problems.verifier=boxed", "problems.extraction=lenient"],  # the verifier's, not countdown's
}


@pytest.mark.parametrize("recipe", USED)
def test_settings_with_an_effect_are_taken(recipe: str) -> None:
    """Guards against rules that refuse what works; each of these was refused."""
    assert list(settings_without_effect(load_recipe(recipe, USED[recipe]))) == []
