"""Write docs/settings.md from the docstrings of the settings, and docs/coming-from-other-libraries.md.

Run: python tools/settings_page.py
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any, get_origin, get_type_hints

from rethink.methods import METHODS
from rethink.recipe import Recipe
from rethink.recipes.keys import section_type
from rethink.recipes.other_libraries import TABLES
from rethink.recipes.values import type_in_words
from rethink.settings import default_of

DOCS = Path(__file__).parent.parent / "docs"

DESCRIBED_ONCE = {
    "ProblemSource": ("Replies",),
    "GRPO": ("Objective",),
    "ThinkTuning": ("Shaping",),
    "VLRethinker": ("Rethinking", "Replay"),
    "CritiqueGRPO": ("Critic",),
    "TON": ("ThoughtForm",),
    "SuperCorrect": ("StepForm", "Inspection"),
    "SelfDistillation": ("Hints", "Divergence"),
}
"""The sections inside other sections that get a table, and where."""

TABLE_OF = {
    "Sampling": "sampling",
    "ProblemSource": "problems",
    "Replies": "problems.replies",
    "Endpoint": "endpoint",
    "Objective": "method.solve",
    "Shaping": "method.shaping",
    "Rethinking": "method.rethink",
    "Replay": "method.replay",
    "Critic": "method.critic",
    "Hints": "method.hints",
    "Divergence": "method.divergence",
}
"""The table that describes the keys of a section inside another one."""

INTRO = """# All settings

A setting is a key of a recipe's table, or `table.key=value` on the command line. `rethink train RECIPE --dry-run` prints
the settings that a recipe changes, and `--all` prints all of them. `[[rewards]]` is a list: on the command line,
`rewards.0` is its first entry.

(`tools/settings_page.py` writes this page from the docstrings in the code.)
"""

OTHER_INTRO = """# Coming from TRL, verl or OpenRLHF

This page shows one run in TRL, in verl and here, and then what the settings of [TRL](#trl), [verl](#verl) and
[OpenRLHF](#openrlhf) are called here. You need not look them up one by one: where a recipe or a command has such a name,
the error message says which setting to use instead.

(`tools/settings_page.py` writes this page from `src/rethink/recipes/other_libraries.py` and `tools/same_run.md`.)
"""

OTHER_NOTE = """The tables name the objective `method.solve`, as most methods do. For methods whose objective has another
name, such as `method.reflect`, replace `solve` by it.
"""

PAGE = re.compile(r"docs/([\w/-]+)\.md")
"""A page of docs/, as docstrings name it."""

SAME_RUN = DOCS.parent / "tools" / "same_run.md"
"""One run in TRL, in verl and here."""


def settings_page() -> str:
    """Return the page of all settings: a table per section, with name, type, default and meaning."""
    parts = [INTRO, _section("The run", Recipe, "")]
    hints = get_type_hints(Recipe)
    for f in dataclasses.fields(Recipe):
        cls = section_type(hints[f.name])
        if cls is not None:
            is_list = get_origin(hints[f.name]) is tuple
            title, prefix = (f"[[{f.name}]]", f"{f.name}.0.") if is_list else (f"[{f.name}]", f"{f.name}.")
            parts.append(_section(f"`{title}`", cls, prefix))
            parts += _inner_sections(cls, f"{f.name}.")
    for name, method in METHODS.items():
        title = f'`[method]` with `name = "{name}"`'
        parts.append(_section(title, method, "method."))
        parts += _inner_sections(method, "method.")
    return "\n".join(parts)


def other_libraries_page() -> str:
    """Return the page with a table per library."""
    parts = [OTHER_INTRO, SAME_RUN.read_text(encoding="utf-8"), OTHER_NOTE]
    for library, table in TABLES.items():
        lines = [f"## {library}\n", "| there | here | note |", "|---|---|---|"]
        for name, counterpart in table.items():
            ours = ", ".join(f"`{setting}`" for setting in counterpart.settings) or "-"
            lines.append(f"| `{name}` | {ours} | {counterpart.note} |")
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def _inner_sections(cls: type[Any], prefix: str) -> list[str]:
    """Return the tables of a section's own sections. Those that were described before are only named there."""
    parts: list[str] = []
    for f in dataclasses.fields(cls):
        inner = section_type(get_type_hints(cls)[f.name])
        if inner is None or inner.__name__ not in DESCRIBED_ONCE.get(cls.__name__, ()):
            continue
        parts.append(_section(f"`[{prefix}{f.name}]`", inner, f"{prefix}{f.name}."))
    return parts


def _section(title: str, cls: type[Any], prefix: str) -> str:
    """Return a table of a section's keys."""
    meanings = _meanings(cls)
    hints = get_type_hints(cls, include_extras=True)
    lines = [f"## {title}\n", "| setting | type | default | meaning |", "|---|---|---|---|"]
    for f in dataclasses.fields(cls):
        section = section_type(hints[f.name])
        if section is not None and prefix == "":
            continue
        kind = _keys_of(section) if section is not None else type_in_words(hints[f.name])
        default = "" if section is not None else _default(f, cls)
        lines.append(f"| `{prefix}{f.name}` | {kind} | {default} | {meanings.get(f.name, f'see `{cls.__name__}`')} |")
    return "\n".join(lines) + "\n"


def _keys_of(section: type[Any]) -> str:
    """Return a link to the table of a section's keys, if the page has one."""
    table = TABLE_OF.get(section.__name__)
    return f"keys of `{section.__name__}`" if table is None else f"the keys of [{table}](#{table.replace('.', '')})"


def _default(f: dataclasses.Field[Any], cls: type[Any]) -> str:
    if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
        return ""
    value = default_of(f)
    if isinstance(value, dict):
        pairs = ", ".join(f'{key} = "{text}"' for key, text in value.items())
        return f"`{{ {pairs} }}`" if pairs else "`{}`"
    if value is None:
        return "none"
    if isinstance(value, str):
        file = f"src/{cls.__module__.replace('.', '/')}.py"
        return f'`"{value}"`' if len(value) < 40 and "\n" not in value else f"a text in `{file}`"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{list(value)}`" if isinstance(value, tuple) else f"`{value}`"


def _meanings(cls: type[Any]) -> dict[str, str]:
    """Return the sentence about each key, from the docstrings of the class and its bases."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        for names, text in re.findall(
            r"^ *- (`\w.*?`(?:, `\w+`)*):? (.*(?:\n {6}.*)*)", base.__doc__ or "", re.MULTILINE
        ):
            for name in re.findall(r"`(\w+)`", names):
                found[name] = PAGE.sub(_link, " ".join(text.split()).replace("|", "\\|"))
    return found


def _link(page: re.Match[str]) -> str:
    """Return a link to a page of docs/ that a docstring names."""
    return f"[{page[1].removesuffix('/README').replace('-', ' ')}]({page[1]}.md)"


if __name__ == "__main__":
    (DOCS / "settings.md").write_text(settings_page(), encoding="utf-8")
    (DOCS / "coming-from-other-libraries.md").write_text(other_libraries_page(), encoding="utf-8")
