"""Continuous batching: each prompt is computed once, its replies are decoded together, finished rows make room."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

import torch
from torch import Tensor

from rethink.models.chat import Chat
from rethink.models.forward import Weights
from rethink.models.forward.weights import logits
from rethink.policies.cancel import NaNLogitsError
from rethink.policies.local.graphs import Graphs
from rethink.policies.local.kv_cache import Cache, CacheShape
from rethink.policies.local.prefill import Prefilled, Prefiller
from rethink.policies.local.sample_token import NAN_LOGITS, sample_token, uniforms
from rethink.policies.token_policy import Generation, Request
from rethink.types import Sampling

COMPACT_BELOW = 0.8
"""With no requests waiting, rows are compacted when at most this fraction of them is still running."""

REFILL_BELOW = 0.75
"""With requests waiting, free slots are filled when at most this fraction of the rows is still running. A prefill costs
about as much as a step of all rows, so prompts are admitted in groups."""


class Decoder:
    """Decodes the replies to requests, one token of every row at a time: call `step` until `is_done`.

    As many rows run as fit into `cache_tokens` tokens of keys and values; a request's replies always start together. State
    is kept by slot (`_N`), results by member (`_M`: all members of all requests, and a dummy for finished rows). `graphs`
    replay recorded steps.
    """

    @torch.inference_mode()
    def __init__(
        self,
        weights: Weights,
        chat: Chat,
        requests: Sequence[Request],
        sampling: Sampling,
        prefiller: Prefiller,
        cache_tokens: int,
        graphs: Graphs | None = None,
    ) -> None:
        self.weights, self.sampling, self.prefiller, self.graphs = weights, sampling, prefiller, graphs
        self.requests: Sequence[Request] | dict[int, Request] = requests
        self.device = weights.head.weight.device
        self.waiting = deque(range(len(requests)))
        self.shape = cache_shape(requests, sampling.max_tokens, cache_tokens)
        self.cache: Cache | None = None
        self.stop_ids = torch.tensor(sorted(chat.stop_ids), device=self.device)
        self.finished: list[tuple[int, list[Generation]]] = []
        self.n_unfinished: list[int] = []  # replies still running or waiting, by request
        self.first_member: list[int] = []
        self.request_of: list[int] = []  # by member
        for i, request in enumerate(requests):
            self.n_unfinished.append(request.n)
            self.first_member.append(len(self.request_of))
            self.request_of += [i] * request.n
        self._allocate(len(self.request_of))

    def _allocate(self, n_members: int) -> None:
        """Allocate the state of all rows and the results of all members."""
        n, cap = self.shape.n_rows, self.sampling.max_tokens
        self.n_rows = self.n_running = 0
        self.prompt_slots: list[int] = []  # the request in each slot; -1 = free
        self.running_N = torch.zeros(n, dtype=torch.bool, device=self.device)
        grids = self.weights.image_vectors is not None and self.weights.image_vectors.has_grids
        self.shift_N = torch.zeros(n, dtype=torch.long, device=self.device) if grids else None
        self.member_N, self.drawn_N, self.cap_N, self.position_N, self.id_N = torch.zeros(
            (5, n), dtype=torch.long, device=self.device
        )
        self.uniform_N_T = torch.zeros((n, cap), dtype=torch.float64, device=self.device)
        self.ids_M_T = torch.zeros((n_members + 1, cap), dtype=torch.long, device=self.device)
        self.log_probs_M_T = torch.zeros((n_members + 1, cap), device=self.device)
        self.length_M = torch.zeros(n_members + 1, dtype=torch.long, device=self.device)
        self.stopped_M = torch.zeros(n_members + 1, dtype=torch.bool, device=self.device)

    @property
    def is_done(self) -> bool:
        return not self.waiting and self.n_running == 0

    @torch.inference_mode()
    def step(self) -> list[tuple[int, list[Generation]]]:
        """Sample a token for every running row, or admit new rows and sample their first tokens.

        Return the requests that this completes: (i, replies in order of their members). Raise NaNLogitsError if the
        logits of one of their tokens were NaN."""
        self.finished = []
        has_room = self.n_running == 0 or self.n_running <= REFILL_BELOW * self.shape.n_rows
        if self.waiting and has_room and self._admit():
            return self.finished
        if not self.waiting and self.n_running <= COMPACT_BELOW * self.n_rows:
            self._compact()
        self._step()
        return self.finished

    def first_ids(self) -> list[int]:
        """Return the ids of the first reply, as far as it is sampled."""
        return self.ids_M_T[0, : int(self.length_M[0])].tolist()

    def _admit(self) -> bool:
        """Prefill the waiting requests that fit and sample their first tokens; return False if none fits."""
        free = self.shape.n_rows - self.n_running
        self.prompt_slots += [-1] * (self.shape.n_prompts - len(self.prompt_slots))
        slots = [slot for slot, request in enumerate(self.prompt_slots) if request < 0]
        new: list[int] = []
        while self.waiting and len(new) < len(slots) and self.requests[self.waiting[0]].n <= free:
            new.append(self.waiting.popleft())
            free -= self.requests[new[-1]].n
        if not new:
            return False
        prefilled, logits_P_V = self.prefiller.prefill(self.weights, [self.requests[i].ids for i in new])
        self._start_rows(new, slots[: len(new)], prefilled, logits_P_V)
        return True

    def _start_rows(self, new: list[int], slots: list[int], prefilled: Prefilled, logits_P_V: Tensor) -> None:
        """Assign rows to the requests' members, and sample the first token of each."""
        if self.cache is None:
            self.cache = Cache(self.shape, prefilled, recorded=self.graphs is not None)
        members: list[int] = []
        owners: list[int] = []  # by member: the index of its request in `new`
        seeds: list[tuple[int, int]] = []
        caps: list[int] = []
        for p, i in enumerate(new):
            for g, member in enumerate(self._members(i)):
                members.append(member)
                owners.append(p)
                seeds.append((self.requests[i].seed, self.requests[i].first + g))
                caps.append(self.requests[i].max_tokens or self.sampling.max_tokens)
            self.prompt_slots[slots[p]] = i
        n_new = len(members)
        rows = (~self.running_N).nonzero()[:n_new, 0]
        owner = torch.tensor(owners, device=self.device)
        self.member_N[rows] = torch.tensor(members, device=self.device)
        self.uniform_N_T[rows] = uniforms(seeds, self.sampling.max_tokens).to(self.device)
        self.drawn_N[rows] = 0
        self.cap_N[rows] = torch.tensor(caps, device=self.device)
        self.position_N[rows] = prefilled.lengths_P[owner] - 1
        if self.shift_N is not None:
            self.shift_N[rows] = 0 if prefilled.shift_P is None else prefilled.shift_P[owner]
        self.running_N[rows] = True
        self.n_running += n_new
        self.n_rows = max(self.n_rows, int(rows.max()) + 1)
        self.cache.admit(slots, rows, torch.tensor(slots, device=self.device)[owner], prefilled)
        ended = self._sample(rows, logits_P_V[owner])
        self._finish(rows[ended].tolist())

    def _members(self, i: int) -> Sequence[int]:
        """Return the members of a request."""
        return range(self.first_member[i], self.first_member[i] + self.requests[i].n)

    def _step(self) -> None:
        """Decode a token of every row. The host waits for the device only once, unless rows have ended."""
        assert self.cache is not None
        self.cache.begin_step()
        ended = self._advance() if self.graphs is None else self.graphs.run(self.cache.n_layouts, self._advance)
        self._finish([row for row, is_over in enumerate(ended.tolist()) if is_over])

    def _advance(self) -> Tensor:
        """Advance the state of all rows by a token; return which rows it ends [N].

        The operations stay the same until the cache's layout changes, and none of them waits for the device."""
        assert self.cache is not None
        n = self.n_rows
        self.position_N[:n] += self.running_N[:n]  # finished rows stay: there may be no further position
        self.cache.write_positions(self.position_N[:n])
        positions_N = self.position_N[:n] if self.shift_N is None else self.position_N[:n] + self.shift_N[:n]
        hidden_N_H = self.weights.hidden(self.id_N[:n], positions_N, self.cache)
        return self._sample(slice(n), logits(hidden_N_H, self.weights.head))

    def _sample(self, rows: Tensor | slice, logits_N_V: Tensor) -> Tensor:
        """Sample a token of each row; return which rows it ends [N].

        Finished rows are sampled, too, to keep shapes; their tokens go to the dummy member."""
        live, drawn = self.running_N[rows], self.drawn_N[rows]
        cap, dummy = self.sampling.max_tokens, len(self.length_M) - 1
        here = drawn.clamp(max=cap - 1)
        uniform_N = self.uniform_N_T[rows].gather(1, here[:, None])[:, 0]
        ids, log_probs = self._draw(rows, logits_N_V, uniform_N)
        stopped = (ids[:, None] == self.stop_ids).any(1)
        ended = live & (stopped | (drawn + 1 == self.cap_N[rows]) | log_probs.isnan())  # `_replies` refuses NaN
        members = self.member_N[rows].masked_fill(~live, dummy)
        self.ids_M_T[members, here], self.log_probs_M_T[members, here] = ids, log_probs
        self.length_M[members], self.stopped_M[members] = drawn + 1, stopped
        self.id_N[rows] = ids
        self.drawn_N[rows] = drawn + live
        self.running_N[rows] = live & ~ended
        return ended

    def _draw(self, rows: Tensor | slice, logits_N_V: Tensor, uniform_N: Tensor) -> tuple[Tensor, Tensor]:
        """Return a token of each row, and its log-prob."""
        return sample_token(logits_N_V, self.sampling, uniform_N)

    def _finish(self, rows: list[int]) -> None:
        """Handle rows that have just ended: store their prefixes, and collect the requests that are complete."""
        self.n_running -= len(rows)
        for row, member in zip(rows, self.member_N[rows].tolist() if rows else [], strict=True):
            i = self.request_of[member]
            self._store_prefix(row, self.requests[i].ids, member)
            self.n_unfinished[i] -= 1
            if not self.n_unfinished[i]:
                self.prompt_slots[self.prompt_slots.index(i)] = -1
                self.finished.append((i, self._replies(i)))

    def _store_prefix(self, row: int, prompt: tuple[int, ...], member: int) -> None:
        """Store the keys and values of prompt and reply, without the last token: the model has not processed it."""
        if self.prefiller.prefixes is not None:
            assert self.cache is not None
            cache, reply = self.cache, self.ids_M_T[member, : int(self.length_M[member]) - 1]
            ids = (*prompt, *reply.tolist())
            self.prefiller.prefixes.store(ids, lambda start, end: cache.columns(row, len(prompt), start, end))

    def _replies(self, i: int) -> list[Generation]:
        here = slice(self.first_member[i], self.first_member[i] + self.requests[i].n)
        ids, log_probs = self.ids_M_T[here].tolist(), self.log_probs_M_T[here].tolist()
        stopped = self.stopped_M[here].tolist()
        replies: list[Generation] = []
        for g, length in enumerate(self.length_M[here].tolist()):
            if math.isnan(log_probs[g][length - 1]):
                raise NaNLogitsError(NAN_LOGITS)
            replies.append(Generation(ids[g][:length], log_probs[g][:length], stopped[g]))
        return replies

    def _compact(self) -> None:
        """Move the last running rows and prompts into the slots of finished ones."""
        assert self.cache is not None
        rows = _moves(self.running_N[: self.n_rows].tolist())
        used = [request >= 0 for request in self.prompt_slots]
        prompts, n_prompts = _moves(used), sum(used)
        for old, new in prompts:
            self.prompt_slots[new] = self.prompt_slots[old]
        del self.prompt_slots[n_prompts:]
        old_rows, new_rows = self._slot_tensors(rows)
        row_state = (
            self.running_N,
            self.member_N,
            self.drawn_N,
            self.cap_N,
            self.position_N,
            self.id_N,
            self.uniform_N_T,
        )
        for state in (*row_state, self.shift_N):
            if state is not None:
                state[new_rows] = state[old_rows]
        self.n_rows = self.n_running
        self.running_N[self.n_rows :] = False
        self.cache.move((old_rows, new_rows), self.n_rows, self._slot_tensors(prompts), len(self.prompt_slots))

    def _slot_tensors(self, moves: list[tuple[int, int]]) -> tuple[Tensor, Tensor]:
        old, new = torch.tensor(moves, dtype=torch.long, device=self.device).reshape(-1, 2).T
        return old, new


def _moves(used: list[bool]) -> list[tuple[int, int]]:
    """Return moves (old slot, new slot) after which the slots in use come first."""
    n = sum(used)
    last = [i for i in range(n, len(used)) if used[i]]
    free = [i for i in range(n) if not used[i]]
    return list(zip(last, free, strict=True))


def cache_shape(requests: Sequence[Request], max_tokens: int, cache_tokens: int) -> CacheShape:
    """Return a cache shape for all requests at once if they fit, else for as many as fit.

    In the second case there are twice as many prompt slots, since a few long replies may keep earlier prompts in use."""
    longest = most = n_rows = 0
    for request in requests:
        longest, most, n_rows = max(longest, len(request.ids)), max(most, request.n), n_rows + request.n
    columns = max(1, max_tokens - 1)  # the model does not process a reply's last token
    whole = CacheShape(n_rows, len(requests), longest, columns)
    if whole.n_tokens <= cache_tokens:
        return whole
    n = cache_tokens // CacheShape(most, 2, longest, columns).n_tokens
    return CacheShape(n * most, 2 * n, longest, columns) if n else CacheShape(most, 1, longest, columns)


def max_replies_that_fit(longest: int, max_tokens: int, cache_tokens: int) -> int:
    """Return how many replies to one prompt fit into the cache; at least 1."""
    columns = max(1, max_tokens - 1)
    one = CacheShape(1, 1, longest, columns).n_tokens
    two = CacheShape(2, 1, longest, columns).n_tokens
    return 1 + max(0, cache_tokens - one) // (two - one)
