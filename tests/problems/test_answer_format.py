"""Answer formats: what each extracts from a reply without knowing the gold answer, for votes."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest

from rethink.problems import gym
from rethink.problems.source import ANSWER_FORMATS, answer_format_of, load_problems
from rethink.settings import ProblemSource
from rethink.types import Problem
from support.cpu_limit import cpu_limit

TIDE, FERRY = '{"name":"tide","arguments":{"port":"Oban","day":5}}', '{"name": "ferry", "arguments": {}}'
SORTED_TIDE, SORTED_FERRY = '{"arguments":{"day":5,"port":"Oban"},"name":"tide"}', '{"arguments":{},"name":"ferry"}'
SORTED_BOTH, SOLUTION = f"[{SORTED_TIDE},{SORTED_FERRY}]", "3 * 7 = 21 ; 5 + 21 = 26"
NINE_BOXES = "".join(f"\\boxed{{{n}}}\n" for n in range(9))
EXTRACTORS = {name: answer_format.extract_answer for name, answer_format in ANSWER_FORMATS.items()}
EXTRACTORS["gym"] = answer_format_of(ProblemSource("gym:chain_sum")).extract_answer
QUESTIONS = {"equation": "Make 26 from the numbers 3, 7 and 5.", "mixed": "Which?\n\nA) carbon\nB) tin"}

EXTRACTED: list[tuple[str, str, str | None, str | None]] = [
    # format, reply, answer by strict extraction, answer by lenient extraction
    ("boxed", "\\boxed{3}\nno: \\boxed{5/2} = \\boxed{2.5}", "5/2", "5/2"),  # last line; 2.5 repeats 5/2
    ("boxed", "\\boxed{1} and \\boxed{-2}", "1, -2", "1, -2"),
    ("boxed", "\\boxed{} so the answer is 7", None, "7"),
    ("boxed", f"{NINE_BOXES}The answer is 7.", None, None),  # eight different boxes are allowed
    ("boxed", f"\\boxed{{{'7' * 500}}}", "7" * 500, "7" * 500),
    ("choice", "\\boxed{A}\n\\boxed{\\text{(c)}} or \\boxed{C}", "C", "C"),
    ("choice", "\\boxed{A} \\boxed{B}", None, None),
    ("choice", "\\boxed{}\nThe answer is D.", None, "D"),
    ("mixed", "\\boxed{\\text{(b)}}", "B", "B"),
    ("mixed", "\\boxed{12}", "12", "12"),
    ("mixed", "\\boxed{B. tin}", "B. tin", "B"),
    ("mixed", "The answer is B.", None, "B"),
    ("calls", f"[{FERRY}, {TIDE.replace('5', '5.0')}]", SORTED_BOTH, SORTED_BOTH),
    ("calls", f"I call {FERRY} now.", None, f"[{SORTED_FERRY}]"),
    ("calls", '[{"name":"f","arguments":{"x":1e999}}]', None, None),
    ("equation", "<answer>5 + 7*3</answer>", "3*7+5", "3*7+5"),
    ("equation", "<answer>3 / (7 - 7)</answer>", "3/(7-7)", "3/(7-7)"),
    ("equation", "<answer>3 \u00d7 7 + 5</answer>", None, "3*7+5"),
    ("equation", "<answer>5 + 3 * 7 = 27</answer>", None, None),  # 27 is not the target of the question
    ("equation", "<answer>3 ** 7</answer>", None, None),
    ("gym", "<answer>1</answer><answer> 1 2\n3 </answer>", "1 2\n3", "1 2\n3"),
    ("gym", "It is\n 7 \n\n", None, "7"),
    ("gym", f"<answer>{'7' * 20_001}</answer>", None, None),
    ("countdown", "7 - 3 = 4 ; 4 * 5 = 20 ? 07 * 3 = 21 ; 21 + 5 = 26", SOLUTION, SOLUTION),
    ("countdown", "12 + 7 = 1", "7 + 12 = 1", "7 + 12 = 1"),  # sorted by number, not by text
    ("countdown", "3 * 7 = 21 ;", None, None),
]  # fmt: skip


@pytest.mark.parametrize(("name", "reply", "strict", "lenient"), EXTRACTED, ids=lambda value: str(value)[:30])
def test_extract_answer(name: str, reply: str, strict: str | None, lenient: str | None) -> None:
    """Guards against votes on something else than what the verifier grades."""
    extract = EXTRACTORS[name]
    assert extract is not None
    assert [extract(reply, how, QUESTIONS.get(name, "")) for how in (False, True)] == [strict, lenient]


@pytest.mark.parametrize(
    ("name", "gold", "wrong"),
    [
        ("boxed", "5", "\\boxed{6}"),
        ("choice", "B", "\\boxed{A}"),
        ("calls", f"[{SORTED_FERRY}]", f"[{TIDE}]"),
        ("equation", '{"numbers":[3,7,5],"target":26}', "<answer>3 + 7 + 5</answer>"),
        ("countdown", "3 7 5 -> 26", "3 + 7 = 10 ; 10 + 5 = 15"),
        ("signs", "3 7 5 -> 26", "3 + 7 = 10 + 5 = 15"),
        ("shapes", "red", "answer: blue"),
    ],
)
def test_answers_in_thinking_do_not_count(name: str, gold: str, wrong: str) -> None:
    """Guards against formats that know fewer marks of thinking, and that grade a thinking which never ends."""
    answer_format = ANSWER_FORMATS[name]
    right = f"answer: {gold}" if name == "shapes" else answer_format.gold_reply(gold)
    for opening, closing in (("<think>", "</think>"), ("[THINK]", "[/THINK]")):
        assert answer_format.verify(f"{opening}Is it {wrong}{closing}\n{right}", gold).right is True
        assert answer_format.verify(f"{opening}{right}{closing}\n{wrong}", gold).right is False
        for how in (answer_format.verify, answer_format.verify_lenient):
            assert how(f"{opening}Is it {wrong}? {right}", gold).right is False


HOSTILE = [
    "\\boxed{" + "{" * 211 + "}" * 211 + "}",
    "<answer>" + "(" * 97 + "1" + ")" * 97 + "</answer>",
    '[{"name":"f","arguments":{"x":' + "[" * 20_011 + "]" * 20_011 + "}}]",
    '[{"name":"f","arguments":{"x":"\\ud800"}}]',
    " ? ".join(["3 * 7 = 21"] * 10_007),
    "\ud800\x00\u0663",
]


@pytest.mark.parametrize("name", EXTRACTORS)
def test_extract_answer_from_hostile_replies(name: str) -> None:
    """Guards against replies that make extraction fail or take long."""
    extract = EXTRACTORS[name]
    assert extract is not None
    for reply in HOSTILE:
        for lenient in (False, True):
            with cpu_limit():
                found = extract(reply, lenient, QUESTIONS.get(name, ""))
            assert found is None or len(found) <= gym.MAX_ANSWER + 2 * len(reply)


def test_problems_can_be_pickled(tmp_path: Path) -> None:
    """Guards against problems that cannot be sent to other processes."""
    file = tmp_path / "one.jsonl"
    file.write_text(json.dumps({"question": "2+5?", "answer": "7"}) + "\n", encoding="utf-8")
    copied: Problem = pickle.loads(pickle.dumps(load_problems(ProblemSource(str(file)))[0]))
    assert copied.extract_answer is not None
    assert copied.extract_answer("\\boxed{7}") == "7"
