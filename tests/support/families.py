"""Small random models of the recipes' architectures, with their chat templates.

Each byte is a token, and so is each special token of the family. The templates are files in `templates/`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedTokenizerFast

TEMPLATES = Path(__file__).parent / "templates"

COMMON = {
    "hidden_size": 24,
    "intermediate_size": 37,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 8192,
    # Large enough for peaked distributions: log-probs then reveal a wrong computation.
    "initializer_range": 0.2,
}


@dataclass(frozen=True)
class Family:
    """`marks` are special tokens, `words` ordinary ones (<think>). Replies stop at `stops`; the tokenizer knows `end`."""

    kind: str
    template: str
    marks: tuple[str, ...]
    stops: tuple[str, ...]
    end: str
    pad: str
    begin: str | None = None
    words: tuple[str, ...] = ()
    shape: dict[str, Any] = field(default_factory=dict)

    def tokenizer(self, template: str = "") -> PreTrainedTokenizerFast:
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        core = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
        core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        core.decoder = decoders.ByteLevel()
        words = PreTrainedTokenizerFast(
            tokenizer_object=core,
            eos_token=self.end,
            pad_token=self.pad,
            bos_token=self.begin,
            additional_special_tokens=[m for m in self.marks if m not in (self.end, self.pad, self.begin)],
            chat_template=(TEMPLATES / f"{template or self.template}.jinja").read_text(),
        )
        words.add_tokens([AddedToken(word, special=False, normalized=False) for word in self.words])
        return words

    def save(self, folder: Path, template: str = "", **changes: object) -> Path:
        """Write a folder like those of the hub: weights, tokenizer, template, and generation config; return it."""
        words = self.tokenizer(template)
        end, pad = words.eos_token_id, words.pad_token_id
        ids = {"vocab_size": len(words), "eos_token_id": end, "pad_token_id": pad, "bos_token_id": words.bos_token_id}
        config = AutoConfig.for_model(self.kind, **{**COMMON, **ids, **self.shape, **changes})
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(13)
            module = AutoModelForCausalLM.from_config(config)
            for name, parameter in module.named_parameters():
                if name.endswith("bias"):  # zero in new models, not in trained ones
                    torch.nn.init.normal_(parameter, std=0.2)
        module.generation_config = GenerationConfig(
            eos_token_id=[words.convert_tokens_to_ids(s) for s in self.stops], pad_token_id=pad
        )
        module.save_pretrained(folder)
        words.save_pretrained(folder)
        return folder


CHATML = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
QWEN = {"marks": CHATML, "stops": ("<|im_end|>", "<|endoftext|>"), "end": "<|im_end|>", "pad": "<|endoftext|>"}

FAMILIES = {
    "qwen2": Family("qwen2", "qwen2", **QWEN, shape={"tie_word_embeddings": True}),  # type: ignore[arg-type]
    "qwen2-7b": Family("qwen2", "qwen2", **QWEN, shape={"tie_word_embeddings": False}),  # type: ignore[arg-type]
    "qwen3": Family(
        "qwen3",
        "qwen3-instruct",
        **QWEN,  # type: ignore[arg-type]
        words=("<think>", "</think>"),
        shape={"head_dim": 14, "tie_word_embeddings": True},
    ),
    # Three of four layers have a window, shorter than any prompt here; the fourth has full attention and other positions.
    "olmo3": Family(
        "olmo3",
        "olmo3",
        (*CHATML, "<|pad|>"),
        ("<|im_end|>", "<|endoftext|>"),
        end="<|endoftext|>",
        pad="<|pad|>",
        shape={
            "num_hidden_layers": 4,
            "num_key_value_heads": 2,
            "sliding_window": 41,
            "tie_word_embeddings": False,
            "rope_parameters": {
                "sliding_attention": {"rope_type": "default", "rope_theta": 500000.0},
                "full_attention": {
                    "rope_type": "yarn",
                    "rope_theta": 500000.0,
                    "factor": 8.0,
                    "original_max_position_embeddings": 1024,
                    "attention_factor": 1.2,
                    "beta_fast": 32.0,
                    "beta_slow": 1.0,
                },
            },
        },
    ),
    "llama3": Family(
        "llama",
        "llama3",
        (
            "<|begin_of_text|>",
            "<|end_of_text|>",
            "<|start_header_id|>",
            "<|end_header_id|>",
            "<|eom_id|>",
            "<|eot_id|>",
        ),
        ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"),
        end="<|eot_id|>",
        pad="<|end_of_text|>",
        begin="<|begin_of_text|>",
        shape={
            "tie_word_embeddings": True,
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 500000.0,
                "factor": 32.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 256,
            },
        },
    ),
}
