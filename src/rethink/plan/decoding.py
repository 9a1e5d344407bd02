"""The sampler's work for one request of the plan, on tensors without memory."""

from __future__ import annotations

from operator import attrgetter, itemgetter

import torch
from torch import Tensor

from rethink.models.forward import Weights
from rethink.plan.memory_tracker import Tracker
from rethink.plan.token_counts import SampleRequest
from rethink.policies.local.decode import cache_shape, max_replies_that_fit
from rethink.policies.local.dispatch import shard_requests
from rethink.policies.local.kv_cache import Cache
from rethink.policies.local.prefill import Prefiller
from rethink.policies.local.sample_token import sample_token
from rethink.policies.token_policy import Request
from rethink.types import Sampling

PREFILL = "prefill of prompts"
CACHE = "KV cache"
TOKEN_SAMPLING = "sampling of tokens"
SCORES = "attention scores of a layer"


def decode(
    tracker: Tracker, weights: Weights, cache_tokens: int, request: SampleRequest, n_gpus: int, n_heads: int
) -> None:
    """Run the sampler's work for one GPU's share of the prompts, the longest first."""
    lengths = sorted(request.prompts, reverse=True)[::n_gpus]
    max_tokens = request.sampling.max_tokens
    requests = [Request((1,) * length, request.n, 0) for length in lengths]
    room = max_replies_that_fit(lengths[0], max_tokens, cache_tokens)
    (own_share,) = shard_requests(requests, range(len(requests)), 1, room)
    pieces = list(map(itemgetter(1), own_share))
    shape = cache_shape(pieces, max_tokens, cache_tokens)
    n_at_once = max(1, min(shape.n_prompts, shape.n_rows // pieces[0].n))
    first = pieces[:n_at_once]
    ids = list(map(attrgetter("ids"), first))

    tracker.label = PREFILL
    prefilled, logits_P_V = Prefiller().prefill(weights, ids)
    tracker.label = CACHE
    cache = Cache(shape, prefilled)
    tracker.label = TOKEN_SAMPLING
    n_new = sum(piece.n for piece in first)
    owner_N = torch.zeros(n_new, dtype=torch.long, device="meta")
    _sample_tokens(logits_P_V[owner_N], request.sampling)
    del prefilled, logits_P_V
    if n_at_once < len(pieces):
        tracker.label = PREFILL
        Prefiller().prefill(weights, ids)
    tracker.label = SCORES
    n_columns = shape.prompt_columns + shape.reply_columns
    like = cache.replies[0].new_empty((shape.n_rows, n_heads, n_columns))
    _softmax = [like, torch.empty_like(like), torch.empty_like(like, dtype=torch.float32)]
    del like, _softmax
    tracker.label = TOKEN_SAMPLING
    _sample_tokens(torch.empty((shape.n_rows, len(weights.head.weight)), device="meta"), request.sampling)


def _sample_tokens(logits_N_V: Tensor, sampling: Sampling) -> None:
    _converted = torch.empty_like(logits_N_V, dtype=torch.float64)  # inside the cumulative sum, hidden from the tracker
    sample_token(logits_N_V, sampling, torch.empty(len(logits_N_V), dtype=torch.float64, device="meta"))
