"""Messages to token ids and back. A prompt is tokenized once; what was sampled is trained id by id."""

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
"""ChatML and nothing else, chosen with `model.template = "chatml"`: for models that know its marks, but whose own template
puts a system text before conversations that have none (OLMo 3 Instruct)."""

TEMPLATES = {"plain": PLAIN_TEMPLATE, "chatml": CHATML_TEMPLATE}

_OPENED = re.compile(r"<think>\s*\Z")
_TAIL = 16
"""So many tokens at the end of a prompt hold an opened thinking part, even where each byte is one."""


@dataclass
class Chat:
    """A tokenizer with its chat template and the set of ids that end a reply."""

    tokenizer: Any
    stop_ids: frozenset[int]
    template: str | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.template is None and not getattr(self.tokenizer, "chat_template", None):
            raise UserError(
                'this model\'s tokenizer has no chat template; set model.template = "plain" in the recipe for the '
                "plain question/answer form, or give a template file there"
            )
        if not self.stop_ids:
            raise UserError("neither the model's generation config nor its tokenizer names an end token")

    def encode(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """Return token ids of the conversation, up to and with the opening of the assistant's next turn.

        A last message of the assistant is continued instead: the ids end with its last character that is not blank. Raise
        UserError when the template cannot leave a turn open.
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
                "the chat template changes the assistant's last message, so that it cannot be continued; end the "
                "conversation with a message of the user, or choose another template with model.template"
            ) from err
        return tuple(self.tokenizer.encode(text, add_special_tokens=False))

    def encode_reply(self, text: str) -> tuple[int, ...]:
        """Return ids of a reply that somebody else wrote, with the end token, as the policy would have chosen them."""
        return (*self.tokenizer.encode(text, add_special_tokens=False), self.end_id)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of a reply, without its end token and other special tokens."""
        body = ids[:-1] if ids and ids[-1] in self.stop_ids else ids
        return str(self.tokenizer.decode(list(body), skip_special_tokens=True))

    def reply_prefix(self, prompt_ids: Sequence[int]) -> str:
        """Return what the prompt's end has begun of the reply: the thinking part that some models' templates open, or "".

        It belongs in front of the reply's text, or a reply that never ends its thinking would pass for an answer."""
        tail = self.tokenizer.decode(list(prompt_ids[-_TAIL:]), skip_special_tokens=False)
        found = _OPENED.search(tail)
        return found[0] if found else ""

    @property
    def end_id(self) -> int:
        """Return the id that closes a reply: the tokenizer's end token if replies stop at it, else the lowest stop id."""
        end = self.tokenizer.eos_token_id
        return end if end in self.stop_ids else min(self.stop_ids)
