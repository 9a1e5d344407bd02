"""Chat templates: messages to token ids, and reply ids to text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rethink.errors import UserError
from rethink.types import Message

PLAIN_TEMPLATE = (
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

_OPENED = re.compile(r"<think>\s*\Z")
_TAIL = 16
"""How many tokens at the end of a prompt are searched for "<think>": enough even if every byte is a token."""


@dataclass
class Chat:
    """A tokenizer with its chat template and the token ids that end a reply.

    `template` replaces the tokenizer's own; `options` are passed to it. Raise UserError if there is no template or no id
    that ends a reply.
    """

    tokenizer: Any
    stop_ids: frozenset[int]
    template: str | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.template is None and not getattr(self.tokenizer, "chat_template", None):
            raise UserError(
                'this model\'s tokenizer has no chat template; set model.template = "plain" in the recipe for the '
                "plain question/answer form, or to the path of a template file"
            )
        if not self.stop_ids:
            raise UserError("neither the model's generation config nor its tokenizer names an end token")

    def encode(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """Return the token ids of the conversation, including the header of the assistant's next turn.

        If the last message is the assistant's, it is left open to be continued; its trailing whitespace is dropped. Raise
        UserError when the template cannot leave it open.
        """
        *earlier, last = [{"role": m.role, "content": m.content} for m in messages]
        continued = last["role"] == "assistant"
        if continued:
            last = {**last, "content": last["content"].rstrip()}
        try:
            text = self.tokenizer.apply_chat_template(
                [*earlier, last],
                tokenize=False,
                add_generation_prompt=not continued,
                continue_final_message=continued,
                chat_template=self.template,
                **self.options,
            )
        except ValueError as err:
            if not continued:
                raise
            raise UserError(
                "the chat template changes the assistant's last message, so it cannot be continued; end the conversation "
                "with a user message, or choose another template with model.template"
            ) from err
        return tuple(self.tokenizer.encode(text, add_special_tokens=False))

    def encode_reply(self, text: str) -> tuple[int, ...]:
        """Return the token ids of a given reply, with the end token."""
        return (*self.tokenizer.encode(text, add_special_tokens=False), self.end_id)

    def decode(self, ids: Sequence[int]) -> str:
        """Return a reply's text, without special tokens."""
        body = ids[:-1] if ids and ids[-1] in self.stop_ids else ids
        return str(self.tokenizer.decode(list(body), skip_special_tokens=True))

    def reply_prefix(self, prompt_ids: Sequence[int]) -> str:
        """Return the start of the reply that the template has put at the prompt's end: "<think>" for some models, else "".

        Put it in front of the reply's text; otherwise a reply that never ends its thinking looks like an answer."""
        tail = self.tokenizer.decode(list(prompt_ids[-_TAIL:]), skip_special_tokens=False)
        found = _OPENED.search(tail)
        return found[0] if found else ""

    @property
    def end_id(self) -> int:
        """The end token's id: the tokenizer's EOS token if it is a stop id, else the lowest stop id."""
        end = self.tokenizer.eos_token_id
        return end if end in self.stop_ids else min(self.stop_ids)
