"""Chat templates, reply ids and texts, and thinking that a template opens."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from rethink.errors import UserError
from rethink.models import make_tiny
from rethink.models.chat import PLAIN_TEMPLATE, Chat
from rethink.models.load import load_model
from rethink.policies.fake import FakePolicy
from rethink.policies.local import LocalPolicy
from rethink.problems import calls, equation, mathematics
from rethink.problems.answer_format import Verifier
from rethink.prompts import Prompts
from rethink.types import Message, Problem, Sampling
from support.chats import byte_chat, demo_chat, rendered
from support.families import FAMILIES

PROBLEM = Problem("p", "1 + 1?", "2", mathematics.verify)
TEXTS = Prompts("{question}", "Check it.")
USER, REPLY, END = "<|im_start|>user\n", "<|im_start|>assistant\n", "<|im_end|>\n"
CHATS = {"chatml": byte_chat(), "plain": byte_chat(PLAIN_TEMPLATE), "demo": demo_chat()}
REFINING = (Message("user", "3 7"), Message("assistant", "3 * 7 ; 3"), Message("user", "again"))
RENDERED = {
    "chatml": f"{USER}3 7{END}{REPLY}3 * 7 ; 3{END}{USER}again{END}{REPLY}",
    "plain": "Question: 3 7\n\nAnswer: 3 * 7 ; 3\n\nQuestion: again\n\nAnswer:",
    "demo": "<user> 3 7 <reply> 3 * 7 ; 3 <user> again <reply>",
}
SYSTEM = {"chatml": f"<|im_start|>system\nBe brief.{END}", "plain": "Be brief.\n\n"}


@pytest.mark.parametrize("name", CHATS)
def test_templates_render_turns(name: str) -> None:
    """Guards against a turn that is lost, doubled or in the wrong role, and a missing header of the reply."""
    assert rendered(CHATS[name], REFINING) == RENDERED[name]
    if name in SYSTEM:
        assert rendered(CHATS[name], (Message("system", "Be brief."), *REFINING)) == SYSTEM[name] + RENDERED[name]


@pytest.mark.parametrize("name", CHATS)
@pytest.mark.parametrize("whitespace", ["", " \t\n"])
def test_last_assistant_turn_is_continued(name: str, whitespace: str) -> None:
    """Guards against an end token, a new turn or whitespace after the text. The text occurs twice in the conversation."""
    chat = CHATS[name]
    messages = (*REFINING, Message("assistant", f"3 * 7{whitespace}"))
    text = RENDERED[name] + ("" if name == "chatml" else " ") + "3 * 7"
    assert rendered(chat, messages) == text
    assert chat.encode(messages) == tuple(chat.tokenizer.encode(text, add_special_tokens=False))
    assert chat.encode((*REFINING, Message("assistant", whitespace))) == chat.encode(REFINING)


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}{{ m['content'].split('</think>')[-1] }}{% endfor %}",
        "{% for m in messages %}{% if m['role'] == 'user' %}{{ m['content'] }}{% endif %}{% endfor %}",
        "{% for m in messages %}{{ m['role'] }}{% endfor %}",
    ],
    ids=["drops the thinking", "drops replies", "drops everything"],
)
def test_templates_that_cannot_leave_a_turn_open_are_refused(template: str) -> None:
    """Guards against a traceback, and a prompt without the text to continue."""
    with pytest.raises(UserError, match="cannot be continued; end the conversation with a user message"):
        byte_chat(template).encode((Message("user", "1 + 1?"), Message("assistant", "<think>so</think>2")))


def test_errors_of_a_template_are_not_hidden() -> None:
    """Guards against the wrong remedy for a broken template."""
    with pytest.raises(ValueError, match="substring not found"):
        byte_chat("{{ messages[0]['content'].index('7') }}").encode((Message("user", "1 + 1?"),))


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("3 <user> * <pad> 7 <end>", "3 * 7"),
        # Only the last id can be the end of the reply; any other stop id would have ended it earlier.
        ("3 * 7 ?", "3 * 7"),
        ("3 ? * 7", "3 ? * 7"),
        ("<end>", ""),
        ("", ""),
    ],
)
def test_decode_drops_special_tokens(words: str, text: str) -> None:
    """Guards against special tokens in the text that verifiers and prompts see, and `ids[-1]` of an empty reply."""
    chat = demo_chat()
    number = chat.tokenizer.convert_tokens_to_ids
    chat.stop_ids = frozenset({number("<end>"), number("?")})
    assert chat.decode(tuple(map(number, words.split()))) == text


def test_end_id_is_a_stop_id() -> None:
    """Guards against training on an end token at which the sampler does not stop, and replies that never end."""
    tokenizer = make_tiny.tokenizer()
    assert Chat(tokenizer, frozenset({1, 5})).end_id == tokenizer.eos_token_id == 1
    assert Chat(tokenizer, frozenset({7, 5})).end_id == 5
    with pytest.raises(UserError, match="names an end token"):
        Chat(tokenizer, frozenset())


def test_templates_by_name_and_file(model_folders: dict[str, Path], tmp_path: Path) -> None:
    """Guards against an invented template, and a setting that does not replace the tokenizer's own."""
    base_model = shutil.copytree(model_folders["qwen3"], tmp_path / "base")
    (base_model / "chat_template.jinja").unlink()
    with pytest.raises(UserError, match=r'no chat template; set model\.template = "plain"'):
        load_model(str(base_model))
    assert load_model(str(base_model), template="plain").chat.template == PLAIN_TEMPLATE
    chatml = load_model(str(base_model), template="chatml").chat
    assert rendered(replace(byte_chat(), template=chatml.template), REFINING) == RENDERED["chatml"]
    file = tmp_path / "reversed.jinja"
    file.write_text("{% for m in messages | reverse %}{{ m['content'] }} {% endfor %}")
    for folder in (base_model, model_folders["qwen3"]):
        assert rendered(load_model(str(folder), template=str(file)).chat, REFINING) == "again 3 * 7 ; 3 3 7"
    with pytest.raises(UserError, match=r'is not "plain", "chatml" or a file: nowhere\.jinja'):
        load_model(str(base_model), template="nowhere.jinja")


# Thinking.

QWEN3 = FAMILIES["qwen3"]
HEADER = "<|im_start|>assistant\n"
OPENED = f"{HEADER}<think>\n"
TURNS = f"{USER}1 + 1?{END}{HEADER}{{}}{END}{USER}{{}}{END}"
SHOWN = "Your earlier reasoning was:\n\nadd\n\nYour earlier answer was:\n\n{}\n\nCheck it."


def qwen_chat(template: str, **options: object) -> Chat:
    tokenizer = QWEN3.tokenizer(template)
    ids = frozenset(map(tokenizer.convert_tokens_to_ids, QWEN3.stops))
    return Chat(tokenizer, ids, options=options)


@pytest.mark.parametrize(
    ("template", "header"), [("qwen3-instruct", HEADER), ("qwen3", HEADER), ("qwen3-thinking", OPENED)]
)
@pytest.mark.parametrize(("draft", "answer"), [("<think>\nadd\n</think>\n\n2", "2"), ("<think>\nadd", "")])
def test_thinking_of_a_draft_is_shown_by_setting_not_by_template(
    template: str, header: str, draft: str, answer: str
) -> None:
    """Guards against a draft that each template shows differently: some drop the thinking of earlier turns, some do not."""
    for prompts, request in (
        (TEXTS, SHOWN.format(answer)),
        (replace(TEXTS, show_reasoning=False), "Check it."),
    ):
        messages = prompts.messages(PROBLEM, "refine", (draft,))
        assert rendered(qwen_chat(template), messages) == TURNS.format(answer, request) + header


@pytest.mark.parametrize("template", ["qwen3", "qwen3-thinking"])
def test_tries_and_reflections_that_think_are_shown_without_it(template: str) -> None:
    """Regression: a try that thinks could not be reflected on, because the template dropped its thinking."""
    chat = qwen_chat(template)
    (ask,) = TEXTS.ask([PROBLEM])
    think = "<think>\nadd\n</think>\n\n"
    first = FakePolicy(lambda *_: f"{think}3").transcribe(ask, f"{think}3")
    (reflect,) = TEXTS.ask_to_reflect([first])
    reflection = FakePolicy(lambda *_: "").transcribe(reflect, f"{think}Too many.")
    (retry,) = TEXTS.ask_to_retry([reflection], [reflection])
    shown = rendered(chat, retry.messages)
    assert "3<|im_end|>" in shown
    assert "Too many.<|im_end|>" in shown
    assert "add" not in shown.replace(TEXTS.reflect, "").replace(TEXTS.retry, "")
    assert TEXTS.messages(PROBLEM, "retry", (first.text, reflection.text)) == retry.messages


@pytest.mark.parametrize(
    ("template", "options", "question", "prefix"),
    [
        ("qwen3-thinking", {}, "1 + 1?", "<think>\n"),
        ("qwen3-thinking", {}, "</think>", "<think>\n"),
        ("qwen3", {}, "1 + 1?", ""),
        ("qwen3", {"enable_thinking": False}, "1 + 1?", ""),  # ends with an empty thinking part
        ("qwen3-instruct", {}, "Say <think>\n", ""),
    ],
)
def test_reply_prefix_is_what_the_template_opened(
    template: str, options: dict[str, object], question: str, prefix: str
) -> None:
    """Guards against tags in the question that count, tags of the template that do not, and options that are ignored."""
    chat = qwen_chat(template, **options)
    ids = chat.encode((Message("user", question),))
    assert chat.reply_prefix(ids) == prefix
    assert chat.tokenizer.decode(list(ids)).endswith("<think>\n\n</think>\n\n") == bool(options)


@pytest.mark.parametrize(
    ("verify", "gold", "right", "wrong"),
    [
        (mathematics.verify, "2", "\\boxed{2}", "\\boxed{3}"),
        (mathematics.verify_lenient, "2", "so 2", "so 3"),
        (equation.verify, '{"numbers":[1,1],"target":2}', "<answer>1+1</answer>", "<answer>1-1</answer>"),
        (calls.verify, "[]", "[]", '[{"name": "f", "arguments": {}}]'),
    ],
)
def test_verifiers_ignore_thinking(verify: Verifier, gold: str, right: str, wrong: str) -> None:
    """Guards against an answer found in the thinking, and one that is missed after it, opened by reply or template."""
    assert verify(f"<think>\n{wrong}\n</think>\n\n{right}", gold).right is True
    assert verify(f"<think>\n{right}\n</think>\n\n{wrong}", gold).right is False
    assert verify(f"{wrong}\n</think>\n\n{right}", gold).right is True
    assert verify(f"<think>\n{right}", gold).right is False


@pytest.fixture
def thinker(tmp_path: Path) -> LocalPolicy:
    """A random model whose prompts open the thinking."""
    return LocalPolicy(load_model(str(QWEN3.save(tmp_path, "qwen3-thinking"))), Sampling(max_tokens=7))


def test_reply_text_begins_with_the_prefix_but_ids_do_not(thinker: LocalPolicy) -> None:
    """Regression: thinking that was cut passed for an answer; a box in it was graded, and it was shown as the draft."""
    (prompt,) = TEXTS.ask([PROBLEM])
    ((first, *_),) = thinker.sample([prompt], 3)
    assert thinker.model.chat.tokenizer.decode(list(first.prompt_ids)).endswith(OPENED)
    assert first.text == "<think>\n" + thinker.model.chat.decode(first.ids)
    assert "</think>" not in first.text
    (refine,) = TEXTS.ask_to_refine([first])
    assert refine.messages[1] == Message("assistant", "")
    pieces: list[str] = []
    streamed = thinker.stream(prompt, None, pieces.append)
    assert streamed is not None
    assert streamed.text == "".join(pieces)
    assert pieces[0] == "<think>\n"


def test_transcribed_replies_close_what_the_prompt_opened(thinker: LocalPolicy) -> None:
    """Guards against training on the template's own tag, and a splice that loses it."""
    (prompt,) = TEXTS.ask([PROBLEM])
    for text in ("<think>\nadd\n</think>\n\n\\boxed{2}", "add\n</think>\n\n\\boxed{2}"):
        sample = thinker.transcribe(prompt, text)
        assert thinker.model.chat.decode(sample.ids) == "add\n</think>\n\n\\boxed{2}"
        assert PROBLEM.grade(sample.text).right is True
    spliced = thinker.splice(thinker.transcribe(prompt, "a"), "</think>2")
    assert spliced is not None
    assert spliced.text == "<think>\na</think>2"


def test_special_tokens_that_mark_thinking_stay_in_the_text() -> None:
    """Guards against Magistral's and gpt-oss's thinking that runs into the answer, because its marks are special tokens."""
    chat = byte_chat()
    chat.tokenizer.add_special_tokens({"additional_special_tokens": ["[THINK]", "[/THINK]", "<|image|>", "[["]})
    marked = replace(chat)  # reads the tokens of the tokenizer anew
    ids = chat.tokenizer.encode("[THINK]\\boxed{3}[/THINK]<|image|>\\boxed{2}[[<|im_end|>", add_special_tokens=False)
    assert marked.decode(ids) == "[THINK]\\boxed{3}[/THINK]\\boxed{2}"
    assert replace(chat, thinking=("[[", "]]")).decode(ids) == "[THINK]\\boxed{3}[/THINK]\\boxed{2}[["
    assert mathematics.verify(marked.decode(ids), "2").right is True
    prompt = chat.tokenizer.encode("<|im_start|>assistant\n[THINK]", add_special_tokens=False)
    assert marked.reply_prefix(prompt) == "[THINK]"
