"""Questions that are conversations: messages with roles (TRL, verl, OpenAI) and sharegpt's turns."""

from __future__ import annotations

import ast
import json
import re
from typing import Any, cast

from rethink.errors import UserError
from rethink.grading.damage import broken_reply
from rethink.images import MARK, Image
from rethink.problems.images import part_image, place_images, row_images
from rethink.problems.rows import Row
from rethink.types import ChatRole, Message, Problem

ROLES: dict[str, ChatRole] = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
}
KEYS = (("role", "content"), ("from", "value"))
MEDIA = ("video", "videos", "audio", "audios")

_PLACEHOLDER = re.compile(r"<(?:image|video|audio)>|<\|(?:image|video|audio)(?:_pad)?\|>")
_OTHER_PLACEHOLDER = re.compile(r"<(?:video|audio)>|<\|(?:image|video|audio)(?:_pad)?\|>")
_TEMPLATE = re.compile(
    r"<\|im_start\|>|<\|start_header_id\|>|<start_of_turn>|<\|(?:user|assistant)\|>|<｜(?:User|Assistant)｜>|"
    r"\A\s*(?:<s>)?\s*\[INST\]|\A\s*Human: (?=.*\n\s*Assistant:\s*\Z)|"
    r"\A(?:system\n(?=.*\n))?.{0,4000}?(?:\A|\n)user\n(?=.*\nassistant\s*\Z)",
    re.DOTALL,
)
"""The marks of chat templates; the last one is what is left of ChatML without its special tokens (verl's dumps)."""
_LOOKS_LIKE_TURNS = re.compile(r"\s*(?:array\(\s*)?\[?\s*\{\s*['\"](?:role|from|content|value)['\"]\s*:")


def split_conversation(row: Row, names: str, images: str = "") -> tuple[tuple[Message, ...], Message]:
    """Return the turns before the last question of a column, and that question; an empty one if the column is empty.

    Turns after the last user's message are left out: they are the data set's own reply. Text is a question without turns
    before it. The row's images (in the columns `images`) are put into their turns. Raise UserError for other values,
    unknown roles, video and sound.
    """
    refuse_media(row)
    from_row = row_images(row, images)
    if not row.has(names):
        return (), Message("user", "", from_row)
    where = f"{row.location}: the column {names!r}"
    value = turns_in(row.value(names), where)
    if value is None:
        question = row.text(names)
        _refuse_template(question, where)
        messages, last = [Message("user", question)], 0
    else:
        messages = [_message(turn, where, row) for turn in value]
        last = max((n for n, message in enumerate(messages) if message.role == "user"), default=-1)
    if last < 0:
        raise UserError(f"{where} holds a conversation without a message of the user")
    if not messages[last].content.strip():
        raise UserError(f"{where} holds a conversation whose last question is empty")
    messages = place_images(messages[: last + 1], from_row, where)
    for message in messages:
        _refuse_placeholder(message, where)
    return tuple(messages[:last]), messages[last]


def last_reply(value: Any, where: str) -> Any:
    """Return the content of a conversation's last turn, and other values as they are.

    Raise UserError if that turn is not the assistant's.
    """
    parsed = _parse(value) if isinstance(value, str) and _LOOKS_LIKE_TURNS.match(value) else value
    if not is_turns(parsed):
        return value
    turn = parsed[-1] if isinstance(parsed, list) else parsed
    if ROLES.get(_role(turn)) != "assistant":
        raise UserError(f"{where} holds a conversation that does not end with the assistant's reply: {shown(turn)}")
    return _content(turn, where)


def reply_text(row: Row, names: str) -> str:
    """Return a reply to train on: the text of a column, or the last turn of the conversation in it.

    Raise UserError if it is empty, or lost the backslash of a command."""
    where = f"{row.location}: the column {names!r}"
    value = last_reply(row.value(names), where)
    text = value if isinstance(value, str) and value.strip() else row.text(names)
    fault = broken_reply(text)
    if fault:
        raise UserError(f"{where}: {fault}")
    return text


def is_turns(value: Any) -> bool:
    """Return whether a value is a turn of a conversation, or a list of nothing but turns."""
    if isinstance(value, dict):
        return any(role in value and content in value for role, content in KEYS)
    return isinstance(value, list) and bool(value) and all(isinstance(turn, dict) and is_turns(turn) for turn in value)


def turns_in(value: Any, where: str) -> list[dict[str, Any]] | None:
    """Return the turns in a cell, also if they are written as JSON; None for other text and numbers.

    Raise UserError for lists and objects that are not turns.
    """
    if isinstance(value, str):
        if not _LOOKS_LIKE_TURNS.match(value):
            return None
        text, value = value, _parse(value)
        if value is None:
            raise UserError(
                f"{where} holds messages written as text that cannot be read: {shown(text)}; store them as a list, in a "
                ".jsonl or .parquet file"
            )
    if is_turns(value):
        return [value] if isinstance(value, dict) else cast(list[dict[str, Any]], value)
    if isinstance(value, list) and value and all(isinstance(turn, list) and is_turns(turn) for turn in value):
        return [message for turn in value for message in turn]  # the turns of BFCL, each a list of messages
    if isinstance(value, dict | list):
        kind = "an object" if isinstance(value, dict) else "a list"
        raise UserError(
            f"{where} holds {kind}, neither text nor messages with role and content: {shown(value)}; "
            "dots reach into nested values, such as extra_info.question"
        )
    return None


def question_cell(problem: Problem) -> str:
    """Return a problem's question for a table: text, or its conversation as JSON, as `split_conversation` reads it.

    Images of earlier turns have marks in it, so that they are found in the list of all images."""
    if not problem.earlier:
        return problem.question
    turns: list[dict[str, str]] = []
    for turn in problem.earlier:
        marks = "" if MARK in turn.content else MARK * len(turn.images)
        turns.append({"role": turn.role, "content": marks + turn.content})
    turns.append({"role": "user", "content": problem.question})
    return json.dumps(turns, ensure_ascii=False)


def problem_cells(problem: Problem) -> dict[str, Any]:
    """Return the cells with which a prepared row names its problem. `images` are there if it has some."""
    cells: dict[str, Any] = {"problem": problem.id, "question": question_cell(problem), "gold": problem.gold}
    return {**cells, "images": problem.all_images} if problem.all_images else cells


def refuse_media(row: Row) -> None:
    """Raise UserError if the row has a video or a sound, which would be left out of the prompt."""
    for name, value in row.values.items():
        is_filled = value is not None and value is not False and value not in ("", [], {}) and value == value
        if str(name).lower() in MEDIA and is_filled:
            raise UserError(
                f"{row.location}: the column {name!r} holds video or sound, which is not supported; remove the column if "
                "the questions can be answered without it"
            )


def _refuse_placeholder(message: Message, where: str) -> None:
    found = (_OTHER_PLACEHOLDER if message.images else _PLACEHOLDER).search(message.content)
    if found:
        hint = "name the columns of images with images=..." if found[0] == MARK else "only images marked <image> can be"
        raise UserError(f"{where} holds the placeholder {found[0]} of something that is not there; {hint}")


def _refuse_template(text: str, where: str) -> None:
    found = _TEMPLATE.search(text)
    if found:
        raise UserError(
            f"{where} holds text that already went through a chat template ({found[0].strip()[:40]!a}), and would go "
            "through the model's own again; name a column with the bare question or with messages"
        )


def _parse(text: str) -> Any:
    """Return the messages that a table holds as text; None if they cannot be read."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        return ast.literal_eval(text.strip())  # what str() of a list of messages writes into a CSV file
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return None


def _message(turn: dict[str, Any], where: str, row: Row) -> Message:
    role = ROLES.get(_role(turn))
    if role is None:
        raise UserError(f"{where} has a message of the role {_role(turn)!r}; roles are system, user and assistant")
    if turn.get("tool_calls"):
        raise UserError(f"{where} has a message with tool calls, which are not supported in a question")
    images: list[Image] = []
    content = _content(turn, where, row, images)
    if not isinstance(content, str):
        raise UserError(f"{where} has a message whose content is not text: {shown(turn)}")
    return Message(role, content, tuple(images))


def _role(turn: dict[str, Any]) -> str:
    return str(next(turn[role] for role, content in KEYS if role in turn and content in turn)).lower()


def _content(turn: dict[str, Any], where: str, row: Row | None = None, images: list[Image] | None = None) -> Any:
    """Return a turn's content, with parts that are text joined. Images become marks, and are added to `images`."""
    value = next(turn[content] for role, content in KEYS if role in turn and content in turn)
    if not isinstance(value, list):
        return value
    texts: list[str] = []
    for part in value:
        image = None if row is None else part_image(part, f"{where}, a part of a message", row)
        if image is not None and images is not None:
            images.append(image)
            texts.append(MARK)
            continue
        text = part.get("text") if isinstance(part, dict) and part.get("type", "text") == "text" else part
        if not isinstance(text, str):
            raise UserError(f"{where} has a part that is not text, which is not supported: {shown(part)}")
        texts.append(text)
    return "".join(texts)


def shown(value: Any) -> str:
    """Return the start of a value, for messages."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 120 else f"{text[:120]}..."
