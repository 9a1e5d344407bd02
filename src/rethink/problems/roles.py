"""Who is said to be a knight, and who a knave: a plain list of roles, and freer wording."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

MAX_ANSWER = 1000
"""Characters; eight people need fewer than 200."""

_PIECE = re.compile(r"(?:\(\d+\)\s*)?([^\W\d_][^()*|]{0,40}?) is an? (knight|knave)", re.IGNORECASE)
_WORD = re.compile(r"[^\W_][\w'\u2019]*|\S")
_LINK = re.compile(r"is|are|an?|the|and|both|must|be|indeed|[,:=*|&\u2013\u2014-]")
_HEDGE = re.compile(
    r"\b(?:if|or|xor|not|n?either|suppos\w*|assum\w*|would|could|might|may|can|cannot|say|says|said|claim\w*|state[sd]"
    r"|false|lies?|lying|contradict\w*|unless|whether|case|option)\b|n['\u2019]t\b|\?"
)


Roles = dict[str, tuple[str, str]]
"""Name in lower case -> name and role."""


def read(text: str) -> Roles:
    """The roles in a list of them. Raises ValueError for anything else, and where somebody is named twice."""
    if len(text) > MAX_ANSWER:
        raise ValueError(f"longer than {MAX_ANSWER} characters")
    found: Roles = {}
    for piece in re.split(r"[,;.\n]|\band\b", text):
        role = _PIECE.fullmatch(piece.strip())
        if piece.strip() and not role:
            raise ValueError(f"{piece.strip()[:60]!r} is not of the form 'NAME is a knight' or 'NAME is a knave'")
        if role:
            name = role[1].casefold()
            if name in found:
                raise ValueError(f"{role[1]} is named twice")
            found[name] = (role[1], role[2].lower())
    if not found:
        raise ValueError("no roles")
    return found


def listed(roles: Iterable[tuple[str, str]]) -> str:
    """Names and roles as such a list."""
    return ", ".join(f"{name} is a {role}" for name, role in roles)


def concluded(text: str, people: Mapping[str, str]) -> list[tuple[str, str]]:
    """The roles on the last lines that state any, up to a line of reasoning or without roles; at most two other lines may
    follow them."""
    found: list[tuple[str, str]] = []
    n_other = 0
    for line in reversed([x for x in text.split("\n") if x.strip()]):
        roles = _roles_of_line(line, people)
        if roles is None or (not roles and (found or n_other == 2)):
            break
        n_other += not roles
        found += roles
    return found


def _roles_of_line(line: str, people: Mapping[str, str]) -> list[tuple[str, str]] | None:
    """What a line states: names, linked by "and", "is" and the like to the next role. None where it is reasoning."""
    found: list[tuple[str, str]] = []
    named: list[str] = []
    hedged = _HEDGE.search(line.casefold())
    for word in _WORD.findall(line.casefold()):
        if word in people:
            named.append(word)
        elif word.rstrip("s") in ("knight", "knave"):
            if hedged or not named:
                return None
            found += [(name, word.rstrip("s")) for name in named]
            named = []
        elif not _LINK.fullmatch(word):
            named = []
    return found
