"""Templates that lose messages or open no reply, and tokenizers that do not fit, are refused when the model is opened."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from rethink.errors import UserError
from rethink.models import make_tiny
from rethink.models.chat import Chat
from rethink.models.load import load_model
from rethink.models.open_chat import check_vocabulary, open_chat
from rethink.types import Message
from support.chats import CHATML, byte_chat, rendered
from support.families import FAMILIES
from support.random_models import save_random_model

QUESTION = Message("user", "1 + 1?")
REFINING = (QUESTION, Message("assistant", "2"), Message("user", "Check it."))
SYSTEM = (Message("system", "Be brief."), QUESTION)


def opened(template: str, tokenizer: PreTrainedTokenizerFast | None = None) -> Chat:
    tokenizer = tokenizer or byte_chat().tokenizer
    tokenizer.chat_template = template
    return open_chat("here", tokenizer, frozenset({tokenizer.eos_token_id}), "", {}, len(tokenizer))


OPEN = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"


def loop(content: str) -> str:
    """Return a ChatML template that writes each message as `content`."""
    return "{% for m in messages %}<|im_start|>{{ m['role'] }}\n" + content + "<|im_end|>\n{% endfor %}"


MISTRAL = (
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]{% else %} {{ m['content'] }}<|im_end|>{% endif %}"
    "{% endfor %}"
)
PARTS = loop("{% for part in m['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}")
STRICT_PARTS = loop(
    "{% for part in m['content'] %}{{ part.text if part.type == 'text' else raise_exception('?') }}{% endfor %}"
)

GOOD = {
    "chatml": (CHATML, "<|im_start|>user\n1 + 1?<|im_end|>\n<|im_start|>assistant\n"),
    "no generation prompt is needed": (MISTRAL, "[INST] 1 + 1? [/INST]"),
    "whitespace around messages is dropped": (
        loop("{{ m['content'] | trim }}") + OPEN,
        "<|im_start|>user\n1 + 1?<|im_end|>\n<|im_start|>assistant\n",
    ),
    "a list of parts": (PARTS + OPEN, "<|im_start|>user\n1 + 1?<|im_end|>\n<|im_start|>assistant\n"),
    "only a list of parts": (STRICT_PARTS + OPEN, "<|im_start|>user\n1 + 1?<|im_end|>\n<|im_start|>assistant\n"),
}


@pytest.mark.parametrize("name", GOOD)
def test_templates_that_show_every_message(name: str) -> None:
    """Regression: templates that want a list of parts lost the question without a word."""
    template, prompt = GOOD[name]
    chat = opened(template)
    assert rendered(chat, (QUESTION,)) == prompt
    whole = rendered(chat, REFINING)
    assert whole.index("1 + 1?") < whole.index("2<|im_end|>") < whole.index("Check it.")


BAD = {
    "ignores add_generation_prompt": (loop("{{ m['content'] }}"), r"does not begin the reply \(it ignores add_gen"),
    "shows roles only": (loop("") + OPEN, "drops or changes the user message 'What is 6 "),
    "escapes content": (loop("{{ m['content'] | e }}") + OPEN, "drops or changes the user message"),
    "writes JSON": (loop("{{ m['content'] | tojson }}") + OPEN, "drops or changes the user message"),
    "joins lines": (loop("{{ m['content'] | replace('\\n', ' ') }}") + OPEN, "drops or changes the user message"),
    "cuts": (loop("{{ m['content'][:20] }}") + OPEN, "drops or changes the user message"),
    "wants another key": (loop("{{ m['value'] }}") + OPEN, "drops or changes the user message"),
    "syntax": ("{% for m in messages %}\n{{ m['content'] }", "fails with TemplateSyntaxError in line 2"),
    "unknown filter": (loop("{{ m['content'] | shout }}") + OPEN, "fails with TemplateAssertionError in line 2"),
    "escape": (loop("{{ m.__class__.__mro__ }}") + OPEN, "fails with SecurityError"),
    "ends the reply": (
        CHATML + "{{ eos_token }}",
        r"ends the reply before it begins: its prompt ends with '<\|im_end\|>'",
    ),
    "raises": ("{{ raise_exception('no messages, please') }}", "fails with TemplateError: no messages, please"),
}


@pytest.mark.parametrize("name", BAD)
def test_templates_that_lose_messages_are_refused(name: str) -> None:
    """Regression: the model was asked nothing, or its reply began in the user's turn; both were accepted."""
    template, complaint = BAD[name]
    with pytest.raises(UserError, match=complaint) as caught:
        opened(template)
    assert str(caught.value).startswith("here: ")
    assert "model.template" in str(caught.value)


@pytest.mark.parametrize(
    ("template", "ends"),
    [
        (CHATML, {"<|endoftext|>", "<|im_end|>"}),
        (CHATML.replace("<|im_end|>", "\n<|im_end|>"), {"<|endoftext|>", "<|im_end|>"}),
        (CHATML.replace("<|im_end|>", "<|endoftext|>"), {"<|endoftext|>"}),
        (CHATML.replace("<|im_end|>", "</turn>"), {"<|endoftext|>"}),
        (CHATML.replace("<|im_end|>", ""), {"<|endoftext|>"}),
    ],
)
def test_a_reply_ends_where_the_template_ends_its_turn(template: str, ends: set[str]) -> None:
    """Regression: base models with ChatML name only <|endoftext|>, so replies ran on into turns that they made up."""
    tokenizer = byte_chat().tokenizer
    tokenizer.add_special_tokens(
        {"eos_token": "<|endoftext|>", "additional_special_tokens": ["<|im_start|>", "<|im_end|>"]}
    )
    chat = opened(template, tokenizer)
    assert set(tokenizer.convert_ids_to_tokens(sorted(chat.stop_ids))) == ends
    assert chat.end_id == tokenizer.eos_token_id


def test_system_messages_that_a_template_does_not_take() -> None:
    """Regression: a traceback of the template, or a system message that is silently left out."""
    refusing = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    dropping = CHATML.replace("{% for m in messages %}", "{% for m in messages if m['role'] != 'system' %}")
    for template, complaint in (
        (refusing + CHATML, r"takes no system message \(System role not supported\): leave out prompts.system"),
        (MISTRAL, "takes no system message .*must alternate.*leave out prompts.system"),
        (dropping, "drops or changes the system message 'Be brief.'; leave out prompts.system"),
    ):
        chat = opened(template)
        chat.encode(REFINING)
        with pytest.raises(UserError, match=complaint):
            chat.encode(SYSTEM)


def test_a_message_that_only_some_conversations_lose_is_named() -> None:
    """Guards against a draft that the template cuts: only that prompt is refused."""
    chat = opened(loop("{{ m['content'].split('</think>')[-1] }}") + OPEN)
    chat.encode(REFINING)
    with pytest.raises(UserError, match="drops or changes the assistant message 'so </think> 2'"):
        chat.encode((QUESTION, Message("assistant", "so </think> 2"), QUESTION))
    with pytest.raises(UserError, match=r"fails with TemplateError: .*must alternate.*\(roles: user, user\)"):
        opened(MISTRAL).encode((QUESTION, QUESTION))


@pytest.mark.parametrize("name", FAMILIES)
def test_prompts_begin_with_one_bos_token(name: str) -> None:
    """Guards against a BOS token from the template and another from the tokenizer, and against none."""
    family = FAMILIES[name]
    tokenizer = family.tokenizer()
    chat = opened(tokenizer.chat_template, tokenizer)
    if family.begin is not None:
        assert chat.encode((QUESTION,)).count(tokenizer.bos_token_id) == 1


def test_the_plain_form_begins_with_bos_if_the_tokenizer_does() -> None:
    """Guards against base models that expect BOS (Gemma, Llama) and do not get it."""
    from tokenizers.processors import TemplateProcessing

    tokenizer = FAMILIES["llama3"].tokenizer()
    stops = frozenset({tokenizer.eos_token_id})
    without = open_chat("here", tokenizer, stops, "plain", {}, len(tokenizer)).encode((QUESTION,))
    bos, i = tokenizer.bos_token, tokenizer.bos_token_id
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, i)])
    assert i not in without
    assert open_chat("here", tokenizer, stops, "plain", {}, len(tokenizer)).encode((QUESTION,)) == (i, *without)


def test_tokenizers_that_do_not_fit_the_embedding(tmp_path: Path) -> None:
    """Regression: an IndexError. Gemma 3 keeps the mark for an image, past the embedding of its text model."""
    n = len(make_tiny.tokenizer())
    folder = save_random_model(tmp_path / "short", "qwen3", vocab_size=n - 7, tie_word_embeddings=False)
    with pytest.raises(UserError, match=rf"has 7 tokens, such as '100', whose ids are past .*\({n - 7} rows\)"):
        load_model(str(folder))
    tokenizer = make_tiny.tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]}, replace_extra_special_tokens=False)
    check_vocabulary("here", tokenizer, n)
    chat = Chat(tokenizer, frozenset({1}), None, {}, n)
    chat.encode((QUESTION,))
    with pytest.raises(UserError, match=rf"contains the token '<image>' \(id {n}\), but .* only {n} rows"):
        chat.encode((Message("user", "3 <image>"),))
    with pytest.raises(UserError, match="names an end token"):
        replace(chat, stop_ids=frozenset({n}))


def test_ids_past_the_tokenizer_decode_to_nothing(tmp_path: Path) -> None:
    """Guards against a traceback where the embedding is padded and such an id is sampled."""
    n = len(make_tiny.tokenizer())
    model = load_model(str(save_random_model(tmp_path, "qwen3", vocab_size=n + 15, tie_word_embeddings=False)))
    assert model.n_embeddings == n + 15
    assert model.chat.decode((*model.chat.tokenizer.encode("3"), n + 3, *model.chat.tokenizer.encode("* 7"))) == "3 * 7"
