"""Small random vision-language models, with processors and byte tokenizers; nothing is downloaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    GenerationConfig,
    PreTrainedTokenizerFast,
)

MARKS = ["<pad>", "<end>", "<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>"]
PLACES = [f"<row_{row}_col_{col}>" for row in range(1, 7) for col in range(1, 7)]
PARTS = (
    "{% for m in messages %}{{ m['role'] }}:{% if m['content'] is string %} {{ m['content'] }}{% else %}"
    "{% for part in m['content'] %}{% if part['type'] == 'image' %}<image>{% else %} {{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<end>\n{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
)

TEXT = {
    "hidden_size": 20,
    "intermediate_size": 31,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": 1,
}
TOWER = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "patch_size": 8,
    "initializer_range": 0.3,
}


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer with a token for each byte."""
    words = [*MARKS, *PLACES, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    core = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="<end>",
        pad_token="<pad>",
        additional_special_tokens=[*MARKS[2:], *PLACES],
        chat_template=PARTS,
    )


def llava_processor(words: Any) -> Any:
    from transformers import CLIPImageProcessorPil, LlavaProcessor

    images = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    return LlavaProcessor(
        images,
        words,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=PARTS,
    )


def idefics3_processor(words: Any) -> Any:
    from transformers import Idefics3Processor
    from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

    images = Idefics3ImageProcessorPil(size={"longest_edge": 64}, max_image_size={"longest_edge": 32})
    return Idefics3Processor(images, words, image_seq_len=4, chat_template=PARTS)


def gemma_processor(words: Any) -> Any:
    from transformers import Gemma3Processor
    from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

    start, end = MARKS[3:5]
    named = {"image_token": "<image>", "boi_token": start, "eoi_token": end}
    template = PARTS.replace("<image>", start)
    words = PreTrainedTokenizerFast(
        tokenizer_object=words.backend_tokenizer,
        eos_token="<end>",
        pad_token="<pad>",
        extra_special_tokens=named,
        chat_template=template,
    )
    images = Gemma3ImageProcessorPil(size={"height": 48, "width": 48})
    return Gemma3Processor(images, words, chat_template=template, image_seq_length=9)


class QwenProcessor:
    """The files of a processor without its video side, which needs torchvision."""

    def __init__(self, words: Any) -> None:
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

        sizes = {"shortest_edge": 16 * 16, "longest_edge": 64 * 64}
        self.images = Qwen2VLImageProcessorPil(patch_size=8, merge_size=2, temporal_patch_size=2, size=sizes)
        self.words = words

    def save_pretrained(self, folder: Path) -> None:
        self.images.save_pretrained(folder)
        self.words.save_pretrained(folder)


QWEN_TOWER = {
    "depth": 2,
    "num_heads": 2,
    "out_hidden_size": 20,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
}
QWEN_IDS = {"video_token_id": 4, "vision_start_token_id": 3, "vision_end_token_id": 5}


def rope(sections: list[int], **more: object) -> dict[str, object]:
    return {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": sections, **more}


VISION: dict[str, tuple[str, dict[str, Any], Callable[[Any], Any]]] = {
    "Qwen2.5-VL": (
        "qwen2_5_vl",
        {
            **QWEN_IDS,
            "text_config": {"rope_parameters": rope([1, 2, 2])},
            "vision_config": {**QWEN_TOWER, "window_size": 32, "fullatt_block_indexes": [1]},
        },
        QwenProcessor,
    ),
    "Qwen3-VL": (
        "qwen3_vl",
        {
            **QWEN_IDS,
            "text_config": {"head_dim": 10, "rope_parameters": rope([2, 2, 1], mrope_interleaved=True)},
            "vision_config": {**QWEN_TOWER, "num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1]},
        },
        QwenProcessor,
    ),
    "LLaVA": (
        "llava",
        {
            "vision_feature_select_strategy": "default",
            "vision_feature_layer": -2,
            "text_config": {"model_type": "llama"},
            "vision_config": {"model_type": "clip_vision_model", "image_size": 32},
        },
        llava_processor,
    ),
    "Idefics3": (
        "idefics3",
        {"scale_factor": 2, "text_config": {"model_type": "llama"}, "vision_config": {"image_size": 32}},
        idefics3_processor,
    ),
    "Gemma 3": (
        "gemma3",
        {
            "mm_tokens_per_image": 9,
            "text_config": {
                "head_dim": 10,
                "sliding_window": 5,
                "layer_types": ["sliding_attention", "full_attention"],
            },
            "vision_config": {"image_size": 48},
        },
        gemma_processor,
    ),
}


def save_vision_model(folder: Path, name: str, **text: Any) -> Path:
    """Write a random model of a family, with tokenizer and processor, and other sizes of its `text` part; return its
    folder."""
    words = byte_tokenizer()
    kind, changes, processor = VISION[name]
    sizes = {"vocab_size": len(words), **TEXT}
    changes = {
        **changes,
        "text_config": {**sizes, **changes["text_config"], **text},
        "vision_config": {**TOWER, **changes["vision_config"]},
    }
    if "out_hidden_size" in changes["vision_config"]:
        changes["vision_config"]["out_hidden_size"] = changes["text_config"]["hidden_size"]
    image_id = words.convert_tokens_to_ids("<image>")
    config = AutoConfig.for_model(kind, image_token_id=image_id, tie_word_embeddings=False, pad_token_id=0, **changes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        model = AutoModelForImageTextToText.from_config(config)
        for key, p in model.named_parameters():
            if key.endswith("mm_input_projection_weight"):  # Gemma 3 begins with zeros, which make all images alike
                torch.nn.init.normal_(p, std=0.3)
        model.generation_config = GenerationConfig(eos_token_id=1, pad_token_id=0)
        model.save_pretrained(folder)
    processor(words).save_pretrained(folder)
    return folder
