r"""Text whose LaTeX lost its backslashes: "\frac" in JSON without a second backslash is a form feed and "rac"."""

from __future__ import annotations

import json

import pytest

from rethink.grading.damage import broken_command, broken_reply, damage

COMMANDS = (
    r"\frac{1}{2} \text{cm} \times \theta \neq \nabla \notin \beta \binom{2}{1} \rho \right) \rangle \begin{x} \tan \to"
)


@pytest.mark.parametrize("command", COMMANDS.split())
@pytest.mark.parametrize("before", ["", "3", "x = "])
def test_commands_that_lost_their_backslash(command: str, before: str) -> None:
    """Guards against a gold answer that no reply equals."""
    read = json.loads(f'"{before}{command} y"')
    assert f"it was probably {command.partition('{')[0].rstrip(')')}" in damage(read)
    assert damage(f"{before}{command} y") == ""


SOUND = [
    "4",
    " 4\n",
    "1\t2",
    "\\begin{pmatrix}\n1 & 2\\\\\n3 & 4\n\\end{pmatrix}",
    "def f():\n\treturn 3",
    "line\r\nline",
    "a\nnot b",
    "x\nu",
    "naïve, 日本 − ½",
]


@pytest.mark.parametrize("text", SOUND)
def test_line_breaks_and_tabs_of_sound_answers(text: str) -> None:
    """Guards against answers of several lines, and code, that are refused."""
    assert damage(text) == broken_command(text) == ""


def test_control_characters_are_never_part_of_an_answer() -> None:
    """Guards against bytes of another encoding, and a backslash that Python read."""
    for text in ("4\x00", "4\x1b[0m", "\x07lpha"):
        assert damage(text).startswith("the control character")
    for text in ("caf\ufffd", "1 \x96 2"):
        assert damage(text).endswith("the text was read in a wrong encoding")
    assert "probably \\nu" in damage("\nu")


def test_only_certain_damage_counts_in_a_question() -> None:
    """Guards against refusing code: a tab before "text" or a line that begins with "eq" is usual there."""
    for command in (r"\frac12", r"\text{x}", r"\times 3", r"\theta", r"\beta", r"\right)", r"\begin{x}"):
        assert broken_command(json.loads(f'"Find {command}."')), command
    for code in ("if x:\n\text = 3\n\tan = 4", "a\neq b", "a\n\to b", "page 1\x0cpage 2", "x\r\nright"):
        assert broken_command(code) == "", code


@pytest.mark.parametrize(
    ("reply", "fault"),
    [
        ("It is \boxed{2}.", "lost the backslash of \\boxed"),
        ("\frac{1}{2}", "lost the backslash of \\frac"),
        ("It is \\boxed{2}.", ""),
        ("a\tb\next\rho\fgh", ""),
    ],
)
def test_replies_that_lost_a_backslash(reply: str, fault: str) -> None:
    """Guards against replies written as "\\boxed{2}" in JSON or Python that count as answers without a box."""
    assert fault in broken_reply(reply) if fault else broken_reply(reply) == ""
