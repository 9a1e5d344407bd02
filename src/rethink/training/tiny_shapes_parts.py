"""The tokenizer, the configuration and the files of the tiny vision model "tiny-shapes" (Idefics3's architecture).

An image of 96 by 96 pixels has 64 patches of 12 by 12 pixels; the connector joins four of them, so it has 16 vectors.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from tokenizers import Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from torch import Tensor
from transformers import (
    GenerationConfig,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3Processor,
    PreTrainedTokenizerFast,
)
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

from rethink.problems.shapes import SIDES
from rethink.problems.shapes_canvas import COLORS, KINDS, SIZE, Canvas
from rethink.strategies.socratic import FIRST, NEXT, WRAP_UPS

PATCH, JOINED = 12, 2
N_VECTORS = (SIZE // PATCH // JOINED) ** 2

AROUND = "<fake_token_around_image>"
MARKS = ["<pad>", "<end>", "<user>", "<reply>", "<image>", AROUND, "<global-img>", "<end_of_utterance>"]
WORD = r"</?think>|\w+|[^\w\s]"
TEXTS = (
    "<think> </think> wait think none ask tell nothing yet no further question",
    "How many are there? Which are there? What color is the? Where is the, seen from the? How large is the?",
    "Which is larger, the or the?",
    " ".join([FIRST, NEXT, *WRAP_UPS]),
    " ".join([*COLORS, *KINDS, *SIDES]),
)
"""Texts with all words that the model knows, besides the plurals of shapes and numbers."""

LARGEST = 24
"""The largest number that is a word."""

TEMPLATE = (
    "{% for m in messages %}{{ '<reply> ' if m['role'] == 'assistant' else '<user> ' }}{% if m['content'] is string %}"
    "{{ m['content'] }} {% else %}{% for part in m['content'] %}{% if part['type'] == 'image' %}<image> {% else %}"
    "{{ part['text'] }} {% endif %}{% endfor %}{% endif %}{% endfor %}{% if add_generation_prompt %}<reply>{% endif %}"
)


def tokenizer() -> PreTrainedTokenizerFast:
    """Return the word-level tokenizer with its chat template."""
    words = dict.fromkeys(MARKS)
    words |= dict.fromkeys(re.findall(WORD, " ".join(TEXTS)))
    words |= dict.fromkeys([*(f"{kind}s" for kind in KINDS), *map(str, range(LARGEST + 1))])
    core = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="<pad>"))
    core.pre_tokenizer = Split(Regex(WORD), "removed", invert=True)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="<end>",
        pad_token="<pad>",
        additional_special_tokens=MARKS[2:],
        chat_template=TEMPLATE,
    )


def vision_model() -> Any:
    """Return the model with random weights."""
    words = tokenizer()
    tower = {
        "hidden_size": 48,
        "initializer_range": 0.1,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "patch_size": PATCH,
        "image_size": SIZE,
    }
    text = {
        "model_type": "llama",
        "vocab_size": len(words),
        "hidden_size": 64,
        "initializer_range": 0.1,
        "intermediate_size": 192,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": 512,
        "bos_token_id": None,
        "eos_token_id": 1,
        "pad_token_id": 0,
    }
    config = Idefics3Config(
        image_token_id=words.convert_tokens_to_ids("<image>"),
        scale_factor=JOINED,
        vision_config=tower,
        text_config=text,
        tie_word_embeddings=False,
        pad_token_id=0,
    )
    model = Idefics3ForConditionalGeneration(config)
    model.generation_config = GenerationConfig(eos_token_id=1, pad_token_id=0)
    return model


def processor() -> Any:
    """Return the processor, which scales every image to 96 pixels."""
    edge = {"longest_edge": SIZE}
    images = Idefics3ImageProcessorPil(size=edge, max_image_size=edge, do_image_splitting=False)
    return Idefics3Processor(images, tokenizer(), image_seq_len=N_VECTORS, chat_template=TEMPLATE)


def image_text() -> str:
    """Return what the processor writes for an image."""
    return f"{AROUND}<global-img>{'<image>' * N_VECTORS}{AROUND}"


def pixels(canvases: Sequence[Canvas]) -> Tensor:
    """Return what the processor makes of n images [n, 3, 96, 96]."""
    values = torch.frombuffer(bytearray().join(c.pil_image().tobytes() for c in canvases), dtype=torch.uint8)
    return values.view(-1, SIZE, SIZE, 3).permute(0, 3, 1, 2).contiguous() / 127.5 - 1


def save(model: Any, folder: str) -> None:
    """Write the model with its tokenizer and processor, in bfloat16."""
    model.to(torch.bfloat16).save_pretrained(folder)
    processor().save_pretrained(folder)


def load(folder: str) -> Any:
    """Return a saved model, in float32."""
    return Idefics3ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
