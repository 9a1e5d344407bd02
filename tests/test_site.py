"""The documentation site, as far as it can be tested without mkdocs: `make docs` builds it, and fails on dead links."""

from __future__ import annotations

import doctest
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from markdown_it import MarkdownIt

import rethink
import site_docstrings
import site_hooks

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))


class Settings(yaml.SafeLoader):  # type: ignore[misc]
    """Reads mkdocs.yml, whose tags name Python functions, without calling them."""


Settings.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, suffix, node: suffix)


def named(entries: list[Any]) -> list[str]:
    """Return the pages of a part of the navigation, those of its parts included."""
    found: list[str] = []
    for entry in entries:
        value = next(iter(entry.values())) if isinstance(entry, dict) else entry
        found += named(value) if isinstance(value, list) else [value]
    return found


def test_the_navigation_names_every_page_once() -> None:
    """Guards against a page that no reader of the site finds, and against an entry without a page."""
    settings = yaml.load((ROOT / "mkdocs.yml").read_text(), Settings)
    pages = [page.relative_to(DOCS).as_posix() for page in PAGES]
    assert Counter(named(settings["nav"])) == Counter([*pages, *map(site_hooks.page_of, site_hooks.IN_NAVIGATION)])


ELEMENTS = re.compile(r"<(li|table|tr|pre|h[1-6]|strong|a href)\b")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_a_page_reads_the_same_on_the_site_as_on_github(page: Path) -> None:
    """Guards against lists without a blank line before them, nested by two spaces and the like, which Python-Markdown
    shows as plain text: CommonMark, which GitHub follows, finds as many items, tables, blocks of code and links."""
    markdown = pytest.importorskip("markdown")
    text = page.read_text(encoding="utf-8")
    extensions = [f"markdown.extensions.{name}" for name in ("attr_list", "fenced_code", "md_in_html", "tables")]
    site = markdown.markdown(text, extensions=extensions)
    github = MarkdownIt("commonmark").enable("table").render(text)
    assert Counter(ELEMENTS.findall(site)) == Counter(ELEMENTS.findall(github))


(TABLE,) = re.findall(r"```\n( +solve .*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


@pytest.mark.parametrize("page", ["index.md", "numbers.md"])
def test_a_page_shows_the_table_of_the_readme(page: str) -> None:
    """Guards against first results that differ."""
    assert TABLE in (DOCS / page).read_text()


def test_the_worked_example_follows_from_the_table() -> None:
    """Guards against an explanation whose arithmetic is wrong, or belongs to an older table."""
    (row,) = [line for line in TABLE.splitlines() if line.startswith("think_twice")]
    columns = re.sub(r"\[.*?\]", "", row).split()
    solve, refined, fix, fresh_fix, damage, fresh_damage = (float(number) / 100 for number in columns[1:7])
    wrong = 1 - solve
    text = " ".join((DOCS / "numbers.md").read_text().split())
    fixed, damaged = round(1000 * wrong * fix), round(1000 * solve * damage)
    assert f"{fixed} fixed" in text
    assert f"{damaged} damaged" in text
    assert f"{1000 * solve:.0f} + {fixed} - {damaged} = {1000 * refined:.0f} are right" in text
    gain = 100 * (wrong * fix - solve * damage)
    assert f"here {100 * wrong * fix:.1f} - {100 * solve * damage:.1f} = {gain:.1f} points" in text
    both = f"{wrong:.3f} x {100 * fresh_fix:.1f} = {solve:.3f} x {100 * fresh_damage:.1f}"
    assert f"({both} = {100 * wrong * fresh_fix:.1f} points)" in text
    assert abs(wrong * fresh_fix - solve * fresh_damage) < 0.0005
    assert f"({100 * fix:.1f} - {100 * fresh_fix:.1f}) = {100 * wrong * (fix - fresh_fix):.1f} points" in text
    assert (
        f"({100 * fresh_damage:.1f} - {100 * damage:.1f}) = {100 * solve * (fresh_damage - damage):+.1f} points" in text
    )
    assert f"x {100 * fresh_fix:.1f} = {100 * (solve + wrong * fresh_fix):.1f}. Read" in text
    assert f"give {10 * fix:.1f} - {90 * damage:.1f} = {round(10 * fix, 1) - round(90 * damage, 1):.1f} points" in text


def test_the_reference_has_every_public_name() -> None:
    """Guards against a public name without documentation, and against a page that names what is gone."""
    named_there = re.findall(r"^::: rethink\.(\w+)$", (DOCS / "api.md").read_text(), re.MULTILINE)
    assert sorted(named_there) == sorted(rethink.__all__)


def test_examples_of_the_hooks_run() -> None:
    assert doctest.testmod(site_hooks).failed == 0


def test_examples_of_docstrings_are_shown_as_code() -> None:
    """Guards against examples that Markdown shows as quotations."""
    shown = site_docstrings.with_fences("Add one.\n\n>>> add(1)\n2\n\nMore.\n>>> add(2)\n3")
    assert shown == "Add one.\n\n```pycon\n>>> add(1)\n2\n```\n\nMore.\n```pycon\n>>> add(2)\n3\n```"


def test_links_to_files_outside_docs_lead_to_their_pages() -> None:
    """Guards against links that work on GitHub but not on the site."""
    text = "[a](../examples/own_method.py#x) [b](lora.md) [c](../CHANGELOG.md) [d](https://a.b/c.md) [e](../nope.py)"
    assert site_hooks.rewritten(text, "docs/page.md") == (
        "[a](files/examples/own_method.py.md#x) [b](lora.md) [c](changelog.md) [d](https://a.b/c.md) [e](../nope.py)"
    )
    assert site_hooks.rewritten("[a](../docs/lora.md)", "tests/README.md") == "[a](../../lora.md)"
    assert site_hooks.rewritten("[a](../../src/rethink/types.py)", "docs/methods/grpo.md") == (
        "[a](../files/src/rethink/types.py.md)"
    )


def test_a_file_that_is_linked_by_a_file_outside_docs_has_a_page() -> None:
    """Guards against dead links two steps away: CONTRIBUTING.md links to tests/README.md."""
    assert {"CONTRIBUTING.md", "tests/README.md"} <= set(site_hooks.files_outside())
    assert "```" in site_hooks.text_of("examples/own_method.py")
    assert site_hooks.text_of("tests/README.md").startswith("# Tests")


@pytest.mark.parametrize(
    ("html", "n"),
    [
        ('<script src="https://cdn.example/x.js"></script>', 1),
        ('<link rel="stylesheet" href="//fonts.example/css">', 1),
        ('<img alt="x" src="http://a.example/x.png">', 1),
        ('<a href="https://arxiv.org/abs/2604.01591">', 0),
        ('<script src="assets/x.js"></script><img src="../x.svg"><link href="." rel="canonical">', 0),
    ],
)
def test_what_a_browser_would_load_from_another_host_is_seen(html: str, n: int) -> None:
    """Guards the check itself, which would pass anything if it saw nothing."""
    assert len(site_hooks.REMOTE.findall(html)) == n
