"""Thinking in replies: the marks that open and close it in the common model families, and the text after it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

MARKS = (
    (
        "<think>",
        "</think>",
    ),  # DeepSeek R1, Qwen 3, QwQ, GLM 4.5, Kimi K2, MiniMax, Nemotron, Olmo 3, Phi 4, Granite 3.3
    ("<thinking>", "</thinking>"),  # Reflection, and prompts that ask for it
    ("<thought>", "</thought>"),  # EXAONE Deep, Marco-o1
    ("<reasoning>", "</reasoning>"),  # prompts that ask for it
    ("<reflection>", "</reflection>"),  # Reflection
    ("<scratchpad>", "</scratchpad>"),  # prompts that ask for it
    ("<seed:think>", "</seed:think>"),  # Seed-OSS
    ("<longcat_think>", "</longcat_think>"),  # LongCat
    ("[THINK]", "[/THINK]"),  # Magistral
    ("◁think▷", "◁/think▷"),  # Kimi 1.5 and Kimi-VL
    ("<|begin_of_thought|>", "<|end_of_thought|>"),  # Sky-T1, OpenThinker
    ("<|START_THINKING|>", "<|END_THINKING|>"),  # Command A Reasoning
    ("<unused94>thought", "<unused95>"),  # MedGemma
    ("<|channel>thought", "<channel|>"),  # Gemma 4
    ("", "Here is my response:"),  # Granite 3.2
    ("", "Here's my response:"),
    ("", "[BEGIN FINAL RESPONSE]"),  # Apriel
)
"""Opening and closing marks. An empty opening mark is text that also begins an ordinary reply, so it opens nothing."""

SPECIAL_TOKENS = ("<|channel|>", "<|message|>", "<|channel>", "<unused94>", *(mark for pair in MARKS for mark in pair))
"""Special tokens that are, or belong to, a mark: they stay in the text of a reply."""

_FINAL = r"""<\|channel\|>\s{0,9}final\b[^<\n]{0,40}(?:<\|constrain\|>[^<\n]{0,40})?<\|message\|>
    | <\|channel\|>final | assistantfinal"""
_CHANNEL = r"""<\|channel\|> | (?-i:\Aanalysis(?=[A-Z"']))"""
"""gpt-oss marks the channel of its answer; all other channels are thinking. Without special tokens, the names of channels
run into the text: `analysisWe add.assistantfinal5`."""


def after_thinking(reply: str, marks: Sequence[str] = ()) -> str:
    """Return the text after the last thinking; "" if a thinking never ends.

    `marks` are an opening and a closing mark beyond those of the common families. A closing mark also ends what was opened
    inside. One that nothing opened ends everything before it, because templates may put the opening mark into the prompt.

    >>> after_thinking("<think>1 + 1</think>It is 2."), after_thinking("[THINK]1 + 1")
    ('It is 2.', '')
    """
    return split_thinking(reply, marks)[1]


def split_thinking(reply: str, marks: Sequence[str] = ()) -> tuple[str, str]:
    """Return the thinking in a reply, without the opening marks and the last closing mark, and the answer after it."""
    pattern, names = _marks(tuple(marks))
    opened: list[str] = []
    last = None
    for mark in pattern.finditer(reply):
        name, closes = _name(mark, names)
        if closes:
            opened = opened[: opened.index(name)] if name in opened else []
            last = mark
        elif name not in opened:
            opened.append(name)
    if opened:
        last, answer, thinking = None, "", reply
    elif last is None:
        return "", reply
    else:
        answer, thinking = reply[last.end() :], reply[: last.start()]
    return pattern.sub(lambda mark: mark[0] if _name(mark, names)[1] else "", thinking), answer


def opening_mark(text: str, marks: Sequence[str] = ()) -> str:
    """Return the opening mark at the end of a prompt, with the white space after it; "" if there is none."""
    bare = text.rstrip()
    for opening, _ in (*MARKS, *_pair(marks)):
        if opening and bare.endswith(opening):
            return text[len(bare) - len(opening) :]
    return ""


def check_marks(marks: tuple[str, ...]) -> tuple[str, ...]:
    """Return the marks. Raise ValueError unless there are none, or two different ones."""
    if marks and (len(marks) != 2 or not all(mark.strip() for mark in marks) or marks[0] == marks[1]):
        raise ValueError('must be an opening and a closing mark, such as ["<think>", "</think>"], or empty')
    return marks


def _pair(marks: Sequence[str]) -> list[tuple[str, str]]:
    return [(marks[0], marks[1])] if marks else []


def _name(mark: re.Match[str], names: dict[str, tuple[str, bool]]) -> tuple[str, bool]:
    """Return which marks a found mark belongs to, and whether it closes."""
    if mark["final"] or mark["channel"]:
        return "channel", mark["final"] is not None
    return names[mark[0].lower()]


@lru_cache(maxsize=8)
def _marks(more: tuple[str, ...]) -> tuple[re.Pattern[str], dict[str, tuple[str, bool]]]:
    """Return a pattern that finds marks, and for each mark its name and whether it closes."""
    names: dict[str, tuple[str, bool]] = {}
    for opening, closing in (*MARKS, *_pair(more)):
        if opening:
            names[opening.lower()] = (closing, False)
        names[closing.lower()] = (closing, True)
    literal = "|".join(map(re.escape, names))
    return re.compile(f"(?P<final>{_FINAL})|(?P<channel>{_CHANNEL})|{literal}", re.IGNORECASE | re.VERBOSE), names
