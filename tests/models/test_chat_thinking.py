"""Thinking tokens: what later prompts and verifiers see of them, by template and by setting."""

from __future__ import annotations

from pathlib import Path

import pytest

from rethink.models.chat import Chat
from rethink.models.load import load_model
from rethink.policies.local import LocalPolicy
from rethink.problems import calls, equation, mathematics
from rethink.problems.answer_format import Verifier
from rethink.prompts import Prompts
from rethink.types import Message, Problem, Sampling
from support.families import FAMILIES

QWEN3 = FAMILIES["qwen3"]
PROBLEM = Problem("p", "1 + 1?", "2", mathematics.verify)
TEXTS = Prompts("{question}", "Check it.")
OPENED = "<|im_start|>assistant\n<think>\n"
TURNS = "<|im_start|>user\n1 + 1?<|im_end|>\n<|im_start|>assistant\n{}<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n"


def chat(template: str, **options: object) -> Chat:
    words = QWEN3.tokenizer(template)
    ids = frozenset(map(words.convert_tokens_to_ids, QWEN3.stops))
    return Chat(words, ids, options=options)


def rendered(chat: Chat, messages: tuple[Message, ...]) -> str:
    return str(chat.tokenizer.decode(list(chat.encode(messages))))


def refining(draft: str, show_reasoning: bool = True) -> tuple[Message, ...]:
    texts = Prompts("{question}", "Check it.", show_reasoning=show_reasoning)
    return texts.messages(PROBLEM, "refine", (draft,))


THOUGHT = "Your earlier reasoning was:\n\nadd\n\nYour earlier answer was:\n\n{}\n\nCheck it."


@pytest.mark.parametrize(
    ("template", "opening"),
    [
        ("qwen3-instruct", "<|im_start|>assistant\n"),
        ("qwen3", "<|im_start|>assistant\n"),
        ("qwen3-thinking", OPENED),
    ],
)
@pytest.mark.parametrize(
    ("draft", "answer"),
    [("<think>\nadd\n</think>\n\n\\boxed{2}", "\\boxed{2}"), ("<think>\nadd", ""), ("add</think>2", "2")],
)
def test_a_draft_that_thought(template: str, opening: str, draft: str, answer: str) -> None:
    """Guards against a draft that is shown in another way by another template: each family gets the same turns, with the
    thinking where the recipe says, and nowhere else."""
    shown = rendered(chat(template), refining(draft))
    assert shown == TURNS.format(answer, THOUGHT.format(answer)) + opening
    hidden = rendered(chat(template), refining(draft, show_reasoning=False))
    assert hidden == TURNS.format(answer, "Check it.") + opening


def test_what_templates_would_do_to_a_draft_with_its_thinking() -> None:
    """Guards the guard: one of these templates keeps the thinking of an earlier reply, the others drop it in silence."""
    turns = (
        Message("user", "1 + 1?"),
        Message("assistant", "<think>\nadd\n</think>\n\n2"),
        Message("user", "Check it."),
    )
    kept = {name: "add" in rendered(chat(name), turns) for name in ("qwen3-instruct", "qwen3", "qwen3-thinking")}
    assert kept == {"qwen3-instruct": True, "qwen3": False, "qwen3-thinking": False}


def test_thinking_switched_off() -> None:
    """Guards against an empty thinking part that is taken for an opened one."""
    off = chat("qwen3", enable_thinking=False)
    ids = off.encode((Message("user", "1 + 1?"),))
    assert off.tokenizer.decode(list(ids)).endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert off.reply_prefix(ids) == ""


@pytest.mark.parametrize(
    ("template", "question", "opened"),
    [
        ("qwen3-thinking", "1 + 1?", "<think>\n"),
        ("qwen3", "1 + 1?", ""),
        ("qwen3-instruct", "Say <think>\n", ""),
        ("qwen3-thinking", "</think>", "<think>\n"),
    ],
)
def test_what_a_prompt_has_opened(template: str, question: str, opened: str) -> None:
    """Guards against a mark in the question that counts, and one that the template writes that does not."""
    one = chat(template)
    assert one.reply_prefix(one.encode((Message("user", question),))) == opened


FORMS = [
    (mathematics.verify, "2", "\\boxed{2}", "\\boxed{3}"),
    (mathematics.verify_lenient, "2", "so 2", "so 3"),
    (equation.verify, '{"numbers":[1,1],"target":2}', "<answer>1+1</answer>", "<answer>1-1</answer>"),
    (calls.verify, "[]", "[]", '[{"name": "f", "arguments": {}}]'),
]


@pytest.mark.parametrize(("verify", "gold", "right", "wrong"), FORMS)
def test_verifiers_see_the_answer_alone(verify: Verifier, gold: str, right: str, wrong: str) -> None:
    """Guards against an answer found in the thinking, and one that is missed behind it; the same verdict whether the mark
    that opens the thinking is the reply's own or the prompt's."""
    assert verify(f"<think>\n{wrong}\n</think>\n\n{right}", gold).right is True
    assert verify(f"<think>\n{right}\n</think>\n\n{wrong}", gold).right is False
    assert verify(f"{wrong}\n</think>\n\n{right}", gold).right is True
    assert verify(f"<think>\n{right}", gold).right is False


@pytest.fixture
def thinker(tmp_path: Path) -> LocalPolicy:
    """A random model whose prompts open the thinking."""
    return LocalPolicy(load_model(str(QWEN3.save(tmp_path, "qwen3-thinking"))), Sampling(max_tokens=7))


def test_a_reply_begins_where_the_prompt_opened_it(thinker: LocalPolicy) -> None:
    """Guards against thinking that was cut and passes for an answer: a box in it was once graded, and it was shown as the
    draft. Ids are those that were drawn; the mark is the prompt's, and is not trained."""
    (asked,) = TEXTS.ask([PROBLEM])
    ((first, *_),) = thinker.sample([asked], 3)
    assert thinker.model.chat.tokenizer.decode(list(first.prompt_ids)).endswith(OPENED)
    assert first.text == "<think>\n" + thinker.model.chat.decode(first.ids)
    assert "</think>" not in first.text
    (refine,) = TEXTS.ask_to_refine([first])
    assert refine.messages[1] == Message("assistant", "")
    told: list[str] = []
    streamed = thinker.stream(asked, None, told.append)
    assert streamed is not None
    assert streamed.text == "<think>\n" + "".join(told)


def test_thinking_that_was_cut_is_no_answer(thinker: LocalPolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same by its verdict, for a reply that has its box already."""
    monkeypatch.setattr(Chat, "decode", lambda self, ids: "first guess \\boxed{2}, but wait")
    ((first, *_),) = thinker.sample(TEXTS.ask([PROBLEM]), 1)
    assert PROBLEM.grade(first.text).right is False
    assert PROBLEM.grade(thinker.model.chat.decode(first.ids)).right is True


def test_a_reply_that_closes_what_the_prompt_opened(thinker: LocalPolicy) -> None:
    """Guards against a mark that is trained a second time, and one that a splice loses."""
    (asked,) = TEXTS.ask([PROBLEM])
    for text in ("<think>\nadd\n</think>\n\n\\boxed{2}", "add\n</think>\n\n\\boxed{2}"):
        sample = thinker.transcribe(asked, text)
        assert thinker.model.chat.decode(sample.ids) == "add\n</think>\n\n\\boxed{2}"
        assert PROBLEM.grade(sample.text).right is True
    spliced = thinker.splice(thinker.transcribe(asked, "a"), "</think>2")
    assert spliced is not None
    assert spliced.text == "<think>\na</think>2"
