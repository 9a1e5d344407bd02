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


def test_the_first_page_shows_the_table_of_the_readme() -> None:
    """Guards against two first results that differ."""
    (table,) = re.findall(r"```\n( +solve .*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert table in (DOCS / "index.md").read_text()


def test_examples_of_the_hooks_run() -> None:
    assert doctest.testmod(site_hooks).failed == 0


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
