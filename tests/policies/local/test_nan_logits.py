"""Logits that become NaN within a reply: the reply is refused soon, and nothing else is."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Any

import pytest
import torch
from torch import Tensor

from rethink.errors import UserError
from rethink.models.language_model import LanguageModel
from rethink.policies.cancel import NaNLogitsError
from rethink.policies.local import LocalPolicy
from rethink.policies.local.decode import Decoder
from rethink.policies.local.engine import EngineCall
from rethink.policies.local.live_policy import open_live_policy
from rethink.policies.local.plain_decode import PlainDecoder
from rethink.policies.local.prefill import Prefiller
from rethink.policies.local.prefix_cache import PrefixCache
from rethink.policies.local.sample_token import sample_token
from rethink.policies.token_policy import Request
from rethink.types import Sampling
from support.local_sampling import decode_all
from support.model_families import build_family
from support.samples import some_ids

CAP = 40
BAD, GOOD = Request((2, 3, 5), 2, seed=1), Request((7, 11), 3, seed=2)
SAMPLINGS = [Sampling(0.0, CAP), Sampling(1.0, CAP), Sampling(0.7, CAP, top_p=0.9), Sampling(1.0, CAP, top_k=3)]


def poison(weights: Any, name: str, token: int) -> None:
    """Let the hidden states after this token be NaN, if it was sampled."""
    own: Callable[..., Tensor] = getattr(weights, name)

    def poisoned(ids_N: Tensor, *rest: Any) -> Tensor:
        found = own(ids_N, *rest)
        is_step = name == "step" or getattr(rest[-1], "only_tokens", False)
        return found.masked_fill((ids_N == token)[:, None], torch.nan) if is_step else found

    setattr(weights, name, poisoned)


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_token_that_is_drawn_from_nothing_has_no_log_prob(sampling: Sampling, value: float) -> None:
    """Guards against a token of a broken row that passes for a sampled one; the other rows keep their tokens."""
    logits_N_V = torch.randn((3, 11), generator=torch.Generator().manual_seed(0))
    uniform_N = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    ids, log_probs = sample_token(logits_N_V, sampling, uniform_N)
    logits_N_V[1, 4] = value
    broken_ids, broken = sample_token(logits_N_V, sampling, uniform_N)
    assert broken.isnan().tolist() == [False, True, False]
    assert torch.equal(ids[::2], broken_ids[::2])
    assert torch.equal(log_probs[::2], broken[::2])


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_a_reply_with_nan_is_refused_at_once(qwen: LanguageModel, sampling: Sampling) -> None:
    """Regression: only the first token was checked. A model that overflows later gave replies of one repeated token, which
    were graded as wrong."""
    qwen.chat.stop_ids = frozenset()
    [[first, _]] = decode_all(qwen, [BAD], 1000, sampling)
    weights = qwen.weights()
    poison(weights, "hidden", first.ids[0])
    decoder = Decoder(weights, qwen.chat, [Request(BAD.ids, 1, BAD.seed)], sampling, Prefiller(), 1000)
    decoder.step()
    with pytest.raises(UserError, match="logits are NaN"):
        decoder.step()


def test_a_model_with_its_own_cache_refuses_nan() -> None:
    """Guards against the same where the model keeps its cache."""
    model = build_family("LFM2")
    model.chat.stop_ids = frozenset({1})
    weights: Any = model.weights()

    def decoder() -> PlainDecoder:
        return PlainDecoder(weights, model.chat, [BAD], SAMPLINGS[0], Prefiller(), 10_000, pads_left=model.pads_left)

    whole = decoder()
    whole.step()
    poison(weights, "step", whole.first_ids()[0])
    broken = decoder()
    broken.step()
    with pytest.raises(UserError, match="logits are NaN"):
        broken.step()


def test_a_server_refuses_only_the_request_with_nan(qwen: LanguageModel) -> None:
    """Guards against one request that ends those of all other clients, and against its tokens in a stream."""
    qwen.chat.stop_ids = frozenset()
    greedy = Sampling(0.0, CAP)
    [[bad, _], good] = decode_all(qwen, [BAD, GOOD], 1000, greedy)
    token = next(token for token in bad.ids[:-1] if token not in good[0].ids)
    n_good = bad.ids.index(token) + 1
    live = open_live_policy(LocalPolicy(qwen, greedy), 60, CAP, 6)
    poison(live.engine.decoder.weights, "hidden", token)
    refused = live.engine.submit([(GOOD, greedy), (BAD, greedy)])
    streamed = live.engine.submit([(BAD, greedy)], watch=True)
    kept = live.engine.submit([(GOOD, greedy)])
    with pytest.raises(UserError, match="logits are NaN"):
        list(refused.items())
    tokens = streamed.items()
    ids = [(index, item) for _, index, item in islice(tokens, 2 * n_good)]
    assert ids == [(index, token) for token in bad.ids[:n_good] for index in range(2)]
    with pytest.raises(UserError, match="logits are NaN"):
        next(tokens)
    assert [item.ids for *_, item in kept.items() if not isinstance(item, int)] == [reply.ids for reply in good]
    assert live.engine._calls == {}
    assert sorted(live.engine.decoder._free) == list(range(live.shape.n_rows))
    assert isinstance(live.engine.decoder.prefiller.prefixes, PrefixCache)
    live.close()


def test_what_has_happened_before_an_error_is_reported() -> None:
    """Regression: a thread that woke up late got the error, but not the tokens that were sampled before it."""
    call = EngineCall(n_replies=1)
    call.put((0, 0, 5))
    call.put((0, 0, 7))
    call.put(NaNLogitsError())
    items = call.items()
    assert [next(items), next(items)] == [(0, 0, 5), (0, 0, 7)]
    with pytest.raises(NaNLogitsError):
        next(items)


@pytest.mark.parametrize(("n_bad", "place", "n_good"), [(50, 40, 37), (30, 20, 17)])
def test_nothing_of_a_prompt_with_nan_is_left(qwen: LanguageModel, n_bad: int, place: int, n_good: int) -> None:
    """Regression: its keys and values stayed in the slot, where a later, shorter prompt read them from columns that it
    left empty, and in the prefix cache; so the server refused requests of other clients until it was restarted."""
    qwen.chat.stop_ids = frozenset()
    greedy, good = Sampling(0.0, CAP), Request(some_ids(n_good, "good"), 3, seed=2)
    [expected] = decode_all(qwen, [good], 10_000, greedy)
    ids = some_ids(n_bad, "bad")
    used = {*good.ids, *ids, *(token for reply in expected for token in reply.ids)}
    token = next(token for token in range(4, 97) if token not in used)
    bad = Request((*ids[:place], token, *ids[place + 1 :]), 2, seed=1)
    [whole] = decode_all(qwen, [bad], 10_000, greedy)
    live = open_live_policy(LocalPolicy(qwen, greedy), n_bad, CAP, 6)
    weights: Any = live.engine.decoder.weights
    clean = weights.embedding
    weights.embedding = clean.detach().clone()
    weights.embedding[token] = torch.nan
    with pytest.raises(NaNLogitsError):
        list(live.engine.submit([(bad, greedy)]).items())
    found = sorted(live.engine.submit([(good, greedy)]).items())
    assert [item.ids for *_, item in found if not isinstance(item, int)] == [reply.ids for reply in expected]
    weights.embedding = clean
    found = sorted(live.engine.submit([(bad, greedy)]).items())
    assert [item.ids for *_, item in found if not isinstance(item, int)] == [reply.ids for reply in whole]
    live.close()
