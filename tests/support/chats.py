"""Chats with tiny tokenizers."""

from __future__ import annotations

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from rethink.models import make_tiny
from rethink.models.chat import Chat
from rethink.types import Message

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if not enable_thinking | default(true) %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)


def byte_chat(template: str | None = None) -> Chat:
    """Return a chat with a byte-level tokenizer (one merge: a and b) and the special tokens of ChatML."""
    alphabet = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "ab"]
    core = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, [("a", "b")]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    words = PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>"],
        chat_template=CHATML,
    )
    return Chat(words, frozenset({words.eos_token_id}), template)


def demo_chat(template: str | None = None) -> Chat:
    words = make_tiny.tokenizer()
    return Chat(words, frozenset({words.eos_token_id}), template)


def rendered(chat: Chat, messages: tuple[Message, ...]) -> str:
    """Return the prompt as text, decoded from its ids, with special tokens."""
    return str(chat.tokenizer.decode(list(chat.encode(messages)), skip_special_tokens=False))
