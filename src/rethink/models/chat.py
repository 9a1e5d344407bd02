"""Chat templates: messages to token ids, and reply ids to text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rethink.errors import UserError
from rethink.images import Image, without_images
from rethink.models.special_text import SpecialText
from rethink.models.vision.image_text import NO_IMAGES, ImageText
from rethink.thinking import SPECIAL_TOKENS, opening_mark
from rethink.types import Message

PLAIN_TEMPLATE = (
    "{% if starts_with_bos %}{{ bos_token }}{% endif %}"
    "{% for m in messages %}{{ {'system': '', 'user': 'Question: ', 'assistant': 'Answer: '}[m['role']] }}"
    "{{ m['content'] | trim }}\n\n{% endfor %}{% if add_generation_prompt %}Answer:{% endif %}"
)
"""A template for base models, chosen with `model.template = "plain"`."""

CHATML_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Plain ChatML, chosen with `model.template = "chatml"`: for ChatML models whose own template adds a system message to
conversations without one (OLMo 3 Instruct)."""

TEMPLATES = {"plain": PLAIN_TEMPLATE, "chatml": CHATML_TEMPLATE}

_TAIL = 32
"""How many tokens at the end of a prompt are searched for an opening mark: enough even if every byte is a token."""


@dataclass
class Chat:
    """A tokenizer with its chat template and the token ids that end a reply.

    `template` replaces the tokenizer's own; `options` are passed to it. With `in_parts` it gets each message as a list of
    parts. The model knows the ids below `n_embeddings` (None: all). `thinking` is the model's setting of that name. A model
    that takes images has `image_text`; otherwise `no_images_because` says why it takes none. The template gets messages
    with images as lists of parts if `images_in_parts`, else as text with the model's image token. Raise UserError if there
    is no template or no id that ends a reply.
    """

    tokenizer: Any
    stop_ids: frozenset[int]
    template: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    n_embeddings: int | None = None
    in_parts: bool = False
    thinking: tuple[str, ...] = ()
    image_text: ImageText | None = None
    no_images_because: str = NO_IMAGES
    images_in_parts: bool = False

    def __post_init__(self) -> None:
        if self.template is None and not getattr(self.tokenizer, "chat_template", None):
            raise UserError(
                'this model\'s tokenizer has no chat template; set model.template = "plain" in the recipe for the '
                "plain question/answer form, or to the path of a template file"
            )
        if not self._known(self.stop_ids):
            raise UserError("neither the model's generation config nor its tokenizer names an end token")
        self._special_text = SpecialText(self.tokenizer)
        self._marks: dict[int, str] = {}
        for i, token in self.tokenizer.added_tokens_decoder.items():
            if token.special and str(token) in (*SPECIAL_TOKENS, *self.thinking) and i not in self.stop_ids:
                self._marks[i] = str(token)

    def encode(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """Return the token ids of the conversation, including the header of the assistant's next turn.

        If the last message is the assistant's, it is left open to be continued; its trailing whitespace is dropped. Text
        that spells a special token is encoded as text. Raise UserError when the template loses a message, changes it or
        cannot leave it open.
        """
        images = [image for message in messages for image in message.images]
        text = self.render(messages)
        if images and self.image_text is not None:
            ids = self._special_text.encode(self.image_text.expand(text, images))
            in_vocabulary = set(ids) - {self.image_text.token_id}
            ids = self.image_text.with_ids(ids, images)
        else:
            ids = self._special_text.encode(text)
            in_vocabulary = set(ids)
        unknown = in_vocabulary.difference(self._known(in_vocabulary))
        if unknown:
            token = self.tokenizer.convert_ids_to_tokens(min(unknown))
            raise UserError(
                f"the prompt contains the token {token!r} (id {min(unknown)}), but the model's embedding has only "
                f"{self.n_embeddings} rows; use the tokenizer and chat template of this model"
            )
        return tuple(ids)

    def render(self, messages: Sequence[Message], *, open_reply: bool = True) -> str:
        """Return the prompt as text, with marks (`special_text`); without `open_reply`, no reply is begun or continued."""
        continued = open_reply and messages[-1].role == "assistant"
        contents = [self._marked_parts(message) for message in messages]
        if continued and isinstance(contents[-1][-1], str):
            contents[-1][-1] = contents[-1][-1].rstrip()
        turns = [self._turn(m.role, parts) for m, parts in zip(messages, contents, strict=True)]
        try:
            text = self._apply_template(turns, open_reply, continued)
        except Exception as err:  # a template may raise anything
            raise self._template_error(turns, err, continued) from err
        for message, parts in zip(messages, contents, strict=True):
            for part in parts:
                if isinstance(part, str) and part.strip() not in text:
                    raise UserError(_lost(message, part))
        return text

    def require_images(self, what: str, model: str) -> None:
        """Raise UserError, which says that `what` has images, if the model takes none. `model` is its name in words."""
        if self.image_text is None:
            raise UserError(
                f"{what} has images, but {model} takes none: {self.no_images_because}; choose a vision-language model for "
                "it, or leave out the column of images"
            )

    def _marked_parts(self, message: Message) -> list[str | Image]:
        """Return the parts of a message, with marks in its texts. Raise UserError for images if the model takes none."""
        if message.images:
            self.require_images("a prompt", "this model")
        return [self._special_text.mark(part) if isinstance(part, str) else part for part in message.parts]

    def _turn(self, role: str, parts: Sequence[str | Image]) -> dict[str, Any]:
        """Return a message as the template gets it."""
        token = "" if self.image_text is None else f"{self.image_text.place}\n"
        listed: list[dict[str, Any]] = []
        text = ""
        for part in parts:
            is_text = isinstance(part, str)
            listed.append({"type": "text", "text": part} if is_text else {"type": "image"})
            text += part if isinstance(part, str) else token
        has_images = any(part["type"] == "image" for part in listed)
        return {"role": role, "content": listed if self.in_parts or (has_images and self.images_in_parts) else text}

    def _apply_template(self, turns: Sequence[dict[str, Any]], open_reply: bool, continued: bool) -> str:
        text: str = self.tokenizer.apply_chat_template(
            turns,
            tokenize=False,
            add_generation_prompt=open_reply and not continued,
            continue_final_message=continued,
            chat_template=self.template,
            **self.options,
        )
        return text

    def _template_error(self, turns: Sequence[dict[str, Any]], err: Exception, continued: bool) -> UserError:
        """Return the error that says why the template fails, and what to change."""
        if continued and isinstance(err, ValueError):
            return UserError(
                "the chat template changes the assistant's last message, so it cannot be continued; end the conversation "
                "with a user message, or choose another template with model.template"
            )
        without_system = [turn for turn in turns if turn["role"] != "system"]
        if 0 < len(without_system) < len(turns):
            with suppress(Exception):
                self._apply_template(without_system, True, False)
                return UserError(
                    f"the chat template takes no system message ({err}): leave out prompts.system (or the system message "
                    "of the problem), or choose another template with model.template"
                )
        line = getattr(err, "lineno", None)
        where = f" in line {line}" if line else ""
        roles = ", ".join(turn["role"] for turn in turns)
        return UserError(
            f"the chat template fails with {type(err).__name__}{where}: {err} (roles: {roles}); correct it, or choose "
            "another one with model.template"
        )

    def _known(self, ids: Iterable[int]) -> list[int]:
        return [i for i in ids if self.n_embeddings is None or i < self.n_embeddings]

    def encode_reply(self, text: str) -> tuple[int, ...]:
        """Return the token ids of a given reply, with the end token."""
        ids = self._special_text.encode(self._special_text.mark(text))
        return (*ids, self.end_id)

    def decode(self, ids: Sequence[int]) -> str:
        """Return a reply's text, without special tokens other than marks of thinking."""
        body = ids[:-1] if ids and ids[-1] in self.stop_ids else ids
        if not self._marks:
            return self._decode(list(body))
        parts: list[str] = []
        run: list[int] = []
        for token in body:
            if token in self._marks:
                parts += [self._decode(run), self._marks[token]]
                run = []
            else:
                run.append(token)
        return "".join([*parts, self._decode(run)])

    def _decode(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))

    def reply_prefix(self, prompt_ids: Sequence[int]) -> str:
        """Return the start of the reply that the template has put at the prompt's end: "<think>" for some models, else "".

        Put it in front of the reply's text; otherwise a reply that never ends its thinking looks like an answer."""
        tail = self.tokenizer.decode(without_images(prompt_ids[-_TAIL:]), skip_special_tokens=False)
        return opening_mark(tail, self.thinking)

    def save(self, folder: Path) -> None:
        """Write the tokenizer and, of a model that takes images, the image processor."""
        self.tokenizer.save_pretrained(folder)
        if self.image_text is not None:
            self.image_text.processor.save_pretrained(folder)

    @property
    def end_id(self) -> int:
        """The end token's id: the tokenizer's EOS token if it is a stop id, else the lowest stop id."""
        end = self.tokenizer.eos_token_id
        return end if end in self.stop_ids else min(self.stop_ids)


def _lost(message: Message, content: str) -> str:
    """Return the message for content that the template drops or changes."""
    hint = "choose another template with model.template"
    if message.role == "system":
        hint = f"leave out prompts.system (or the system message of the problem), or {hint}"
    start = " ".join(content.split())[:60]
    return f"the chat template drops or changes the {message.role} message {start!r}; {hint}"
