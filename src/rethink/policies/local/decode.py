"""Continuous batching: prompts are computed once, their replies decoded together; what has ended makes room."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from threading import Event

import torch
from torch import Tensor

from rethink.models.chat import Chat
from rethink.models.forward import Weights
from rethink.models.forward.weights import logits
from rethink.policies.local.cache import Cache, Shape
from rethink.policies.local.graphs import Graphs
from rethink.policies.local.prefill import Prefilled, Prefiller
from rethink.policies.local.sample_token import choose, uniforms
from rethink.policies.token_policy import Hear, Reply, Request
from rethink.threads import Stopped
from rethink.types import Sampling

COMPACT_BELOW = 0.8
"""With nothing waiting, rows move together when at most this share of them is still running."""

REFILL_BELOW = 0.75
"""With something waiting, free slots are filled when at most this share of them is still running: a prompt costs about a
step of all rows, so that single ones would be dear."""


@torch.inference_mode()
def decode(
    weights: Weights,
    chat: Chat,
    sampling: Sampling,
    cache_tokens: int,
    listen: Callable[[list[int]], None] | None,
    requests: Sequence[Request],
    prefiller: Prefiller,
    hear: Hear,
    stop: Event,
    graphs: Graphs | None = None,
) -> None:
    """Decode all requests, as many rows at a time as `cache_tokens` tokens of keys and values allow (one prompt's replies
    always go together). `listen` hears the ids of the very first row so far, token by token. `graphs` repeat steps."""
    batch = _Batch(weights, chat, requests, sampling, prefiller, cache_tokens, hear, graphs)
    while batch.advance():
        if listen is not None:
            listen(batch.first_ids())
        if stop.is_set():
            raise Stopped


class _Batch:
    """The rows under way, slot by slot (`_N`). Results lie by request and member (`_M`, all members of all requests, and
    one more for what nobody asked for)."""

    def __init__(
        self,
        weights: Weights,
        chat: Chat,
        requests: Sequence[Request],
        sampling: Sampling,
        prefiller: Prefiller,
        cache_tokens: int,
        hear: Hear,
        graphs: Graphs | None,
    ) -> None:
        self.weights, self.requests, self.sampling = weights, requests, sampling
        self.prefiller, self.hear, self.graphs = prefiller, hear, graphs
        self.device = weights.head[0].device
        self.waiting = deque(range(len(requests)))
        self.shape = shape_for(requests, sampling.max_tokens, cache_tokens)
        self.cache: Cache | None = None
        self.stop_ids = torch.tensor(sorted(chat.stop_ids), device=self.device)
        self.unfinished = [r.n for r in requests]
        self.first_member = [sum(r.n for r in requests[:i]) for i in range(len(requests))]
        self.request_of = [i for i, r in enumerate(requests) for _ in range(r.n)]  # of each member
        n, n_members, cap = self.shape.n_rows, len(self.request_of), sampling.max_tokens
        self.n_rows = self.n_running = 0
        self.prompt_slots: list[int] = []  # the request in each slot; -1 = free
        self.running_N = torch.zeros(n, dtype=torch.bool, device=self.device)
        self.member_N, self.drawn_N, self.position_N, self.id_N = torch.zeros(
            (4, n), dtype=torch.long, device=self.device
        )
        self.uniform_N_T = torch.zeros((n, cap), dtype=torch.float64, device=self.device)
        self.ids_M_T = torch.zeros((n_members + 1, cap), dtype=torch.long, device=self.device)
        self.log_probs_M_T = torch.zeros((n_members + 1, cap), device=self.device)
        self.length_M = torch.zeros(n_members + 1, dtype=torch.long, device=self.device)
        self.stopped_M = torch.zeros(n_members + 1, dtype=torch.bool, device=self.device)

    def advance(self) -> bool:
        """Draw a token for every running row, or the first ones of new rows; False when all is done."""
        few = self.n_running == 0 or self.n_running <= REFILL_BELOW * self.shape.n_rows
        if self.waiting and few and self._admit():
            return True
        if self.n_running == 0:
            return False
        if not self.waiting and self.n_running <= COMPACT_BELOW * self.n_rows:
            self._compact()
        self._step()
        return True

    def first_ids(self) -> list[int]:
        """The ids of the first reply so far."""
        return self.ids_M_T[0, : int(self.length_M[0])].tolist()

    def _admit(self) -> bool:
        """Prefill as many waiting requests as there are slots for, and draw their first tokens; False if there are none."""
        free = self.shape.n_rows - self.n_running
        slots = [p for p in range(self.shape.n_prompts) if p >= len(self.prompt_slots) or self.prompt_slots[p] < 0]
        new: list[int] = []
        while self.waiting and len(new) < len(slots) and self.requests[self.waiting[0]].n <= free:
            new.append(self.waiting.popleft())
            free -= self.requests[new[-1]].n
        if not new:
            return False
        prefilled, logits_P_V = self.prefiller.prefill(self.weights, [self.requests[i].ids for i in new])
        self._seat(new, slots[: len(new)], prefilled, logits_P_V)
        return True

    def _seat(self, new: list[int], slots: list[int], prefilled: Prefilled, logits_P_V: Tensor) -> None:
        """Give the requests' members rows, and draw a first token for each."""
        if self.cache is None:
            self.cache = Cache(self.shape, prefilled, recorded=self.graphs is not None)
        n_new = sum(self.requests[i].n for i in new)
        rows = (~self.running_N).nonzero()[:n_new, 0]
        owner = torch.tensor([p for p, i in enumerate(new) for _ in range(self.requests[i].n)], device=self.device)
        members = [self.first_member[i] + g for i in new for g in range(self.requests[i].n)]
        seeds = [(self.requests[i].seed, self.requests[i].first + g) for i in new for g in range(self.requests[i].n)]
        self.member_N[rows] = torch.tensor(members, device=self.device)
        self.uniform_N_T[rows] = uniforms(seeds, self.sampling.max_tokens).to(self.device)
        self.drawn_N[rows] = 0
        self.position_N[rows] = prefilled.lengths_P[owner] - 1
        self.running_N[rows] = True
        self.n_running += n_new
        self.n_rows = max(self.n_rows, int(rows.max()) + 1)
        self.prompt_slots += [-1] * (max(slots) + 1 - len(self.prompt_slots))
        for slot, i in zip(slots, new, strict=True):
            self.prompt_slots[slot] = i
        self.cache.admit(slots, rows, torch.tensor(slots, device=self.device)[owner], prefilled)
        ended = self._draw(rows, logits_P_V[owner])
        self._end([row for row, is_over in zip(rows.tolist(), ended.tolist(), strict=True) if is_over])

    def _step(self) -> None:
        """A token of every row. It waits for the device once, unless rows have ended."""
        assert self.cache is not None
        self.cache.begin_step()
        ended = self._next() if self.graphs is None else self.graphs.run(self.cache.n_layouts, self._next)
        self._end([row for row, is_over in enumerate(ended.tolist()) if is_over])

    def _next(self) -> Tensor:
        """The tensors of all rows, a token further; returns which rows have ended with it [N]. The same operations while
        the cache's layout is the same, and none waits for the device."""
        assert self.cache is not None
        n = self.n_rows
        self.position_N[:n] += self.running_N[:n]  # those that have ended stay: there may be no position behind
        self.cache.write_positions(self.position_N[:n])
        hidden_N_H = self.weights.hidden(self.id_N[:n], self.position_N[:n], self.cache)
        return self._draw(slice(n), logits(hidden_N_H, self.weights.head))

    def _draw(self, rows: Tensor | slice, logits_N_V: Tensor) -> Tensor:
        """Draw a token of each row; returns which have ended with it [N]. Rows that had ended before draw too, so that
        shapes stay the same, but what they draw is nobody's."""
        live, drawn = self.running_N[rows], self.drawn_N[rows]
        cap, nobody = self.sampling.max_tokens, len(self.length_M) - 1
        here = drawn.clamp(max=cap - 1)
        ids, log_probs = choose(logits_N_V, self.sampling, self.uniform_N_T[rows].gather(1, here[:, None])[:, 0])
        stopped = (ids[:, None] == self.stop_ids).any(1)
        ended = live & (stopped | (drawn + 1 == cap))
        members = self.member_N[rows].masked_fill(~live, nobody)
        self.ids_M_T[members, here], self.log_probs_M_T[members, here] = ids, log_probs
        self.length_M[members], self.stopped_M[members] = drawn + 1, stopped
        self.id_N[rows] = ids
        self.drawn_N[rows] = drawn + live
        self.running_N[rows] = live & ~ended
        return ended

    def _end(self, rows: list[int]) -> None:
        """Rows that have just ended: keep what may serve later, and tell of requests that are complete."""
        self.n_running -= len(rows)
        for row, member in zip(rows, self.member_N[rows].tolist() if rows else [], strict=True):
            i = self.request_of[member]
            self._keep(row, self.requests[i].ids, member)
            self.unfinished[i] -= 1
            if not self.unfinished[i]:
                self.prompt_slots[self.prompt_slots.index(i)] = -1
                self.hear(i, self._replies(i))

    def _keep(self, row: int, prompt: tuple[int, ...], member: int) -> None:
        """Keep prompt and reply, without the last token: it went through no model."""
        if self.prefiller.prefixes is not None:
            assert self.cache is not None
            cache, reply = self.cache, self.ids_M_T[member, : int(self.length_M[member]) - 1]
            ids = (*prompt, *reply.tolist())
            self.prefiller.prefixes.keep(ids, lambda start, end: cache.columns(row, len(prompt), start, end))

    def _replies(self, i: int) -> list[Reply]:
        here = slice(self.first_member[i], self.first_member[i] + self.requests[i].n)
        ids, log_probs = self.ids_M_T[here].tolist(), self.log_probs_M_T[here].tolist()
        lengths, stopped = self.length_M[here].tolist(), self.stopped_M[here].tolist()
        return [Reply(ids[n][:k], log_probs[n][:k], stopped[n]) for n, k in enumerate(lengths)]

    def _compact(self) -> None:
        """Move the last running rows, and their prompts, into the slots of those that have ended."""
        assert self.cache is not None
        rows = _moves(self.running_N[: self.n_rows].tolist())
        prompts = _moves([i >= 0 for i in self.prompt_slots])
        n_prompts = sum(i >= 0 for i in self.prompt_slots)
        for old, new in prompts:
            self.prompt_slots[new] = self.prompt_slots[old]
        del self.prompt_slots[n_prompts:]
        old_rows, new_rows = self._pair(rows)
        for state in (self.running_N, self.member_N, self.drawn_N, self.position_N, self.id_N, self.uniform_N_T):
            state[new_rows] = state[old_rows]
        self.n_rows = self.n_running
        self.running_N[self.n_rows :] = False
        self.cache.move((old_rows, new_rows), self.n_rows, self._pair(prompts), len(self.prompt_slots))

    def _pair(self, moves: list[tuple[int, int]]) -> tuple[Tensor, Tensor]:
        old, new = torch.tensor(moves, dtype=torch.long, device=self.device).reshape(-1, 2).T
        return old, new


def _moves(used: list[bool]) -> list[tuple[int, int]]:
    """From which slot to which, so that those in use come first: the last ones go into the first free ones."""
    n = sum(used)
    return list(zip([i for i in range(n, len(used)) if used[i]], [i for i in range(n) if not used[i]], strict=True))


def shape_for(requests: Sequence[Request], max_tokens: int, cache_tokens: int) -> Shape:
    """Slots for all requests at once if they fit, else for as many as do, with room for as many prompts again, since the
    last replies to earlier ones may take long."""
    longest, most = max(len(r.ids) for r in requests), max(r.n for r in requests)
    columns = max(1, max_tokens - 1)  # the last token of a reply goes through no model
    whole = Shape(sum(r.n for r in requests), len(requests), longest, columns)
    if whole.n_tokens <= cache_tokens:
        return whole
    n = cache_tokens // Shape(most, 2, longest, columns).n_tokens
    return Shape(n * most, 2 * n, longest, columns) if n else Shape(most, 1, longest, columns)


def room_for(longest: int, max_tokens: int, cache_tokens: int) -> int:
    """How many replies to one prompt fit, one at least."""
    one, two = (Shape(n, 1, longest, max(1, max_tokens - 1)).n_tokens for n in (1, 2))
    return 1 + max(0, cache_tokens - one) // (two - one)
