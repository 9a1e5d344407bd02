"""Show the examples of docstrings as code on the site: an extension of griffe, which reads them for mkdocstrings."""

from __future__ import annotations

from typing import Any

try:
    from griffe import Extension
except ImportError:  # outside the environment that builds the site, for tests
    Extension = object


def with_fences(docstring: str) -> str:
    """Return a docstring with fences around its examples, each of which ends at an empty line."""
    lines: list[str] = []
    inside = False
    for line in [*docstring.splitlines(), ""]:
        if not inside and line.startswith(">>>"):
            lines.append("```pycon")
            inside = True
        elif inside and not line.strip():
            lines.append("```")
            inside = False
        lines.append(line)
    return "\n".join(lines).rstrip()


class FencedExamples(Extension):  # type: ignore[misc]
    """Changes the docstring of each object once it is read."""

    def on_object(self, *, obj: Any, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = with_fences(obj.docstring.value)
