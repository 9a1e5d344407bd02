"""The tiny models' tokenizers and configurations.

`python -m rethink.models.make_tiny FOLDER` writes those of "tiny", without weights. With `--grow`, it writes "tiny" with
more words (`MORE_WORDS`), whose embeddings are random: the start of "tiny-signs".

Words are tokens: one for each number from 0 to 100, the signs of countdown, and the marks of the chat template.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from rethink.models.bundled import TINY_MODEL

LARGEST = 100
"""The largest number that countdown asks for."""

MARKS = ["<pad>", "<end>", "<user>", "<reply>"]
WORDS = ["+", "-", "*", "=", ";", "?", "->", "again"]
TEMPLATE = (
    "{% for m in messages %}{{ '<reply> ' if m['role'] == 'assistant' else '<user> ' }}{{ m['content'] }} "
    "{% endfor %}{% if add_generation_prompt %}<reply>{% endif %}"
)


MORE_WORDS = ["check", "right", "wrong", "<think>", "</think>"]
"""What tiny-signs also reads and writes. Ids of the other words are the same as in "tiny"."""


def tokenizer(more_words: Sequence[str] = ()) -> PreTrainedTokenizerFast:
    """Return the word-level tokenizer with its chat template."""
    words = [*MARKS, *WORDS, *map(str, range(LARGEST + 1)), *more_words]
    core = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="<pad>"))
    core.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="<end>",
        pad_token="<pad>",
        additional_special_tokens=["<user>", "<reply>"],
        chat_template=TEMPLATE,
    )


def config(n_tokens: int) -> Qwen3Config:
    """Return Qwen3's architecture: hidden size 128, 3 layers, 4 heads."""
    return Qwen3Config(
        vocab_size=n_tokens,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=32,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        eos_token_id=1,
        pad_token_id=0,
        bos_token_id=None,
    )


def grow(folder: str) -> None:
    """Write "tiny" with more words and four times its positions."""
    words = tokenizer(MORE_WORDS)
    words.save_pretrained(folder)
    torch.manual_seed(0)
    model = Qwen3ForCausalLM.from_pretrained(TINY_MODEL)
    model.resize_token_embeddings(len(words), mean_resizing=False)
    model.config.max_position_embeddings = 512
    model.save_pretrained(folder)


def main(folder: str) -> None:
    words = tokenizer()
    Path(folder).mkdir(parents=True, exist_ok=True)
    words.save_pretrained(folder)
    config(len(words)).save_pretrained(folder)
    GenerationConfig(eos_token_id=words.eos_token_id, pad_token_id=words.pad_token_id).save_pretrained(folder)


if __name__ == "__main__":
    if "--grow" in sys.argv[2:]:
        grow(sys.argv[1])
    else:
        main(sys.argv[1])
