"""What a GPU holds in training and in sampling, at the moment when it holds the most.

The real trainer and the parts of the real sampler run on tensors without memory. What cannot run that way is added up by
formulas: the optimizer's averages, what several GPUs share and gather, and the scores of a decoding step.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor

from rethink.models.forward import Weights
from rethink.models.language_model import DTYPES, LanguageModel
from rethink.objectives import Imitate, Part, PolicyGradient, Prefer, Update
from rethink.plan.meta_model import build_meta_model
from rethink.plan.token_counts import SampleRequest
from rethink.plan.tracker import GRADIENTS, Tracker, Window, label_model, largest_window, on_meta_device
from rethink.policies.local.cache import Cache, bytes_per_token
from rethink.policies.local.decode import cache_shape, max_replies_that_fit
from rethink.policies.local.dispatch import shard_requests
from rethink.policies.local.prefill import Prefiller
from rethink.policies.local.sample_token import sample_token
from rethink.policies.token_policy import Request
from rethink.settings import Training
from rethink.training.optimizer import embedding_weights
from rethink.training.trainer import GPU_TOKENS, Trainer
from rethink.types import Sample, Sampling

GIB = 2**30
FLOAT = 4
PERIOD = 4
"""Models whose layers differ repeat a pattern of this many."""

WEIGHTS = "weights"
OPTIMIZER = "optimizer"
SAMPLER = "sampler's working copy"
WHOLE = "sampler's weights, whole"
FROZEN = "frozen models beside it"
ROOT = "gathered embedding and head"
LAYERS = "gathered layers"
PROMPTS = "prompts and their keys and values"
CACHE = "keys and values"
DRAWING = "drawing tokens"
SCORES = "scores of a layer"


@dataclass(frozen=True)
class Peak:
    """What there is on each GPU at one time: bytes by item."""

    name: str
    items: dict[str, float]

    @property
    def n_bytes(self) -> float:
        return sum(self.items.values())


@dataclass(frozen=True)
class FrozenModels:
    """Models that are kept beside the policy: the start weights, because a part compares with them or because they answer,
    and another teacher that answers, which counts as one of the same size."""

    start: bool = False
    start_answers: bool = False
    other_answers: bool = False


@dataclass(frozen=True)
class MemorySettings:
    """Settings that memory depends on; `rank` is that of adapters, 0 without. `base` is the dtype of the weights, `trainer`
    and `sampler` are those of matrix products."""

    n_gpus: int = 1
    micro_batch_tokens: int = GPU_TOKENS
    chunk_tokens: int = Training.chunk_tokens
    checkpointing: bool = False
    optimizer: str = "adamw"
    rank: int = 0
    cache_bytes: int = GIB
    base: str = "float32"
    trainer: str = "bfloat16"
    sampler: str = "bfloat16"
    frozen: FrozenModels = FrozenModels()


def heaviest_update(updates: Sequence[Update], choice: MemorySettings) -> Update | None:
    """The update with the longest row, cut down to samples that fill two micro-batches of one GPU, or to its share of an
    optimizer step, if that is less. Every sample is trained on. None where nothing is trained on."""
    longest = max(updates, key=_longest_row, default=None)
    if longest is None or not _longest_row(longest):
        return None
    parts = [part for part in longest.parts if sum(s.n_trained for s in part.samples)]
    limit = 2 * choice.micro_batch_tokens / max(1, len(parts))
    cut = []
    for part in parts:
        cut.append(_cut(part, limit, longest.n_steps * choice.n_gpus))
    return Update(longest.name, tuple(cut), on_policy=False)


def _longest_row(update: Update) -> int:
    longest = 0
    for part in update.parts:
        longest = max(longest, *map(_length, part.samples), 0)
    return longest


def _length(sample: Sample) -> int:
    return len(sample.prompt_ids) + len(sample.ids)


def _cut(part: Part, limit: float, n_shares: int) -> Part:
    """The longest samples of a part, no more than an equal share has, and not many more than `limit` tokens."""
    if isinstance(part, Prefer):
        pairs = sorted(zip(part.chosen, part.rejected, strict=True), key=lambda pair: -sum(map(_length, pair)))
        n_pairs = _n_within([_length(chosen) + _length(rejected) for chosen, rejected in pairs], limit, n_shares)
        chosen, rejected = zip(*pairs[:n_pairs], strict=True)
        return replace(part, chosen=chosen, rejected=rejected)
    samples = [replace(s, forced=()) for s in part.samples if s.n_trained]
    samples.sort(key=_length, reverse=True)
    seen: set[tuple[int, ...]] = set()
    sizes = []  # a prompt that several replies share goes through the model once
    for sample in samples:
        sizes.append(len(sample.ids) + (0 if sample.prompt_ids in seen else len(sample.prompt_ids)))
        seen.add(sample.prompt_ids)
    some = tuple(samples[: _n_within(sizes, limit, n_shares)])
    ones = (1.0,) * len(some)
    if isinstance(part, Imitate):
        return replace(part, samples=some, weights=ones)
    assert isinstance(part, PolicyGradient)
    return replace(part, samples=some, advantages=ones)


def _n_within(sizes: Sequence[int], limit: float, n_shares: int) -> int:
    """How many to take: at least one, and not more once they exceed the limit."""
    most = -(-len(sizes) // n_shares)
    total = 0
    for n, size in enumerate(sizes[:most]):
        if total >= limit:
            return n
        total += size
    return most


def training_window(config: Any, choice: MemorySettings, update: Update) -> Window:
    """The largest window of an optimizer step."""
    return _with_all_layers(config, lambda few: _train(few, choice, update))


def sampling_window(config: Any, choice: MemorySettings, asked: SampleRequest) -> Window:
    """The largest window of a request: while prompts are computed, or while tokens are drawn. The trainer's gradients and
    working copies are gone."""
    cache_tokens = choice.cache_bytes // bytes_per_token(build_meta_model(config), DTYPES[choice.sampler])
    return _with_all_layers(config, lambda few: _sample(few, choice, asked, cache_tokens))


def _with_all_layers(config: Any, run: Callable[[Any], list[Window]]) -> Window:
    """The largest window of a run, from runs with so few layers that they take no time."""
    n_layers = int(config.num_hidden_layers)
    kinds = getattr(config, "layer_types", None) or []
    few = 2 if len(set(kinds)) < 2 else PERIOD
    if n_layers <= 2 * few or n_layers % few:
        windows = run(config)
        return largest_window(windows, windows, 1.0)
    return largest_window(run(_with_layers(config, few)), run(_with_layers(config, 2 * few)), n_layers / few - 1)


def _with_layers(config: Any, n: int) -> Any:
    changed = copy.deepcopy(config)
    changed.num_hidden_layers = n
    if getattr(config, "layer_types", None):
        changed.layer_types = config.layer_types[:n]
    return changed


def _train(config: Any, choice: MemorySettings, update: Update) -> list[Window]:
    sharded = choice.n_gpus > 1
    dtype = DTYPES[choice.trainer]
    model = build_meta_model(config, choice.base, choice.rank)
    # The weights are added up apart; gradients of layers that are in shards go there at once.
    tracker = Tracker(ignored={WEIGHTS, GRADIENTS} if sharded else {WEIGHTS})
    if sharded:
        _gather(model, dtype, tracker)
        tracker.add(root_parameters(model), ROOT)
    tracker.add(model.module.parameters(), WEIGHTS)
    settings = Training(
        micro_batch_tokens=choice.micro_batch_tokens,
        chunk_tokens=choice.chunk_tokens,
        autocast="bfloat16" if dtype == torch.bfloat16 else "none",
        gradient_checkpointing=choice.checkpointing,
    )
    with on_meta_device(tracker, model, dtype):
        tracker.label = FROZEN
        trainer = Trainer(label_model(model, tracker), settings, 1, lambda: _start(tracker, config, choice, model))
        start = trainer.initial if choice.frozen.start else None
        answering = _answering(tracker, config, choice, start)
        trainer.apply(update)
    del answering
    return tracker.windows


def _sample(config: Any, choice: MemorySettings, asked: SampleRequest, cache_tokens: int) -> list[Window]:
    dtype = DTYPES[choice.sampler]
    model = build_meta_model(config, choice.base, choice.rank)
    sampled = model if choice.n_gpus == 1 else _whole_copy(config, choice)
    tracker = Tracker(ignored={WEIGHTS})
    tracker.add(model.module.parameters(), WEIGHTS)
    tracker.add(sampled.module.parameters(), WEIGHTS)
    with on_meta_device(tracker, sampled):
        tracker.label = FROZEN
        kept: list[Any] = []
        start = None
        if choice.frozen.start:
            start = _start(tracker, config, choice, model)
            kept = [start.weights(DTYPES[choice.trainer])]
        kept += _answering(tracker, config, choice, start)
        tracker.label = SAMPLER
        weights = sampled.weights(dtype)
        with torch.inference_mode():
            _decode(tracker, weights, cache_tokens, asked, choice.n_gpus, int(config.num_attention_heads))
    del kept
    return tracker.windows


def _decode(
    tracker: Tracker, weights: Weights, cache_tokens: int, asked: SampleRequest, n_gpus: int, n_heads: int
) -> None:
    """The sampler's work for one GPU's share of the prompts, the longest first."""
    lengths = sorted(asked.prompts, reverse=True)[::n_gpus]
    max_tokens = asked.sampling.max_tokens
    requests = []
    for length in lengths:
        requests.append(Request((1,) * length, asked.n, 0))
    room = max_replies_that_fit(lengths[0], max_tokens, cache_tokens)
    (dealt,) = shard_requests(requests, range(len(requests)), 1, room)
    pieces = list(map(itemgetter(1), dealt))
    shape = cache_shape(pieces, max_tokens, cache_tokens)
    n_at_once = max(1, min(shape.n_prompts, shape.n_rows // pieces[0].n))
    first = pieces[:n_at_once]
    ids = [piece.ids for piece in first]

    tracker.label = PROMPTS
    prefilled, logits_P_V = Prefiller().prefill(weights, ids)
    tracker.label = CACHE
    cache = Cache(shape, prefilled)
    tracker.label = DRAWING
    n_new = sum(piece.n for piece in first)
    owner_N = torch.zeros(n_new, dtype=torch.long, device="meta")
    _draw(logits_P_V[owner_N], asked.sampling)
    del prefilled, logits_P_V
    if n_at_once < len(pieces):
        tracker.label = PROMPTS
        Prefiller().prefill(weights, ids)
    tracker.label = SCORES
    n_columns = shape.prompt_columns + shape.reply_columns
    like = cache.replies[0].new_empty((shape.n_rows, n_heads, n_columns))
    _softmax = [like, torch.empty_like(like), torch.empty_like(like, dtype=torch.float32)]
    del like, _softmax
    tracker.label = DRAWING
    n_vocabulary = len(weights.head[0])
    _draw(torch.empty((shape.n_rows, n_vocabulary), device="meta"), asked.sampling)


def _draw(logits_N_V: Tensor, sampling: Sampling) -> None:
    _converted = torch.empty_like(logits_N_V, dtype=torch.float64)  # within the cumulative sum, where nobody sees it
    sample_token(logits_N_V, sampling, torch.empty(len(logits_N_V), dtype=torch.float64, device="meta"))


def _start(tracker: Tracker, config: Any, choice: MemorySettings, model: LanguageModel) -> LanguageModel:
    """The start weights: on one GPU those under the adapters, where there are any, else weights of their own."""
    if model.base is not None and choice.n_gpus == 1:
        return model.base
    start = build_meta_model(config, choice.base)
    tracker.add(start.module.parameters(), FROZEN)
    return start


def _answering(tracker: Tracker, config: Any, choice: MemorySettings, start: LanguageModel | None) -> list[Any]:
    """What frozen models that answer need for it."""
    dtype = DTYPES[choice.sampler]
    kept: list[Any] = []
    if choice.frozen.start_answers:
        assert start is not None
        kept.append(start.weights(dtype))
    if choice.frozen.other_answers:
        other = build_meta_model(config)
        tracker.add(other.module.parameters(), FROZEN)
        kept += [other, other.weights(dtype)]
    return kept


def _whole_copy(config: Any, choice: MemorySettings) -> LanguageModel:
    """With several GPUs: the weights that each samples from."""
    from rethink.training.fsdp.build import empty_replica  # imported here: it takes half a second

    return empty_replica(build_meta_model(config, choice.base), torch.device("meta"), DTYPES[choice.sampler])


def _gather(model: LanguageModel, dtype: torch.dtype, tracker: Tracker) -> None:
    """Make the model what runs on one of several GPUs: through its modules, layers in this dtype, all else in float32."""
    model.fused = False
    for layer in decoder_layers(model):
        for p in layer.parameters():
            p.data = p.data.to(dtype)
            if p.requires_grad:
                p.grad_dtype = None  # their sum is in float32
                p.register_hook(lambda gradient: tracker.relabel(gradient, GRADIENTS))
    for p in root_parameters(model):
        p.data = p.data.float()


# What is added up


class FullModel:
    """The model with all of its layers, and what it takes on each GPU whatever is done: it is run with few layers."""

    def __init__(self, config: Any, choice: MemorySettings) -> None:
        self.model = build_meta_model(config, choice.base, choice.rank)
        self._config = config
        self._choice = choice

    @cached_property
    def sampler_bytes(self) -> float:
        """Of the weights that each of several GPUs samples from."""
        return n_bytes(_whole_copy(self._config, self._choice).module.parameters())

    def items(self, choice: MemorySettings, stage: str) -> dict[str, float]:
        """For a choice with the same adapters, by item."""
        found = kept_items(self.model, choice)
        if choice.n_gpus > 1:
            found[WHOLE] = self.sampler_bytes
        if choice.n_gpus > 1 and stage == "training":
            found |= sharded_items(self.model, choice)
        return found


def kept_items(model: LanguageModel, choice: MemorySettings) -> dict[str, float]:
    """Weights and the optimizer's two averages, shared by all GPUs: 8 bytes for each trained number, or two of 8 bits and
    for each 256 of them a float32 scale; of an embedding always 8 bytes."""
    exact = embedding_weights(model.module) if choice.optimizer == "adamw8bit" else []
    averages = 0.0
    for p in trained_parameters(model):
        eight_bits = choice.optimizer == "adamw8bit" and not any(p is other for other in exact)
        averages += 2 * p.numel() * (1 + FLOAT / 256 if eight_bits else FLOAT)
    return {
        WEIGHTS: n_bytes(model.module.parameters()) / choice.n_gpus,
        f"{OPTIMIZER}, {choice.optimizer}": averages / choice.n_gpus,
    }


def sharded_items(model: LanguageModel, choice: MemorySettings) -> dict[str, float]:
    """With several GPUs: gradients in float32, shared by all; and two layers at a time, with whole weights in the trainer's
    dtype and gradients of what is trained in float32."""
    layers = decoder_layers(model)
    numbers = trained = 0
    for layer in layers:
        for p in layer.parameters():
            numbers += p.numel()
            trained += p.numel() if p.requires_grad else 0
    two = 2 / len(layers) * (DTYPES[choice.trainer].itemsize * numbers + FLOAT * trained)
    return {GRADIENTS: FLOAT * sum(p.numel() for p in trained_parameters(model)) / choice.n_gpus, LAYERS: two}


def decoder_layers(model: LanguageModel) -> list[Any]:
    """The modules that are gathered one at a time; see `train.fsdp.engine.shard`."""
    names = set(getattr(model.module, "_no_split_modules", None) or ())
    return [part for part in model.module.modules() if type(part).__name__ in names]


def root_parameters(model: LanguageModel) -> list[Tensor]:
    """Those outside of layers, which stay whole while an update lasts."""
    inner = {p for layer in decoder_layers(model) for p in layer.parameters()}
    return [p for p in model.module.parameters() if p not in inner]


def trained_parameters(model: LanguageModel) -> list[Tensor]:
    """Those that have a gradient."""
    return [p for p in model.module.parameters() if p.requires_grad]


def n_bytes(tensors: Iterable[Tensor]) -> float:
    """What tensors take."""
    return float(sum(t.numel() * t.itemsize for t in tensors))
