"""How far an output layer in bfloat16 moves log-probs: `python benchmarks/head_precision.py MODEL TEXT`, with a real model.

Compares, over the first 500 tokens of a text file, bfloat16 factors with float32 sums (`model.head_dtype`), and logits that
are rounded to bfloat16 too, with an output layer in float32. Everything before it is the same.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from rethink.models.forward import PackedAttention, PackedRow, Span
from rethink.models.forward.weights import logits
from rethink.models.load import load_model


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("text", type=Path)
    given = parser.parse_args()
    model = load_model(given.model)
    ids_T = torch.tensor(model.chat.tokenizer(given.text.read_text()[:4000])["input_ids"][:500])
    n = len(ids_T)
    attend = PackedAttention([[PackedRow((Span(0, n),), n)]], model.device)
    weights = model.weights()
    hidden_T_H = weights.hidden(ids_T, torch.arange(n), attend)
    exact_T = log_probs(logits(hidden_T_H, weights.head), ids_T)
    rounded = replace(model, head_dtype="bfloat16").weights().head
    show("bfloat16 factors, float32 sums", log_probs(logits(hidden_T_H, rounded), ids_T), exact_T)
    whole_T_V = torch.nn.functional.linear(hidden_T_H.bfloat16(), weights.head.weight.bfloat16())
    show("bfloat16 logits", log_probs(whole_T_V.float(), ids_T), exact_T)


def log_probs(logits_T_V: Tensor, ids_T: Tensor) -> Tensor:
    """Return the log-probs of all tokens but the first."""
    return logits_T_V[:-1].log_softmax(-1).gather(-1, ids_T[1:, None])[:, 0]


def show(name: str, found_T: Tensor, exact_T: Tensor) -> None:
    gap_T = (found_T - exact_T).abs()
    kl = ((exact_T - found_T).exp() - 1 - (exact_T - found_T)).mean()
    print(
        f"{name}: {float(gap_T.mean()):.4f} nats (mean), {float(gap_T.max()):.3f} (max), KL {float(kl):.1e} per token"
    )


if __name__ == "__main__":
    main()
