"""Find text that was damaged on its way into a file: LaTeX read as escapes, and characters of another encoding."""

from __future__ import annotations

import re

ESCAPES = {"\a": "a", "\b": "b", "\t": "t", "\n": "n", "\v": "v", "\f": "f", "\r": "r"}
"""What a backslash and a letter become where text is read as JSON or Python: "\\frac" begins with a form feed."""

_NAMES = """
alpha angle approx array ast bar begin beta big binom bmod bot boxed bullet fbox flat forall frac tan tanh tau text textbf
textit textrm tfrac theta therefore tilde times to top triangle nabla neg neq newline ngeq nleq nmid not notin rangle rceil
rfloor rho right rightarrow rm root varepsilon varphi vdots vec vee vert
"""
_COMMANDS = _NAMES.split()
_IN_QUESTIONS = [name for name in _COMMANDS if name[0] in "abvf" or (name[0] in "tr" and len(name) > 4)]
_AT_THE_START = ["ne", "ni", "nu"]
"""Commands whose rest is a letter, which may as well begin a line."""


def _rests(commands: list[str]) -> str:
    """Return a pattern of escapes that are followed by the rest of a command."""
    found: list[str] = []
    for character, letter in ESCAPES.items():
        rests = [name[1:] for name in commands if name[0] == letter]
        if rests:
            found.append(f"{character}(?:{'|'.join(rests)})(?![a-z])")
    return "|".join(found)


_BROKEN_COMMAND = re.compile(_rests(_COMMANDS) + f"|\\A(?:{_rests(_AT_THE_START)})")
_BROKEN_IN_QUESTION = re.compile(_rests(_IN_QUESTIONS) + "|\text{")
_BROKEN_IN_REPLY = re.compile(_rests([name for name in _COMMANDS if name[0] in "bf"]))
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufffd]")


def broken_command(text: str) -> str:
    """Return what is wrong if a text surely holds a LaTeX command without its backslash; "" if nothing is.

    A tab or line break before letters counts only where no text would have it.
    """
    return _describe_command(_BROKEN_IN_QUESTION.search(text), text)


def broken_reply(text: str) -> str:
    """Return what is wrong with a reply that lost the backslash of a command like \\boxed or \\frac; "" if nothing is."""
    found = _BROKEN_IN_REPLY.search(text)
    if found is None:
        return ""
    command = f"\\{ESCAPES[found[0][0]]}{found[0][1:]}"
    return (
        f"the reply lost the backslash of {command}, which was read as an escape; in JSON and Python, write \\{command}"
    )


def restore(text: str) -> str:
    """Return a text in which every LaTeX command that lost its backslash has it again."""
    return _BROKEN_COMMAND.sub(lambda found: f"\\{ESCAPES[found[0][0]]}{found[0][1:]}", text)


def damage(text: str) -> str:
    """Return what is wrong with a mathematical answer; "" if nothing is. Tabs and line breaks are allowed."""
    found = _describe_command(_BROKEN_COMMAND.search(text), text)
    control = _CONTROL.search(text)
    if found or not control:
        return found
    if control[0] >= "\x7f":
        return f"the character {control[0]!a} in {text[:80]!a}: the text was read in a wrong encoding"
    return f"the control character {control[0]!a} in {text[:80]!a}"


def _describe_command(found: re.Match[str] | None, text: str) -> str:
    if found is None:
        return ""
    command = f"\\{ESCAPES[found[0][0]]}{found[0][1:]}"
    return (
        f"the control character {found[0][0]!a} in {text[:80]!a}: it was probably {command}, whose backslash was "
        f"read as an escape; in JSON, write \\{command}"
    )
