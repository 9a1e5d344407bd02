"""Hooks of the documentation site (mkdocs.yml): pages of files outside docs/, and no requests to other hosts.

Pages link to files of the repository by relative paths, as GitHub shows them. On the site, each such file has a page:
Markdown as it is, anything else as a block of code.
"""

from __future__ import annotations

import logging
import posixpath
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
IN_NAVIGATION = ("CHANGELOG.md", "CONTRIBUTING.md")
LINK = re.compile(r"(?<=\]\()(?P<target>[^)\s#:]+)(?P<anchor>#[^)\s]*)?(?=\))")
REMOTE = re.compile(r"<(?:script|img|iframe|link|source|video)\b[^>]*\b(?:src|srcset|href)=[\"']?(?:https?:)?//[^>]*>")
LANGUAGES = {".py": "python", ".toml": "toml", ".ipynb": "json", ".json": "json"}
log = logging.getLogger("mkdocs.hooks.site")


def page_of(file: str) -> str:
    """Return the page on the site of a file of the repository.

    >>> page_of("docs/lora.md"), page_of("CHANGELOG.md"), page_of("examples/own_method.py")
    ('lora.md', 'changelog.md', 'files/examples/own_method.py.md')
    """
    if file.startswith("docs/"):
        return file.removeprefix("docs/")
    if file in IN_NAVIGATION:
        return file.lower()
    return f"files/{file}" if file.endswith(".md") else f"files/{file}.md"


def linked_files(markdown: str, page: str) -> dict[str, str]:
    """Return the targets of a page's links to files, and these files' paths in the repository."""
    found = {}
    for link in LINK.finditer(markdown):
        file = posixpath.normpath(posixpath.join(posixpath.dirname(page), link["target"]))
        if not file.startswith("..") and (ROOT / file).is_file():
            found[link["target"]] = file
    return found


def rewritten(markdown: str, page: str) -> str:
    """Return a page's text with links that lead to pages of the site."""
    files = linked_files(markdown, page)
    folder = posixpath.dirname(page_of(page)) or "."

    def moved(link: re.Match[str]) -> str:
        file = files.get(link["target"])
        return link[0] if file is None else posixpath.relpath(page_of(file), folder) + (link["anchor"] or "")

    return LINK.sub(moved, markdown)


def text_of(file: str) -> str:
    """Return the page of a file outside docs/."""
    text = (ROOT / file).read_text(encoding="utf-8")
    if file.endswith(".md"):
        return rewritten(text, file)
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"# {file}\n\n{fence}{LANGUAGES.get(Path(file).suffix, 'text')}\n{text.rstrip()}\n{fence}\n"


def files_outside() -> list[str]:
    """Return the files outside docs/ that pages link to, and those that such files link to."""
    todo = [*IN_NAVIGATION, *(page.relative_to(ROOT).as_posix() for page in ROOT.glob("docs/**/*.md"))]
    seen = set(todo)
    while todo:
        page = todo.pop()
        if not page.endswith(".md"):
            continue
        for file in linked_files((ROOT / page).read_text(encoding="utf-8"), page).values():
            if file not in seen:
                seen.add(file)
                todo.append(file)
    return sorted(file for file in seen if not file.startswith("docs/"))


def on_files(files: Any, config: Any) -> Any:
    """Add a page for each file outside docs/ that a page links to."""
    from mkdocs.structure.files import File, InclusionLevel

    for file in files_outside():
        inclusion = InclusionLevel.UNDEFINED if file in IN_NAVIGATION else InclusionLevel.NOT_IN_NAV
        files.append(File.generated(config, page_of(file), content=text_of(file), inclusion=inclusion))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Let links to files outside docs/ lead to their pages."""
    return markdown if page.file.generated_by else rewritten(markdown, f"docs/{page.file.src_uri}")


def on_post_page(output: str, page: Any, config: Any) -> str:
    """Warn of what a reader's browser would load from another host; `mkdocs build --strict` then fails."""
    for element in REMOTE.findall(output):
        log.warning("%s loads something from another host: %s", page.file.src_uri, element)
    return output
