"""Losses of a fixed run, compared with recorded ones."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
import transformers

from rethink.models.language_model import LanguageModel
from rethink.models.load import load_model
from rethink.objectives import Imitate
from support.random_models import save_random_model
from support.samples import apply, make_sample, make_trainer, mixed_part, reply_of, some_ids
from support.trained import moved, some_pairs

GOLDEN = Path(__file__).with_name("golden.json")


def environment() -> dict[str, str]:
    """Return what must be equal for float32 sums to be equal bit for bit."""
    return {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }


def golden_run(model: LanguageModel) -> list[dict[str, float]]:
    """Return loss and gradient norm of three updates with five optimizer steps, from hand-made samples."""
    trainer = make_trainer(model, lambda: moved(model), max_grad_norm=1.0, weight_decay=0.01, micro_batch_tokens=61)
    part = replace(mixed_part(model.module), kl_coef=0.05)
    replies = (reply_of(5, group="a"), make_sample(some_ids(3, "golden"), group="b", stop="length"))
    numbers = [
        apply(trainer, part, n_steps=2),
        apply(trainer, Imitate(replies, (1.0, 0.5)), on_policy=False, n_steps=2),
        apply(trainer, some_pairs(), part, on_policy=False),
    ]
    return [{name: n[name] for name in ("loss", "grad_norm")} for n in numbers]


def golden_losses(folder: Path) -> list[dict[str, float]]:
    """Return the losses of the golden run, on one thread, with a vocabulary independent of the demo."""
    torch.set_num_threads(1)
    with patch("rethink.models.load.check_vocabulary"):  # the tokenizer has more tokens, but is not used
        return golden_run(load_model(str(save_random_model(folder, "qwen3", vocab_size=101))))


def test_golden_losses(tmp_path: Path) -> None:
    """Guards against refactors that change any number. Record new ones: `python tests/training/losses/test_golden.py`."""
    golden = json.loads(GOLDEN.read_text())
    found = golden_losses(tmp_path)
    if golden["environment"] == environment():
        assert found == golden["updates"]
    else:
        assert found == [pytest.approx(update, rel=1e-3) for update in golden["updates"]]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        recorded = golden_losses(Path(folder))
    GOLDEN.write_text(json.dumps({"environment": environment(), "updates": recorded}, indent=2) + "\n")
