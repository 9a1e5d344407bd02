"""Sampling with a model's own cache, for models whose layers carry a state: one batch of rows after the other.

A batch runs until its last reply has ended; when half of its rows have ended, these leave it. Prompts of a batch are padded
on the left; if that changes the model's state, they have the same length.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rethink.models.chat import Chat
from rethink.models.forward.plain import PlainState, PlainWeights
from rethink.models.forward.weights import logits
from rethink.policies.cancel import NaNLogitsError
from rethink.policies.local.prefill import Prefiller
from rethink.policies.local.sample_token import NAN_LOGITS, sample_token, uniforms
from rethink.policies.token_policy import Generation, Request
from rethink.types import Sampling


@dataclass(frozen=True)
class _Row:
    """Member g of request i."""

    i: int
    g: int


class _Batch:
    """Rows that are decoded together, and what is sampled for them, by row (`_N`) and column (`_T`).

    `present` are the rows that are still in the model's cache: when half of them have ended, these leave it."""

    def __init__(
        self, rows: Sequence[_Row], requests: Sequence[Request], sampling: Sampling, device: torch.device
    ) -> None:
        self.rows = rows
        self.owners: list[int] = []  # of each row: the index of its prompt
        prompts: dict[tuple[int, ...], int] = {}
        seeds: list[tuple[int, int]] = []
        caps: list[int] = []
        for row in rows:
            request = requests[row.i]
            self.owners.append(prompts.setdefault(request.ids, len(prompts)))
            seeds.append((request.seed, request.first + row.g))
            caps.append(request.max_tokens or sampling.max_tokens)
        n, cap = len(rows), sampling.max_tokens
        self.prompts = list(prompts)
        self.state: PlainState | None = None
        self.n_columns = 0
        self.present = torch.arange(n, device=device)
        self.cap_N = torch.tensor(caps, device=device)
        self.uniform_N_T = uniforms(seeds, cap).to(device)
        self.ids_N_T = torch.zeros((n, cap), dtype=torch.long, device=device)
        self.log_probs_N_T = torch.zeros((n, cap), device=device)
        self.length_N = torch.zeros(n, dtype=torch.long, device=device)
        self.running_N = torch.ones(n, dtype=torch.bool, device=device)
        self.stopped_N = torch.zeros(n, dtype=torch.bool, device=device)

    def read_prompts(self, weights: PlainWeights) -> Tensor:
        """Return the hidden states [N, H] after the rows' prompts, each of which is read once if the cache allows."""
        states_P_H, state = weights.start(self.prompts)
        if state.can_select:
            owner_N = torch.tensor(self.owners, device=states_P_H.device)
            state.select(owner_N)
            self.state = state
            return states_P_H[owner_N]
        states_N_H, self.state = weights.start([self.prompts[p] for p in self.owners])
        return states_N_H

    def read_token(self, weights: PlainWeights) -> Tensor:
        """Return the hidden states after the last token of the present rows."""
        assert self.state is not None
        running = self.running_N[self.present]
        if self.state.can_select and 2 * int(running.sum()) <= len(self.present):
            self.state.select(running.nonzero()[:, 0])
            self.present = self.present[running]
        return weights.step(self.ids_N_T[self.present, self.n_columns - 1], self.state)

    def write(self, ids: Tensor, log_probs: Tensor, stop_ids: Tensor) -> None:
        """Write the next token of each present row; one that has ended gets a token, too, which does not count."""
        here, t = self.present, self.n_columns
        running = self.running_N[here]
        self.ids_N_T[here, t], self.log_probs_N_T[here, t] = ids, log_probs
        self.length_N[here] += running
        stopped = running & (ids[:, None] == stop_ids).any(1)
        self.stopped_N[here] |= stopped
        # `generations` refuses NaN
        self.running_N[here] = running & ~stopped & ~log_probs.isnan() & (self.length_N[here] < self.cap_N[here])
        self.n_columns += 1

    def generations(self) -> list[Generation]:
        """Return the replies of all rows, so far. Raise NaNLogitsError if the logits of a token were NaN."""
        lengths, stopped = self.length_N.tolist(), self.stopped_N.tolist()
        ids, log_probs = self.ids_N_T.tolist(), self.log_probs_N_T.tolist()
        found: list[Generation] = []
        for n, length in enumerate(lengths):
            if length and math.isnan(log_probs[n][length - 1]):
                raise NaNLogitsError(NAN_LOGITS)
            found.append(Generation(ids[n][:length], log_probs[n][:length], stopped[n]))
        return found


class PlainDecoder:
    """Decodes the replies to requests, like `Decoder`: call `step` until `is_done`.

    A batch has as many rows as fit into `cache_tokens` tokens, at least one. Without `pads_left`, its prompts have the same
    length."""

    def __init__(
        self,
        weights: PlainWeights,
        chat: Chat,
        requests: Sequence[Request],
        sampling: Sampling,
        prefiller: Prefiller,
        cache_tokens: int,
        *,
        pads_left: bool,
    ) -> None:
        self.weights, self.requests, self.sampling, self.prefiller = weights, requests, sampling, prefiller
        self.device = weights.head.weight.device
        self.stop_ids = torch.tensor(sorted(chat.stop_ids), device=self.device)
        self.waiting = _batches(requests, sampling.max_tokens, cache_tokens, pads_left)
        self.batch: _Batch | None = None
        self.found: dict[int, dict[int, Generation]] = {}

    @property
    def is_done(self) -> bool:
        return not self.waiting and self.batch is None

    def first_ids(self) -> list[int]:
        """Return the ids of the first reply, as far as it is sampled."""
        if self.batch is None:
            return self.found[0][0].ids if 0 in self.found else []
        return self.batch.generations()[0].ids

    @torch.inference_mode()
    def step(self) -> list[tuple[int, list[Generation]]]:
        """Sample a token for every running row, or begin the next batch and sample its first tokens.

        Return the requests that this completes: (i, replies in order of their members)."""
        if self.batch is None:
            self.batch = _Batch(self.waiting.pop(0), self.requests, self.sampling, self.device)
            logits_N_V = logits(self.batch.read_prompts(self.weights), self.weights.head)
            self.prefiller.n_prefilled_tokens += sum(map(len, self.batch.prompts))
        else:
            logits_N_V = logits(self.batch.read_token(self.weights), self.weights.head)
        batch = self.batch
        ids, log_probs = sample_token(logits_N_V, self.sampling, batch.uniform_N_T[batch.present, batch.n_columns])
        batch.write(ids, log_probs, self.stop_ids)
        return [] if bool(batch.running_N.any()) else self._end(batch)

    def _end(self, batch: _Batch) -> list[tuple[int, list[Generation]]]:
        """Keep the replies of a batch that has ended; return the requests that are complete."""
        complete: list[tuple[int, list[Generation]]] = []
        for row, generation in zip(batch.rows, batch.generations(), strict=True):
            members = self.found.setdefault(row.i, {})
            members[row.g] = generation
            if len(members) == self.requests[row.i].n:
                complete.append((row.i, [members[g] for g in range(len(members))]))
        self.batch = None
        return complete


def _batches(requests: Sequence[Request], max_tokens: int, cache_tokens: int, pads_left: bool) -> list[list[_Row]]:
    """Return batches of rows, the shortest prompts first; only their order and size limit the padding."""
    order = sorted(range(len(requests)), key=lambda i: len(requests[i].ids))
    batches: list[list[_Row]] = []
    before = 0  # the length of the last prompt
    for i in order:
        length = len(requests[i].ids)
        for g in range(requests[i].n):
            fits = batches and (len(batches[-1]) + 1) * (length + max_tokens) <= cache_tokens
            if not fits or not (pads_left or length == before):
                batches.append([])
            batches[-1].append(_Row(i, g))
            before = length
    return batches
