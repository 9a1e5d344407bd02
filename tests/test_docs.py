"""The pages of the documentation and the code name the same things."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rethink.problems.source import ANSWER_FORMATS, answer_format_of
from rethink.problems.suites import GROUPS, SUITES
from rethink.settings import ProblemSource as Source

DOCS = Path(__file__).parent.parent / "docs"
HEADINGS = ["What it is", "Source", "License", "Size", "Answer format", "Known issues"]
PAGES = {**dict.fromkeys(SUITES), "gym": None, "countdown": None}
PAGE_OF = {"aime24": "aime", "aime25": "aime"}


@pytest.mark.parametrize("name", PAGES)
def test_each_suite_has_a_page_that_names_its_form(name: str) -> None:
    """Guards against a suite without source, licence, size and faults, and against a page that promises another form."""
    text = (DOCS / "suites" / f"{PAGE_OF.get(name, name)}.md").read_text()
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == HEADINGS
    form = (
        "gym"
        if name == "gym"
        else next(key for key, form in ANSWER_FORMATS.items() if form is answer_format_of(Source(name)))
    )
    assert text.count(f"[`{form}`](../grading.md#{form})") == 1, form
    if name in SUITES:
        assert SUITES[name].hub in text


def test_the_index_lists_every_page() -> None:
    """Guards against a page that nobody finds."""
    index = (DOCS / "suites" / "README.md").read_text()
    pages = sorted(file.stem for file in (DOCS / "suites").glob("*.md") if file.stem != "README")
    assert sorted(re.findall(r"\]\((.*)\.md\)", index)) == pages
    for group, members in GROUPS.items():
        assert f"`{group}`" in index
        assert all(f"`{member}`" in index for member in members)


def test_links_between_pages_lead_somewhere() -> None:
    """Guards against dead links and anchors."""
    for page in DOCS.rglob("*.md"):
        for target, anchor in re.findall(r"\]\(([\w./-]+\.md)(?:#([\w-]+))?\)", page.read_text()):
            file = page.parent / target
            assert file.is_file(), f"{page}: {target}"
            text = file.read_text()
            slugs = [re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in re.findall(r"^#+ (.*)$", text, re.M)]
            assert not anchor or f'id="{anchor}"' in text or anchor in slugs, f"{page}: {target}#{anchor}"
