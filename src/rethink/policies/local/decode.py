"""Compute each prompt once, copy its cache to every member of its group, decode together, let finished rows go."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rethink.model import LanguageModel
from rethink.policies.local.cache import RowCache
from rethink.policies.local.choose import choose, uniforms
from rethink.policies.local.mask import attention_mask
from rethink.policies.local.prefill import Prefiller
from rethink.policies.local.prefixes import Ids
from rethink.types import Sampling

COMPACT_BELOW = 0.8
"""Rows are copied together when at most this share of them is still running; a copy costs about one decode step."""


@dataclass(frozen=True)
class Request:
    """`n` replies to one tokenised prompt; members get the indices from `first` on."""

    ids: tuple[int, ...]
    n: int
    seed: int
    first: int = 0


@dataclass
class Reply:
    """What came of one row."""

    ids: list[int]
    log_probs: list[float]
    stopped: bool


@torch.no_grad()
def decode(
    model: LanguageModel,
    requests: Sequence[Request],
    sampling: Sampling,
    prefiller: Prefiller | None = None,
    listen: Callable[[list[int]], None] | None = None,
) -> list[list[Reply]]:
    """Replies [P][G], all decoded in one batch of rows. `listen` hears the ids of the first row so far, token by token."""
    prefiller = prefiller or Prefiller(model)
    cache, logits_P_V, positions_P_T = prefiller.prefill([r.ids for r in requests])
    device = logits_P_V.device
    owner_N = torch.tensor([p for p, r in enumerate(requests) for _ in range(r.n)], device=device)
    seeds_N = [(r.seed, r.first + g) for r in requests for g in range(r.n)]
    uniform_N_T = uniforms(seeds_N, sampling.max_tokens).to(device)
    cache.take(owner_N, positions_P_T.shape[1] + sampling.max_tokens)
    prompts_N = [r.ids for r in requests for _ in range(r.n)]
    batch = _Batch(prefiller, cache, prompts_N, positions_P_T[owner_N], sampling, uniform_N_T)
    batch.run(logits_P_V[owner_N], listen)
    replies = iter(batch.replies())
    return [[next(replies) for _ in range(r.n)] for r in requests]


class _Batch:
    """The rows under way. `rows_N` maps the rows that are left to their place in the results."""

    def __init__(
        self,
        prefiller: Prefiller,
        cache: RowCache,
        prompts_N: list[Ids],
        positions_N_T: Tensor,
        sampling: Sampling,
        uniform_N_T: Tensor,
    ) -> None:
        self.model, self.prefixes, self.cache = prefiller.model, prefiller.prefixes, cache
        self.prompts_N, self.sampling, self.uniform_N_T = prompts_N, sampling, uniform_N_T
        n, width = positions_N_T.shape
        device = positions_N_T.device
        self.first_column = width
        last_N_1 = positions_N_T[:, -1:]
        ahead = torch.arange(1, sampling.max_tokens + 1, device=device)
        self.positions_N_T = torch.cat([positions_N_T, last_N_1 + ahead], dim=1)
        self.rows_N = torch.arange(n, device=device)
        self.running_N = torch.ones(n, dtype=torch.bool, device=device)
        self.stop_ids = torch.tensor(sorted(self.model.chat.stop_ids), device=device)
        self.ids_N_T = torch.zeros((n, sampling.max_tokens), dtype=torch.long, device=device)
        self.log_probs_N_T = torch.zeros((n, sampling.max_tokens), device=device)
        self.lengths_N = torch.zeros(n, dtype=torch.long, device=device)
        self.stopped_N = torch.zeros(n, dtype=torch.bool, device=device)

    def run(self, logits_N_V: Tensor, listen: Callable[[list[int]], None] | None) -> None:
        for t in range(self.sampling.max_tokens):
            ids_N = self._record(t, logits_N_V)
            if listen is not None:
                listen(self.ids_N_T[0, : t + 1].tolist())
            n_running = int(self.running_N.sum())
            if n_running == 0 or t + 1 == self.sampling.max_tokens:
                self._keep(range(len(self.rows_N)))
                return
            if n_running <= COMPACT_BELOW * len(self.running_N):
                ids_N = self._compact(ids_N)
            logits_N_V = self._forward(t, ids_N)

    def _record(self, t: int, logits_N_V: Tensor) -> Tensor:
        """Draw token t of each row; rows that have finished draw too, but nothing of theirs is kept."""
        ids_N, log_probs_N = choose(logits_N_V, self.sampling, self.uniform_N_T[self.rows_N, t])
        live = self.running_N
        rows = self.rows_N[live]
        self.ids_N_T[rows, t] = ids_N[live]
        self.log_probs_N_T[rows, t] = log_probs_N[live]
        self.lengths_N[rows] = t + 1
        ends_N = torch.isin(ids_N, self.stop_ids) & live
        self.stopped_N[self.rows_N[ends_N]] = True
        self.running_N = live & ~ends_N
        return ids_N

    def _compact(self, ids_N: Tensor) -> Tensor:
        self._keep((~self.running_N).nonzero()[:, 0].tolist())
        keep = self.running_N.nonzero()[:, 0]
        self.cache.take(keep, self.positions_N_T.shape[1])
        self.rows_N, self.positions_N_T = self.rows_N[keep], self.positions_N_T[keep]
        self.running_N = self.running_N[keep]
        return ids_N[keep]

    def _keep(self, places: Iterable[int]) -> None:
        """Keep prompt and reply of the rows at these places in the batch, without the last token: it went through no
        model."""
        if self.prefixes is None:
            return
        rows, lengths = self.rows_N.tolist(), self.lengths_N.tolist()
        for place in places:
            prompt, reply = self.prompts_N[rows[place]], self.ids_N_T[rows[place], : lengths[rows[place]] - 1]
            self.prefixes.keep((*prompt, *reply.tolist()), self.cache, place, self.first_column - len(prompt))

    def _forward(self, t: int, ids_N: Tensor) -> Tensor:
        column = self.first_column + t
        query_N_1 = self.positions_N_T[:, column : column + 1]
        mask = attention_mask(self.model.config, query_N_1, self.positions_N_T[:, : column + 1])
        hidden_N_1_H = self.model.hidden(ids_N[:, None], query_N_1, mask, self.cache)
        return self.model.logits(hidden_N_1_H[:, 0])

    def replies(self) -> list[Reply]:
        ids, log_probs = self.ids_N_T.tolist(), self.log_probs_N_T.tolist()
        lengths, stopped = self.lengths_N.tolist(), self.stopped_N.tolist()
        return [Reply(ids[n][:k], log_probs[n][:k], stopped[n]) for n, k in enumerate(lengths)]
