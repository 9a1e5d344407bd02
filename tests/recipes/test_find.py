"""Finding and reading recipes: names in another spelling, and files that are no recipes."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.recipe_texts import refused

SPELLINGS = {
    "demo-thinktwice": "did you mean demo-think-twice?",
    "demo_think_twice": "did you mean demo-think-twice?",
    "Demo-ThinkTwice": "did you mean demo-think-twice?",
    "DEMO-GRPO.toml": "did you mean demo-grpo?",
    "demo-grop": "did you mean demo-grpo?",
    "thinktwice-qwen3": "did you mean thinktwice-qwen3-4b?",
    "think_twice": "did you mean demo-think-twice or demo-think-twice-signs or thinktwice-cross?",
    "rubbish": "recipes of the package: ",
}


@pytest.mark.parametrize(("name", "message"), SPELLINGS.items())
def test_a_name_in_another_spelling(name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against names that differ in hyphens only and have no suggestion."""
    monkeypatch.chdir(tmp_path)
    assert message in refused(file=Path(name))


QWEN = "[model]\npath = Qwen/Qwen3-0.6B\n"
FILES = {
    "mine.toml": ("updates = True\n", "Invalid value (at line 1, column 11): updates = True; write updates = true"),
    "yaml.toml": ("training:\n  lr: 1e-5\n", "(at line 1, column 9): training:"),
    "text.toml": (QWEN, '(at line 2, column 8): path = Qwen/Qwen3-0.6B; write path = "Qwen/Qwen3-0.6B"'),
    "twice.toml": ("updates = 1\nupdates = 2\n", "Cannot overwrite a value (at line 2, column 12): updates = 2"),
    "table.toml": ("[model]\nrandom = true\n[model]\n", "twice (at line 3, column 7): [model]"),
    "cut.toml": ('out = "runs\n', "(at line 1, column 12): out ="),
    "mine.yaml": ("updates: 3\n", "mine.yaml is not a recipe: recipes are TOML files"),
    "mine.json": ('{"updates": 3}\n', "mine.json is not a recipe: recipes are TOML files"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_not_toml_is_refused_with_its_line(name: str, tmp_path: Path) -> None:
    """Guards against messages without the line, and against YAML and JSON that are called bad TOML."""
    text, message = FILES[name]
    (tmp_path / name).write_text(text)
    found = refused(file=tmp_path / name)
    assert message in found
    assert "\n" not in found


def test_what_lies_beside_the_path_is_named(tmp_path: Path) -> None:
    """Guards against a list of shipped recipes where a file lacks only its ending, or a folder holds the file."""
    (tmp_path / "config.toml").write_text("seed = 1\n")
    assert refused(file=tmp_path / "config").endswith(f"did you mean {tmp_path / 'config.toml'}?")
    assert refused(file=tmp_path).endswith(f"is a folder, not a recipe; did you mean {tmp_path / 'config.toml'}?")


def test_a_byte_order_mark_is_no_part_of_the_recipe(tmp_path: Path) -> None:
    """Guards against files written by Windows editors that are called bad TOML."""
    (tmp_path / "bom.toml").write_bytes(b"\xef\xbb\xbfupdtes = 3\n")
    assert "did you mean updates?" in refused(file=tmp_path / "bom.toml")
