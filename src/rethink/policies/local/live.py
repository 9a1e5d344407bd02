"""Continuous batching over requests that come and go: a decoder and a cache that run as long as a server does.

The shape of the cache is fixed, so a request never waits for memory to be moved. What is read of it at each step follows
the rows that run: the columns of the longest prompt, and those since the oldest row began.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rethink.errors import UserError
from rethink.models.chat import Chat
from rethink.models.forward import Weights
from rethink.policies.cancel import NaNLogitsError
from rethink.policies.local.decode import Decoder
from rethink.policies.local.kv_cache import BUCKET, Cache, CacheShape
from rethink.policies.local.prefill import Prefiller
from rethink.policies.local.sample_token import NAN_LOGITS, sample_token
from rethink.policies.token_policy import Generation, Request
from rethink.types import Sampling

PREFILL_TOKENS = 4096
"""Prompts are admitted together up to this many tokens. It bounds the memory of a prefill and the pause of other rows."""

MOVE_EVERY = 64
"""The number of steps after which it is checked whether columns that no row needs any more can be dropped."""


@dataclass(frozen=True)
class NewToken:
    """A token of a reply whose tokens were asked for one by one: of member `index` of a request."""

    request: int
    index: int
    token: int


@dataclass(frozen=True)
class Ended:
    """A complete reply: member `index` of a request."""

    request: int
    index: int
    reply: Generation


@dataclass(frozen=True)
class Failed:
    """A request that has no replies, because of the error. It is forgotten; other requests run on."""

    request: int
    error: UserError


class LiveCache(Cache):
    """A cache whose steps read only the columns in use, however long it has been running."""

    prompt_width = 0

    def drop_old_columns(self, n_live: int) -> None:
        """Move the last `n_live` reply columns to the front, if that halves what is read; no row needs those before."""
        n_open = min(self.shape.reply_columns, -(-max(n_live, 1) // BUCKET) * BUCKET)
        if n_open > self.n_open // 2:
            return
        own, first = self.shape.own_columns, self.shape.prompt_columns
        columns = torch.arange(self.n_steps - n_live, self.n_steps, device=self.device) % self.shape.reply_columns
        for tensor in self.replies:
            used = tensor[: self.n_rows]
            used[:, :, own : own + n_live] = used.index_select(2, columns + own)
        known = self.positions[: self.n_rows, first + columns]
        self.positions[: self.n_rows, first:] = -1
        self.positions[: self.n_rows, first : first + n_live] = known
        self.n_steps, self.n_open = n_live, n_open
        self._update_views()

    def empty(self) -> None:
        """Forget all rows and prompts."""
        self.n_rows = self.n_prompts = 0

    def _update_views(self) -> None:
        super()._update_views()
        known = self.positions[: self.n_rows, : self.shape.prompt_columns] >= 0
        longest = int(known.sum(1).max())
        self.prompt_width = min(self.shape.prompt_columns, -(-longest // BUCKET) * BUCKET)
        narrow: list[tuple[Tensor, Tensor]] = []
        for keys, values in self._shared:
            narrow.append((keys[:, :, : self.prompt_width], values[:, :, : self.prompt_width]))
        self._shared = narrow

    def write_positions(self, positions_N: Tensor) -> None:
        super().write_positions(positions_N)
        first, width = self.shape.prompt_columns, self.prompt_width
        if width < first and not self.shape.own_columns:
            used = self.positions[: self.n_rows]
            self._key_positions = torch.cat([used[:, :width], used[:, first : first + self.n_open]], 1)


class LiveDecoder(Decoder):
    """A decoder that takes requests at any time, each with its own sampling settings, and can cancel them.

    `shape` says how many rows run at once and how long prompts and replies may be: a reply has at most one token more than
    `reply_columns`. Call `step` while it is not done, and take `events`.
    """

    def __init__(self, weights: Weights, chat: Chat, shape: CacheShape, prefiller: Prefiller) -> None:
        super().__init__(weights, chat, [], Sampling(max_tokens=shape.reply_columns + 1), prefiller, 0)
        self.shape = shape
        self._allocate(shape.n_rows)
        self.requests: dict[int, Request] = {}
        self.events: list[NewToken | Ended | Failed] = []
        self._samplings: dict[int, Sampling] = {}
        self._missing: dict[int, int] = {}  # replies that have not ended, by request
        self._watched: set[int] = set()
        self._n_added = 0
        self._free = list(range(shape.n_rows))  # members
        self._owner = [(-1, 0)] * shape.n_rows  # by member: the request, and its index there
        self._kind = [Sampling()] * shape.n_rows  # by member

    def add(self, request: Request, sampling: Sampling, watch: bool = False) -> int:
        """Queue a request and return its number. With `watch`, each of its tokens is an event.

        Its `n` must be at most the number of rows, and prompt and replies must fit into the shape."""
        n_tokens = request.max_tokens or sampling.max_tokens
        assert 0 < request.n <= self.shape.n_rows
        assert 0 < len(request.ids) <= self.shape.prompt_columns
        assert n_tokens <= self.sampling.max_tokens
        number = self._n_added
        self._n_added += 1
        self.requests[number] = replace(request, max_tokens=n_tokens)
        self._samplings[number] = replace(sampling, max_tokens=1)
        self._missing[number] = request.n
        if watch:
            self._watched.add(number)
        self.waiting.append(number)
        return number

    @torch.inference_mode()
    def cancel(self, number: int) -> None:
        """Stop a request: its rows are free from now on. One that has ended is left alone."""
        if number not in self.requests:
            return
        if number in self.waiting:
            self.waiting.remove(number)
        running = self.running_N.tolist()
        for row, member in enumerate(self.member_N.tolist()):
            if running[row] and self._owner[member][0] == number:
                self.running_N[row] = False
                self.n_running -= 1
                self._free.append(member)
        self._forget(number)

    def take_events(self) -> list[NewToken | Ended | Failed]:
        """Return what has happened since the last call, in order."""
        events, self.events = self.events, []
        return events

    @torch.inference_mode()
    def step(self) -> list[tuple[int, list[Generation]]]:
        """Sample a token of every running row, or admit new rows; see `Decoder`. The replies are in `events`."""
        if isinstance(self.cache, LiveCache):
            if self.n_running == 0:
                self.n_rows, self.prompt_slots = 0, []
                self.cache.empty()
            elif self.cache.n_steps % MOVE_EVERY == 0:
                self.cache.drop_old_columns(int(self.drawn_N[self.running_N].max()) - 1)
        return super().step()

    def _admit(self) -> bool:
        """Prefill waiting requests, in order, as far as rows are free and the tokens of a prefill allow."""
        free, n_tokens = self.shape.n_rows - self.n_running, 0
        new: list[int] = []
        while self.waiting and self.requests[self.waiting[0]].n <= free:
            request = self.requests[self.waiting[0]]
            n_tokens += self.prefiller.n_missing(request.ids)
            if new and n_tokens > PREFILL_TOKENS:
                break
            new.append(self.waiting.popleft())
            free -= request.n
        if not new:
            return False
        self.prompt_slots += [-1] * (self.shape.n_prompts - len(self.prompt_slots))
        slots = [slot for slot, owner in enumerate(self.prompt_slots) if owner < 0]
        prefilled, logits_P_V = self.prefiller.prefill(self.weights, [self.requests[i].ids for i in new])
        if self.cache is None:
            self.cache = LiveCache(self.shape, prefilled)
        self._start_rows(new, slots[: len(new)], prefilled, logits_P_V)
        return True

    def _members(self, i: int) -> Sequence[int]:
        """Return free members for the replies to a request."""
        members = [self._free.pop() for _ in range(self.requests[i].n)]
        for index, member in enumerate(members):
            self._owner[member], self._kind[member] = (i, index), self._samplings[i]
        return members

    def _draw(self, rows: Tensor | slice, logits_N_V: Tensor, uniform_N: Tensor) -> tuple[Tensor, Tensor]:
        """Return a token of each row and its log-prob: rows with equal sampling settings are sampled together."""
        places: dict[Sampling, list[int]] = {}
        for place, member in enumerate(self.member_N[rows].tolist()):
            places.setdefault(self._kind[member], []).append(place)
        if len(places) == 1:
            return sample_token(logits_N_V, next(iter(places)), uniform_N)
        ids = torch.empty(len(logits_N_V), dtype=torch.long, device=self.device)
        log_probs = torch.empty(len(logits_N_V), device=self.device)
        for sampling, some in places.items():
            here = torch.tensor(some, device=self.device)
            ids[here], log_probs[here] = sample_token(logits_N_V[here], sampling, uniform_N[here])
        return ids, log_probs

    def _sample(self, rows: Tensor | slice, logits_N_V: Tensor) -> Tensor:
        ended = super()._sample(rows, logits_N_V)
        if self._watched:
            drawn = (self.running_N[rows] | ended).tolist()
            ids = self.id_N[rows].tolist()
            for place, member in enumerate(self.member_N[rows].tolist()):
                number, index = self._owner[member]
                if drawn[place] and number in self._watched:
                    self.events.append(NewToken(number, index, ids[place]))
        return ended

    def _finish(self, rows: list[int]) -> None:
        """Handle rows that have just ended: store their prefixes, and report their replies."""
        self.n_running -= len(rows)
        for row, member in zip(rows, self.member_N[rows].tolist() if rows else [], strict=True):
            number, index = self._owner[member]
            self._free.append(member)
            if number not in self.requests:  # another reply to it has failed
                continue
            n = int(self.length_M[member])
            ids, log_probs = self.ids_M_T[member, :n].tolist(), self.log_probs_M_T[member, :n].tolist()
            if math.isnan(log_probs[-1]):
                self._fail(number)
                continue
            self._store_prefix(row, self.requests[number].ids, member)
            self.events.append(Ended(number, index, Generation(ids, log_probs, bool(self.stopped_M[member]))))
            self._missing[number] -= 1
            if not self._missing[number]:
                self._forget(number)

    def _fail(self, number: int) -> None:
        """Stop a request with NaN in its logits; its last tokens were drawn from nothing. Nothing of it is kept: its keys
        and values may be NaN, too."""
        assert self.cache is not None
        slot = self.prompt_slots.index(number)
        self.cancel(number)
        self.cache.zero(slot)
        if self.prefiller.prefixes is not None:
            self.prefiller.prefixes.clear()
        self.events = [event for event in self.events if event.request != number]
        self.events.append(Failed(number, NaNLogitsError(NAN_LOGITS)))

    def _forget(self, number: int) -> None:
        """Drop a request, and free the slot of its prompt."""
        if number in self.prompt_slots:
            self.prompt_slots[self.prompt_slots.index(number)] = -1
        del self.requests[number], self._samplings[number], self._missing[number]
        self._watched.discard(number)


def live_shape(n_prompt_tokens: int, max_tokens: int, n_rows: int, cache_tokens: int) -> CacheShape:
    """Return a shape for at most `n_rows` rows: as many as fit into the cache, at least one."""
    columns = max(1, max_tokens - 1)
    row = CacheShape(1, 1, n_prompt_tokens, columns)
    n = max(1, min(n_rows, cache_tokens // row.n_tokens))
    return CacheShape(n, n, n_prompt_tokens, columns)
