"""The moments of sampling: prompts first, then one token of every row at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rethink.plan.memory import FLOAT, Item, Moment, Setup, frozen, optimizer, sampler_copy, sampler_joined, weights

SHARE_FROM = 32
"""As in `policies.local.cache`; a test says that both agree."""


@dataclass(frozen=True)
class Request:
    """What a method asks a policy for at once: `n` replies to each prompt of these lengths, of at most `max_tokens`; how
    many tokens they have together; and whom it asks."""

    phase: str
    prompts: tuple[int, ...]
    n: int
    max_tokens: int
    n_sampled: int
    role: str = "policy"

    def share(self, n_gpus: int) -> Request:
        """The largest share of a GPU, the longest prompts first."""
        prompts = tuple(sorted(self.prompts, reverse=True)[::n_gpus])
        return Request(
            self.phase,
            prompts,
            self.n,
            self.max_tokens,
            -(-self.n_sampled * len(prompts) // len(self.prompts)),
            self.role,
        )


@dataclass(frozen=True)
class Slots:
    """What the sampler's cache has room for: rows and prompts at a time, and the tokens that are allocated for them."""

    n_rows: int
    n_prompts: int
    n_tokens: int


def slots(request: Request, cache_tokens: int) -> Slots:
    """All rows at once if they fit, else as many groups as do, with room for as many prompts again; see
    `policies.local.decode.shape_for`."""
    longest, columns = max(request.prompts), max(1, request.max_tokens - 1)
    whole = _slots(len(request.prompts) * request.n, len(request.prompts), longest, columns)
    if whole.n_tokens <= cache_tokens:
        return whole
    one, two = (_slots(k, 1, longest, columns).n_tokens for k in (1, 2))
    room = 1 + max(0, cache_tokens - one) // (two - one)
    most = -(-request.n // -(-request.n // room))  # a group that does not fit is split
    n = cache_tokens // _slots(most, 2, longest, columns).n_tokens
    return _slots(n * most, 2 * n, longest, columns) if n else _slots(most, 1, longest, columns)


def _slots(n_rows: int, n_prompts: int, longest: int, columns: int) -> Slots:
    own = longest if longest < SHARE_FROM else 0
    return Slots(n_rows, n_prompts, (0 if own else n_prompts * longest) + n_rows * (own + columns))


def sampling_moments(setup: Setup, request: Request) -> Sequence[Moment]:
    """While prompts are computed, and while tokens are drawn. The trainer's gradients and working copies are gone."""
    each = setup.shape.cache_bytes(setup.sampler_cache)
    mine = request.share(setup.n_gpus)
    room = slots(mine, setup.cache_bytes // each)
    base = (weights(setup), optimizer(setup), *frozen(setup), sampler_copy(setup), *sampler_joined(setup))
    cache = Item("keys and values", each * room.n_tokens)
    at_once = min(len(mine.prompts), max(1, room.n_rows // mine.n))
    n_tokens = sum(sorted(mine.prompts, reverse=True)[:at_once])
    prompts = Item("keys and values of new prompts", each * n_tokens)
    first = (cache,) if at_once < len(mine.prompts) else ()
    return (
        Moment("sampling", "prompts", (*base, *first, prompts, prefill(setup, n_tokens))),
        Moment("sampling", "first tokens", (*base, cache, prompts, draw(setup, room.n_rows, at_once))),
        Moment("sampling", "tokens", (*base, cache, draw(setup, room.n_rows), scores(setup, mine, room.n_rows))),
    )


def prefill(setup: Setup, n_tokens: int) -> Item:
    """Working memory of one layer over all tokens of the prompts, bytes per token: 4 H of the residual stream, and gate, up
    and their product, 3 s I, or the normalized state and queries, keys and values in several forms, s (H + 5 Q + 6 K)."""
    shape, s = setup.shape, setup.sampler
    mlp = 3 * s * shape.intermediate
    attention = s * (shape.hidden + 5 * shape.n_queries + 6 * shape.n_keys)
    return Item("prompts in a layer", n_tokens * (FLOAT * shape.hidden + max(mlp, attention)))


def draw(setup: Setup, n_rows: int, n_prompts: int = 0) -> Item:
    """Logits, log-probs, probabilities, these in float64, and their sums, 28 V bytes per row; 4 V for each new prompt."""
    return Item("drawing tokens", FLOAT * (7 * n_rows + n_prompts) * setup.shape.vocabulary)


def scores(setup: Setup, request: Request, n_rows: int) -> Item:
    """Attention's scores of one layer: over prompt and own keys, joined, and their softmax in float32."""
    width = max(request.prompts) + request.max_tokens
    return Item("scores of a layer", (2 * setup.sampler_cache + FLOAT) * n_rows * setup.shape.n_heads * width)
