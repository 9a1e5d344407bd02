"""Log-probs of given replies, from forward passes over flat sequences that contain each prompt once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from threading import Event

import torch

from rethink import threads
from rethink.errors import UserError
from rethink.models.forward import PackedAttention, PackedRow, Span, Weights, group_by_length
from rethink.models.forward.embedding import positions_of
from rethink.models.forward.token_log_probs import token_log_probs
from rethink.settings import Training
from rethink.types import Sample

GPU_TOKENS = 16_384
CPU_NUMBERS = 500_000
"""The size of a forward pass: tokens on a GPU; on a CPU, tokens times hidden size, so the data of a core stays in its
cache."""


@dataclass(frozen=True)
class ScoreRow:
    """A reply's ids to score after a prompt, at a temperature."""

    prompt_ids: tuple[int, ...]
    ids: tuple[int, ...]
    temperature: float


def score_row(sample: Sample, prompt_ids: tuple[int, ...], max_positions: int | None) -> ScoreRow:
    """Return the row for a sample. Raise UserError if it has no ids, is greedy, or is too long for the model."""
    what = f"the {sample.prompt.phase} sample of problem {sample.problem.id}"
    if sample.usage is not None:
        raise UserError(f"{what} cannot be scored: it has text without token ids; transcribe it first")
    if sample.sampling.temperature == 0:
        raise UserError(f"{what} is greedy (temperature 0) and has no log-probs; give it a sampling with a temperature")
    n = len(prompt_ids) + len(sample.ids)
    if max_positions is not None and n > max_positions:
        raise UserError(f"{what} has {n} tokens with its prompt, but the model has only {max_positions} positions")
    return ScoreRow(prompt_ids, sample.ids, sample.sampling.temperature)


def score(weights: Weights, rows: Sequence[ScoreRow], device: torch.device, width: int) -> list[tuple[float, ...]]:
    """Return the log-probs in nats of each row's ids. `width` is the hidden size."""
    max_tokens = GPU_TOKENS if device.type != "cpu" else max(512, CPU_NUMBERS // width)
    batches = _batches(rows, max_tokens)
    n = threads.n_workers(device, len(batches))
    found: list[tuple[float, ...]] = [()] * len(rows)
    works = [partial(_score_batches, weights, rows, batches[k::n], device) for k in range(n)]
    for scored in threads.run(works):
        for i, log_probs in scored:
            found[i] = log_probs
    return found


def _batches(rows: Sequence[ScoreRow], max_tokens: int) -> list[list[int]]:
    """Return batches of row indices, of about `max_tokens` tokens each, with rows of the same prompt together.

    Rows without ids are left out."""
    order = sorted(range(len(rows)), key=lambda i: (len(rows[i].prompt_ids), rows[i].prompt_ids))
    batches: list[list[int]] = []
    n_tokens = 0
    for i in order:
        if not rows[i].ids:
            continue
        is_new = not batches or rows[i].prompt_ids != rows[batches[-1][-1]].prompt_ids
        size = len(rows[i].ids) + (len(rows[i].prompt_ids) if is_new else 0)
        if not batches or n_tokens + size > max_tokens:
            batches.append([])
            n_tokens, size = 0, len(rows[i].prompt_ids) + len(rows[i].ids)
        batches[-1].append(i)
        n_tokens += size
    return batches


@torch.no_grad()
def _score_batches(
    weights: Weights, rows: Sequence[ScoreRow], batches: Sequence[Sequence[int]], device: torch.device, stop: Event
) -> list[tuple[int, tuple[float, ...]]]:
    found: list[tuple[int, tuple[float, ...]]] = []
    for places in batches:
        if stop.is_set():
            raise threads.Stopped
        found += _score_batch(weights, rows, places, device)
    return found


def _score_batch(
    weights: Weights, rows: Sequence[ScoreRow], places: Sequence[int], device: torch.device
) -> list[tuple[int, tuple[float, ...]]]:
    """Return (index, log-probs) for the rows of one batch.

    The flat sequence has the prompts, each once, then the replies without their last ids, both longest first."""
    prompts = sorted({rows[i].prompt_ids for i in places}, key=len, reverse=True)
    ordered = sorted(places, key=lambda i: len(rows[i].ids), reverse=True)
    flat_ids: list[int] = []
    positions: list[int] = []
    span_of: dict[tuple[int, ...], Span] = {}
    prompt_rows: list[PackedRow] = []
    after: dict[tuple[int, ...], int] = {}  # the position of the first token of a reply
    for prompt_ids in prompts:
        span_of[prompt_ids] = Span(len(flat_ids), len(prompt_ids))
        prompt_rows.append(PackedRow((span_of[prompt_ids],), len(prompt_ids)))
        flat_ids += prompt_ids
        placed, after[prompt_ids] = positions_of(prompt_ids, weights.image_vectors)
        positions += placed
    reply_rows: list[PackedRow] = []
    predicted_from: list[int] = []  # indices into the flat sequence, one for each scored id
    targets: list[int] = []
    temperatures: list[float] = []
    for i in ordered:
        row, prompt = rows[i], span_of[rows[i].prompt_ids]
        n_fed = len(row.ids) - 1
        start = len(flat_ids)
        if n_fed:
            reply_rows.append(PackedRow((prompt, Span(start, n_fed)), n_fed))
        predicted_from.append(prompt.start + prompt.length - 1)
        predicted_from += range(start, start + n_fed)
        targets += row.ids
        temperatures += [row.temperature] * len(row.ids)
        flat_ids += row.ids[:n_fed]
        positions += range(after[row.prompt_ids], after[row.prompt_ids] + n_fed)
    attend = PackedAttention(group_by_length(prompt_rows) + group_by_length(reply_rows), device)
    hidden_F_H = weights.hidden(torch.tensor(flat_ids, device=device), torch.tensor(positions, device=device), attend)
    log_probs_T = token_log_probs(
        hidden_F_H[torch.tensor(predicted_from, device=device)],
        weights.head,
        torch.tensor(targets, device=device),
        torch.tensor(temperatures, device=device),
        Training.chunk_tokens,
    ).tolist()
    found: list[tuple[int, tuple[float, ...]]] = []
    start = 0
    for i in ordered:
        end = start + len(rows[i].ids)
        found.append((i, tuple(log_probs_T[start:end])))
        start = end
    return found
