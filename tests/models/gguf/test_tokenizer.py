"""Tokenizers of GGUF files."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from rethink.errors import UserError
from rethink.models.gguf.header import read_header
from rethink.models.gguf.tokenizer import save_tokenizer

pytest.importorskip("gguf", reason="the extra gguf is not installed")

from support.gguf_files import random_module, write_gguf


def test_single_digits(tmp_path: Path) -> None:
    """Guards against tokens that reach over digits in vocabularies that split each one off (SmolLM's)."""
    file = write_gguf(tmp_path / "model.gguf", random_module("llama"), tokenizer="smollm")
    save_tokenizer(read_header(file), tmp_path)
    split = Tokenizer.from_file(str(tmp_path / "tokenizer.json")).pre_tokenizer.pre_tokenize_str("x 123 + y")
    assert [text for text, _ in split] == ["x", "Ġ", "1", "2", "3", "Ġ+", "Ġy"]


def test_files_next_to_a_file_change_nothing(tmp_path: Path) -> None:
    """Guards against the tokenizer of another model whose files lie in the same folder."""
    file = write_gguf(tmp_path / "model.gguf", random_module("llama"), tokenizer="smollm")
    save_tokenizer(read_header(file), tmp_path / "alone")
    wanted = (tmp_path / "alone" / "tokenizer.json").read_bytes()
    PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"foreign": 0}, "foreign"))).save_pretrained(tmp_path)
    assert (tmp_path / "tokenizer.json").read_bytes() != wanted
    save_tokenizer(read_header(file), tmp_path / "beside")
    assert (tmp_path / "beside" / "tokenizer.json").read_bytes() == wanted


def test_what_is_missing_or_unknown_is_refused(tmp_path: Path) -> None:
    """Guards against an empty tokenizer, and against text that is split as in GPT-2 because the file's way is not known."""
    file = write_gguf(tmp_path / "none.gguf", random_module("llama"), tokenizer="")
    with pytest.raises(UserError, match=r"none\.gguf has no tokenizer"):
        save_tokenizer(read_header(file), tmp_path)
    file = write_gguf(tmp_path / "other.gguf", random_module("llama"), tokenizer="viking")
    with pytest.raises(UserError, match=r"in a way that is not supported \(tokenizer\.ggml\.pre = 'viking'\)"):
        save_tokenizer(read_header(file), tmp_path)
