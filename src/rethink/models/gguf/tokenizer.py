"""The tokenizer and chat template of a GGUF file, as files of an ordinary model folder."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from tokenizers import pre_tokenizers
from transformers import PreTrainedTokenizerFast

from rethink.errors import UserError
from rethink.models.gguf.header import Header
from rethink.models.model_folder import reason

BYTE_LEVEL = "gpt2"
SINGLE_DIGITS = ("smollm", "starcoder", "refact", "command-r")
"""Byte-level vocabularies that split every digit off, then text as GPT-2 does. The library does not know them."""
KNOWN = ("gpt-2", "qwen2", "deepseek-r1-qwen", "llama-bpe", "llama3", "llama-v3", "falcon3", "smaug-bpe", "tekken")
"""Names of the ways in which byte-level vocabularies split text that the library knows."""


def save_tokenizer(header: Header, folder: Path) -> None:
    """Write the tokenizer's files. Raise UserError if there is none, or if it splits text in a way that is not known."""
    kind, split = (header.metadata.get(f"tokenizer.ggml.{key}") for key in ("model", "pre"))
    if kind is None or "tokenizer.ggml.tokens" not in header.metadata:
        raise UserError(f"{header.path} has no tokenizer; use a GGUF file with one, or the original model")
    if kind == BYTE_LEVEL and split not in (*SINGLE_DIGITS, *KNOWN):
        raise UserError(
            f"the tokenizer of {header.path} splits text in a way that is not supported (tokenizer.ggml.pre = {split!r}); "
            "use the original model"
        )
    try:
        # The library prefers tokenizer.json and tokenizer.model of the same folder, so the file gets one to itself.
        with TemporaryDirectory() as alone:
            (Path(alone) / "model.gguf").symlink_to(header.path.resolve())
            tokenizer = PreTrainedTokenizerFast.from_pretrained(alone, gguf_file="model.gguf")
    except Exception as err:  # the library raises errors of all kinds for what it cannot read
        raise UserError(f"cannot read the tokenizer of {header.path}: {reason(err)}") from err
    if kind == BYTE_LEVEL and split in SINGLE_DIGITS:
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
            ]
        )
    tokenizer.save_pretrained(folder)
