"""What users read: the name of the distribution, plain words, and docstrings that say what a function does."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "rethink"
PAGES = [ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")]
PAGES += [page for page in (ROOT / "docs").rglob("*.md") if page.name != "log.md"]
CODE = sorted(PACKAGE.rglob("*.py"))
RECIPES = sorted((PACKAGE / "recipes").glob("*.toml"))
EXAMPLES = sorted(file for file in (ROOT / "examples").rglob("*") if file.suffix in (".py", ".ipynb", ".md"))
OTHER_OWNER = re.compile(r"pip install [^\n]*\brethink(?!-rl)\b|\brethink\[")
PROMPTS = {"prompts.py", "think_tuning_feedback.py"}
"""Models have learned from these texts: they stay as they are."""
ODD = [
    r"\banew\b",
    r"\bsecond look",
    r"\blooks? again\b",
    r"\bof (its|their|one's) own\b",
    r"\bas ever\b",
    r"\bbe it\b",
    r"\bin the mean\b",
    r"\b(is|are) told\b",
    r"\bwhat is no\b",
    r"\bwhoever\b",
    r"\bit is what it is\b",
    r"\bas good as (always|never)\b",
    r"\bgo(es|ing)? on\b",
]
"""Phrases that sent readers back to the start of the sentence."""
NOT_A_VERB = {
    *(
        "A",
        "All",
        "An",
        "As",
        "Each",
        "Every",
        "For",
        "From",
        "How",
        "If",
        "In",
        "Its",
        "No",
        "Of",
        "On",
        "One",
        "Only",
    ),
    *(
        "Several",
        "That",
        "The",
        "Their",
        "This",
        "Those",
        "To",
        "What",
        "When",
        "Where",
        "Whether",
        "Which",
        "Who",
        "Why",
        "With",
    ),
    *(
        "Returns",
        "Raises",
        "Yields",
        "Writes",
        "Reads",
        "Gives",
        "Makes",
        "Takes",
        "Adds",
        "Runs",
        "Draws",
        "Samples",
        "Checks",
    ),
}


@pytest.mark.parametrize(
    "file", [*PAGES, *CODE, *RECIPES, *EXAMPLES, ROOT / "pyproject.toml"], ids=lambda f: str(f.relative_to(ROOT))
)
def test_nothing_installs_the_package_of_that_name_on_the_index(file: Path) -> None:
    """Guards against texts that make people install a stranger's package: ours is rethink-rl."""
    assert OTHER_OWNER.findall(file.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "file",
    [f for f in (*PAGES, *CODE, *RECIPES, *EXAMPLES) if f.name not in PROMPTS],
    ids=lambda f: str(f.relative_to(ROOT)),
)
def test_texts_have_plain_words(file: Path) -> None:
    """Guards against phrases of our own making."""
    text = file.read_text(encoding="utf-8")
    assert [found[0] for pattern in ODD for found in re.finditer(pattern, text, re.IGNORECASE)] == []


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Yield the functions that are called: a property reads like an attribute."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            decorators = {ast.unparse(one) for one in node.decorator_list}
            if not decorators & {"property", "cached_property", "functools.cached_property"}:
                yield node


@pytest.mark.parametrize("file", CODE, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_docstrings_are_imperative(file: Path) -> None:
    """Guards against docstrings that need the function's name to be a sentence (PEP 257)."""
    found = []
    for function in functions(ast.parse(file.read_text(encoding="utf-8"))):
        words = (ast.get_docstring(function) or "Say").split()
        if words[0].rstrip(",:;.") in NOT_A_VERB:
            found.append(f"line {function.lineno}, {function.name}: {' '.join(words[:6])}")
    assert found == []


@pytest.mark.parametrize(
    ("text", "n"),
    [
        ("pip install 'rethink[vllm]'", 1),
        ("pip install rethink", 1),
        ("pip install 'rethink-rl[vllm]'", 0),
        ("pip install '.[peft]'", 0),
        ("install rethink[vllm] there", 1),
        ("rethink.types", 0),
    ],
)
def test_the_pattern_finds_the_old_name(text: str, n: int) -> None:
    """Guards the pattern itself, which would pass anything if it found nothing."""
    assert len(OTHER_OWNER.findall(text)) == n
