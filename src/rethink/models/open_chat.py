"""Open a model's chat: choose its template, and check that prompts hold each message and end where the reply begins."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from rethink.errors import UserError
from rethink.images import Image
from rethink.models.chat import TEMPLATES, Chat
from rethink.models.vision import ImageText
from rethink.types import Message

QUESTION = 'What is 6 * 7? Let "x" < 5 & go.\n\n  Show your work.'
REPLY = "Six times seven is 42."
PLACEHOLDER = Image("0" * 64, "PNG", (1, 1), b"")
"""Stands for an image that is never read."""

CHOOSE = 'choose another template with model.template ("chatml", "plain" or a file)'


def open_chat(
    path: str,
    tokenizer: Any,
    stop_ids: frozenset[int],
    template: str,
    options: dict[str, Any],
    n_embeddings: int,
    image_text: ImageText | None = None,
) -> Chat:
    """Return the chat of the model at `path`. Raise UserError if its template loses the question or opens no reply.

    Templates of vision-language models may want a message as a list of parts; they get it in that form. `image_text` is for
    models that take images."""
    if template == "plain" and _adds_bos(tokenizer):
        options = {"starts_with_bos": True, **options}
    text = _read_template(template)
    if text is None and image_text is not None and not tokenizer.chat_template:
        text = image_text.processor.chat_template  # older folders have the template beside the processor only
    chat = Chat(tokenizer, stop_ids, text, options, n_embeddings, image_text=image_text)
    try:
        _check(chat)
    except UserError as err:
        try:
            in_parts = replace(chat, in_parts=True)
            _check(in_parts)
        except UserError:
            raise UserError(f"{template or path}: {err}") from err
        chat = in_parts
    if image_text is not None:
        in_parts = replace(chat, images_in_parts=True)
        chat = in_parts if _shows_image(in_parts) else chat
    return replace(chat, stop_ids=chat.stop_ids | _turn_ends(chat))


def check_vocabulary(path: str, tokenizer: Any, n_embeddings: int) -> None:
    """Raise UserError if the tokenizer is empty, or has ordinary tokens whose ids are past the model's embedding.

    Special tokens may be: some models for text only keep the mark for an image. A prompt that contains one is refused."""
    if not tokenizer.encode(QUESTION, add_special_tokens=False):
        raise UserError(
            f"the tokenizer of {path} has no vocabulary; copy its files into the folder, tokenizer.json first"
        )
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    past = _past_embedding(tokenizer, n_embeddings, special)
    if past:
        raise UserError(
            f"the tokenizer of {path} has {len(past)} tokens, such as {past[0]!r}, whose ids are past the model's "
            f"embedding ({n_embeddings} rows): it belongs to another model, or tokens were added without "
            "model.resize_token_embeddings(len(tokenizer))"
        )


def _past_embedding(tokenizer: Any, n_embeddings: int, special: Iterable[int]) -> list[str]:
    if len(tokenizer) <= n_embeddings and tokenizer.vocab_size <= n_embeddings:
        return []
    vocabulary = tokenizer.get_vocab().items()
    return sorted(token for token, i in vocabulary if i >= n_embeddings and i not in special)


def _read_template(template: str) -> str | None:
    if not template:
        return None
    if template in TEMPLATES:
        return TEMPLATES[template]
    file = Path(template)
    if not file.is_file():
        raise UserError(f'model.template is not "plain", "chatml" or a file: {template}')
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as err:
        raise UserError(f"{template} is not a chat template: {err}") from err
    if "messages" not in text:
        raise UserError(f"{template} is not a chat template: it does not use `messages`")
    return text


def _adds_bos(tokenizer: Any) -> bool:
    """Return whether the tokenizer itself puts its BOS token before every text: its model then expects one."""
    return tokenizer.bos_token_id is not None and tokenizer.encode("a")[:1] == [tokenizer.bos_token_id]


def _check(chat: Chat) -> None:
    """Raise UserError unless a prompt contains the question and ends where the reply begins."""
    question = Message("user", QUESTION)
    chat.encode((question,))
    prompt = chat.render((question,))
    closed = chat.render((question,), open_reply=False)
    if len(prompt.rstrip()) > len(closed.rstrip()):  # the header of a reply
        _refuse_ended(chat, prompt.rstrip())
        return
    try:
        before, found, _ = chat.render((question, Message("assistant", REPLY)), open_reply=False).partition(REPLY)
    except UserError:
        found = before = ""
    if not found or not prompt.rstrip().startswith(before.rstrip()):
        raise UserError(f"the chat template does not begin the reply (it ignores add_generation_prompt); {CHOOSE}")


def _shows_image(chat: Chat) -> bool:
    """Return whether the template leaves the place of an image in a message that is a list of parts."""
    assert chat.image_text is not None
    try:
        return chat.image_text.n_places(chat.render((Message("user", QUESTION, (PLACEHOLDER,)),))) == 1
    except UserError:
        return False


def _refuse_ended(chat: Chat, prompt: str) -> None:
    """Raise UserError if a prompt with the header of a reply ends with the EOS token: the reply would be over already."""
    token = chat.tokenizer.eos_token
    if token and prompt.endswith(token):
        raise UserError(f"the chat template ends the reply before it begins: its prompt ends with {token!r}; {CHOOSE}")


def _turn_ends(chat: Chat) -> frozenset[int]:
    """Return the id of the special token that the template puts after a reply, if there is one.

    A base model with ChatML may name only <|endoftext|> as its end token. Without this, a reply would run on into turns
    that the model makes up, and the answers there would be graded."""
    try:
        text = chat.render((Message("user", QUESTION), Message("assistant", REPLY)), open_reply=False)
    except UserError:  # a template that takes no replies
        return frozenset()
    after = text.rpartition(REPLY)[2].lstrip()
    for i, token in chat.tokenizer.added_tokens_decoder.items():
        if token.special and after.startswith(str(token)) and i != chat.tokenizer.bos_token_id:
            return frozenset({i})
    return frozenset()
