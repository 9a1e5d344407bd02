"""Questions that are conversations: what is asked, what comes before it, and that no answer is in the prompt."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rethink.errors import UserError
from rethink.problems.conversation import question_cell, reply_text, split_conversation
from rethink.problems.mathematics import verify
from rethink.problems.rows import Row
from rethink.types import Message, Problem

USER = {"role": "user", "content": "1+1?"}
TURNS = [{"role": "system", "content": "Be brief."}, USER, {"role": "assistant", "content": "2"}]
AGAIN = {"role": "user", "content": "2+2?"}
EARLIER = [("system", "Be brief."), ("user", "1+1?"), ("assistant", "2")]
SHAREGPT = [{"from": "human", "value": "1+1?"}, {"from": "gpt", "value": "The gold answer is 2."}]


def split(question: Any, **more: Any) -> tuple[list[tuple[str, str]], str]:
    earlier, asked = split_conversation(Row("f, row 3", {"question": question, **more}), "question")
    return [(turn.role, turn.content) for turn in earlier], asked.content


CONVERSATIONS: dict[str, tuple[Any, list[tuple[str, str]], str]] = {
    "text": ("1+1?", [], "1+1?"),
    "one message": (USER, [], "1+1?"),
    "messages": ([*TURNS, AGAIN], EARLIER, "2+2?"),
    "JSON text": (json.dumps([*TURNS, AGAIN]), EARLIER, "2+2?"),
    "a list in a CSV file": (str([*TURNS, AGAIN]), EARLIER, "2+2?"),
    "turns of messages (BFCL)": ([[USER]], [], "1+1?"),
    "sharegpt": (SHAREGPT, [], "1+1?"),
    "sharegpt, several turns": ([*SHAREGPT, {"from": "human", "value": "And?"}, {"from": "gpt", "value": "4"}],
        [("user", "1+1?"), ("assistant", "The gold answer is 2.")], "And?"),
    "the reply at the end": (TURNS, EARLIER[:1], "1+1?"),
    "parts": ([{"role": "user", "content": [{"type": "text", "text": "1+"}, {"type": "text", "text": "1?"}]}], [], "1+1?"),
    "more keys": ([{**USER, "name": "me", "tool_calls": None}], [], "1+1?"),
    "code": ("[{'a': 1}][0]['role'] = ?", [], "[{'a': 1}][0]['role'] = ?"),
    "number": (7, [], "7"),
}  # fmt: skip


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_conversations(name: str) -> None:
    """Guards against a model that is asked JSON, earlier turns that are lost, and the data set's reply in the prompt."""
    value, earlier, asked = CONVERSATIONS[name]
    assert split(value) == (earlier, asked)


REFUSED: dict[str, tuple[Any, str]] = {
    "object": ({"text": "1+1?"}, "holds an object, neither text nor messages with role and content"),
    "list": (["1+1?", "2+2?"], "holds a list, neither text nor messages"),
    "numpy's text": ("[{'role': 'user', 'content': 'a'}\n {'role': 'user', 'content': 'b'}]", "written as text"),
    "an array's text": ("array([{'role': 'user', 'content': 'a'}], dtype=object)", "written as text"),
    "role": ([{"role": "tool", "content": "x"}, USER], "has a message of the role 'tool'"),
    "tool calls": ([{"role": "assistant", "content": "", "tool_calls": [{"id": 1}]}, USER], "tool calls"),
    "no user": ([{"role": "assistant", "content": "2"}], "without a message of the user"),
    "empty": ([{"role": "user", "content": " "}], "whose last question is empty"),
    "null": ([{"role": "user", "content": None}], "whose content is not text"),
    "sound part": ([{"role": "user", "content": [{"type": "input_audio", "data": ""}]}], "a part that is not text"),
    "placeholder": ("What is this? <image>", "holds the placeholder <image>"),
    "placeholder in a message": ([{"role": "user", "content": "<video> What?"}], "holds the placeholder <video>"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_questions_that_cannot_be_asked_are_refused(name: str) -> None:
    """Guards against questions that are asked without their image, tools or turns."""
    value, message = REFUSED[name]
    with pytest.raises(UserError, match=r"^f, row 3: the column 'question' .*") as caught:
        split(value)
    assert message in str(caught.value)


@pytest.mark.parametrize("column", ["Video", "audio"])
def test_columns_with_video_and_sound_are_refused(column: str) -> None:
    """Guards against questions about a video that the model does not see; empty columns do no harm."""
    for value in (["a.png"], {"bytes": b"x"}, "a.png", b"x"):
        with pytest.raises(UserError, match=rf"^f, row 3: the column '{column}' holds video or sound"):
            split("What is this?", **{column: value})
    empty: tuple[object, ...] = (None, [], "", False, float("nan"))
    for nothing in empty:
        assert split("What is this?", **{column: nothing}) == ([], "What is this?")


def test_replies_to_imitate_may_be_conversations() -> None:
    """Guards against a policy that learns to write JSON."""
    row = Row("f, row 3", {"a": "x", "b": TURNS, "c": SHAREGPT, "d": [USER], "e": json.dumps(TURNS), "f": [{"n": 1}]})
    assert [reply_text(row, name) for name in "abcef"] == ["x", "2", "The gold answer is 2.", "2", '[{"n": 1}]']
    with pytest.raises(UserError, match="the column 'd' holds a conversation that does not end with the assistant's"):
        reply_text(row, "d")


def test_a_conversation_survives_a_table() -> None:
    """Guards against prepared data that lose the turns before the question."""
    problem = Problem("p", "2+2?", "4", verify, earlier=tuple(Message(t["role"], t["content"]) for t in TURNS))  # type: ignore[arg-type]
    assert split(question_cell(problem)) == (EARLIER, "2+2?")
    assert question_cell(Problem("p", "2+2?", "4", verify)) == "2+2?"
    assert problem.transcript == "System: Be brief.\n\nUser: 1+1?\n\nAssistant: 2\n\nUser: 2+2?"


TEMPLATED = [
    "<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n",
    "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n1+1?<|eot_id|>",
    "<start_of_turn>user\n1+1?<end_of_turn>\n<start_of_turn>model\n",
    "<s>[INST] 1+1? [/INST]",
    "\n\nHuman: 1+1?\n\nAssistant:",
    "system\nYou are Qwen.\nuser\n1+1?\nassistant\n",
    "user\n1+1?\nassistant\n",
]


@pytest.mark.parametrize("text", TEMPLATED)
def test_text_of_a_chat_template_is_refused(text: str) -> None:
    """Guards against prompts that go through two chat templates."""
    with pytest.raises(
        UserError, match="f, line 1: the column 'p' holds text that already went through a chat template"
    ):
        split_conversation(Row("f, line 1", {"p": text}), "p")


@pytest.mark.parametrize(
    "text", ["A user\nasks an assistant", "Human: 1+1?", "What does [INST] mean?", "Who is a user\n?"]
)
def test_words_of_chat_templates_are_no_template(text: str) -> None:
    """Guards against a pattern that refuses ordinary questions."""
    assert split_conversation(Row("f, line 1", {"p": text}), "p") == ((), Message("user", text))
