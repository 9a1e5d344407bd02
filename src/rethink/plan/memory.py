"""The peak memory of a GPU in training and in sampling.

The real trainer and parts of the real sampler run on tensors without memory (device "meta"). Formulas add what cannot run
that way: the optimizer's averages, what several GPUs shard and gather, and the attention scores of a decoding step.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from rethink.models import lora
from rethink.models.forward import Weights
from rethink.models.forward.embedding import decoder_layers, put_tower, tower_parameters, trained_tower
from rethink.models.language_model import DTYPES, LanguageModel
from rethink.objectives import Update
from rethink.plan.decoding import decode
from rethink.plan.memory_tracker import GRADIENTS, Tracker, Window, largest_window, on_meta_device, with_labels
from rethink.plan.meta_model import build_meta_model
from rethink.plan.token_counts import SampleRequest
from rethink.policies.local.kv_cache import bytes_per_token
from rethink.settings import Training
from rethink.training.losses import loss_of
from rethink.training.optimizer import embedding_weights
from rethink.training.trainer import GPU_TOKENS, Trainer

GIB = 2**30
FLOAT = 4
PERIOD = 4
"""The number of layers after which a pattern of different layers repeats."""

WEIGHTS = "weights"
OPTIMIZER = "optimizer"
SAMPLER = "sampler's working copy"
UNSHARDED = "sampler's weights, unsharded"
FROZEN = "frozen models"
REFERENCE = "reference model, sharded"
ROOT = "gathered embedding and head"
LAYERS = "gathered layers"


@dataclass(frozen=True)
class Peak:
    """The memory of each GPU when it is fullest: bytes by item. `name` says what was running."""

    name: str
    items: dict[str, float]

    @property
    def n_bytes(self) -> float:
        return sum(self.items.values())


@dataclass(frozen=True)
class FrozenModels:
    """Frozen models next to the policy.

    compared         a part compares with the start weights; several GPUs shard them
    start_samples    the start weights sample; each GPU holds them
    moves            the start weights are replaced by a reference that follows the policy, always separate and in float32
    teacher_samples  another teacher samples; it is assumed to have the same size
    """

    compared: bool = False
    start_samples: bool = False
    teacher_samples: bool = False
    moves: bool = False


@dataclass(frozen=True)
class MemorySettings:
    """The settings that memory depends on.

    `rank` is the rank of LoRA adapters, 0 for full fine-tuning; `vision` says what is trained of a vision tower. `base` is
    the dtype of the weights; `trainer` and `sampler` are the dtypes of matrix products, `head` that of the output layer's.
    With vLLM, `vllm_bytes` is what it takes of a GPU that it shares with the trainer, 0 on separate servers; None is our
    own sampler.
    """

    n_gpus: int = 1
    micro_batch_tokens: int = GPU_TOKENS
    chunk_tokens: int = Training.chunk_tokens
    checkpointing: bool = False
    optimizer: str = "adamw"
    rank: int = 0
    vision: str = "frozen"
    cache_bytes: int = GIB
    base: str = "float32"
    trainer: str = "bfloat16"
    sampler: str = "bfloat16"
    head: str = "auto"
    vllm_bytes: float | None = None
    frozen: FrozenModels = FrozenModels()


def training_window(config: Any, settings: MemorySettings, update: Update) -> Window:
    """Return the largest window of an optimizer step."""
    return _with_all_layers(config, lambda few: _train(few, settings, update))


def sampling_window(config: Any, settings: MemorySettings, request: SampleRequest) -> Window:
    """Return the largest window of a request, in prefill or decoding; the trainer's gradients and copies are freed."""
    cache_tokens = settings.cache_bytes // bytes_per_token(build_meta_model(config), DTYPES[settings.sampler])
    return _with_all_layers(config, lambda few: _sample(few, settings, request, cache_tokens))


def _with_all_layers(config: Any, run: Callable[[Any], list[Window]]) -> Window:
    """Return the largest window of a run with all layers, from two fast runs with few layers."""
    text = config.get_text_config()
    n_layers = int(text.num_hidden_layers)
    kinds = getattr(text, "layer_types", None) or []
    few = 2 if len(set(kinds)) < 2 else PERIOD
    if n_layers <= 2 * few or n_layers % few:
        windows = run(config)
        return largest_window(windows, windows, 1.0)
    return largest_window(run(_with_layers(config, few)), run(_with_layers(config, 2 * few)), n_layers / few - 1)


def _with_layers(config: Any, n: int) -> Any:
    changed = copy.deepcopy(config)
    text = changed.get_text_config()
    text.num_hidden_layers = n
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[:n]
    return changed


def _train(config: Any, settings: MemorySettings, update: Update) -> list[Window]:
    sharded = settings.n_gpus > 1
    dtype = DTYPES[settings.trainer]
    model = build_meta_model(config, settings.base, settings.rank, settings.head, settings.vision)
    # Formulas count the weights, and the gradients of sharded layers.
    tracker = Tracker(ignored={WEIGHTS, GRADIENTS} if sharded else {WEIGHTS})
    if sharded:
        _gather(model, dtype, tracker)
        tracker.add(root_parameters(model), ROOT)
    tracker.add(model.module.parameters(), WEIGHTS)
    training = Training(
        micro_batch_tokens=settings.micro_batch_tokens,
        chunk_tokens=settings.chunk_tokens,
        autocast="bfloat16" if dtype == torch.bfloat16 else "none",
        gradient_checkpointing=settings.checkpointing,
    )
    with on_meta_device(tracker, model, dtype):
        tracker.label = GRADIENTS
        # The prompts of a plan have no images, so the trainer makes no gradients of a tower.
        tower_gradients = [torch.empty_like(p) for p in trained_tower(model.module)]
        tracker.label = FROZEN
        start = _start(tracker, config, settings, model)
        sampling_models = _sampling_models(tracker, config, settings, start)

        def load_initial() -> LanguageModel:
            found = _gathered_reference(tracker, config, settings, model, update) if sharded else start
            assert found is not None
            return found

        trainer = Trainer(with_labels(model, tracker), training, 1, load_initial)
        if settings.frozen.compared:
            assert trainer.reference_weights is not None  # made under this label
        trainer.apply(update)
    del sampling_models, tower_gradients
    return tracker.windows


def _sample(config: Any, settings: MemorySettings, request: SampleRequest, cache_tokens: int) -> list[Window]:
    dtype = DTYPES[settings.sampler]
    model = build_meta_model(config, settings.base, settings.rank, settings.head)
    sampled = model if settings.n_gpus == 1 else _unsharded_copy(config, settings)
    tracker = Tracker(ignored={WEIGHTS})
    tracker.add(model.module.parameters(), WEIGHTS)
    tracker.add(sampled.module.parameters(), WEIGHTS)
    with on_meta_device(tracker, sampled):
        tracker.label = FROZEN
        start = _start(tracker, config, settings, model)
        kept = _sampling_models(tracker, config, settings, start)
        if start is not None and settings.frozen.compared and settings.n_gpus == 1:
            kept.append(start.weights(DTYPES[settings.trainer]))
        tracker.label = SAMPLER
        weights = sampled.weights(dtype)
        with torch.inference_mode():
            decode(tracker, weights, cache_tokens, request, settings.n_gpus, int(sampled.config.num_attention_heads))
    del kept
    return tracker.windows


def _start(tracker: Tracker, config: Any, settings: MemorySettings, model: LanguageModel) -> LanguageModel | None:
    """Return the whole start weights, if this GPU needs them: on one GPU the base under the adapters, if there are any;
    otherwise separate weights, but for a frozen vision tower."""
    frozen = settings.frozen
    if not frozen.start_samples and (settings.n_gpus > 1 or not frozen.compared):
        return None
    if model.base is not None and settings.n_gpus == 1 and not frozen.moves:
        return model.base
    start = build_meta_model(config, "float32" if frozen.moves else settings.base, head_dtype=settings.head)
    if settings.vision == "frozen":
        put_tower(start.module, tower_parameters(model.module))
    tracker.add(start.module.parameters(), FROZEN)
    return start


class _Gathered(LanguageModel):
    """A frozen model that several GPUs run: its modules, without a working copy."""

    def weights(self, *args: Any, **kwargs: Any) -> Weights:
        return super().weights(*args, trainable=True)


def _gathered_reference(
    tracker: Tracker, config: Any, settings: MemorySettings, model: LanguageModel, update: Update
) -> LanguageModel:
    """Return what one of several GPUs gathers to compare with: the base under the adapters, if there are any, else separate
    weights. Formulas count the shards. Layers, embedding and head take no more than those in training, which are gathered
    at other times, unless a loss reads both heads at once."""
    base = model.base
    if base is None or settings.frozen.moves:
        tracker.label = WEIGHTS
        base = build_meta_model(config, settings.base, head_dtype=settings.head)
        base.module.requires_grad_(False)
        put_tower(base.module, tower_parameters(model.module))
        _gather(base, DTYPES[settings.trainer], tracker)
        tracker.label = FROZEN
        if any(part.needs_reference and not loss_of(part).reference_log_probs for part in update.parts):
            for p in root_parameters(base):
                tracker.relabel(p, ROOT)
    return _Gathered(**{f.name: getattr(base, f.name) for f in fields(base)} | {"fused": False})


def _sampling_models(tracker: Tracker, config: Any, settings: MemorySettings, start: LanguageModel | None) -> list[Any]:
    """Return what frozen models need to sample."""
    dtype = DTYPES[settings.sampler]
    kept: list[Any] = []
    if settings.frozen.start_samples and start is not None:
        kept.append(start.weights(dtype))
    if settings.frozen.teacher_samples:
        other = build_meta_model(config)
        tracker.add(other.module.parameters(), FROZEN)
        kept += [other, other.weights(dtype, layers="taken")]
    return kept


def _unsharded_copy(config: Any, settings: MemorySettings) -> LanguageModel:
    """Return the unsharded weights that each of several GPUs samples from."""
    from rethink.training.fsdp.shard_model import empty_replica  # imported here: it takes half a second

    model = build_meta_model(config, settings.base, head_dtype=settings.head)
    return empty_replica(model, torch.device("meta"), DTYPES[settings.sampler])


def _gather(model: LanguageModel, dtype: torch.dtype, tracker: Tracker) -> None:
    """Change the model to what one of several GPUs runs: modules, with layers in this dtype and the rest in float32."""
    model.fused = False
    for layer in decoder_layers(model.module):
        for p in layer.parameters():
            p.data = p.data.to(dtype)
            if p.requires_grad:
                p.grad_dtype = None  # gradients are summed in float32
                p.register_hook(lambda gradient: tracker.relabel(gradient, GRADIENTS))
    for p in root_parameters(model):
        p.data = p.data.float()


# Formulas


class FullModel:
    """The model with all layers, and the memory that it always takes on each GPU."""

    def __init__(self, config: Any, settings: MemorySettings) -> None:
        self.model = build_meta_model(config, settings.base, settings.rank, settings.head, settings.vision)
        self._config = config
        self._settings = settings

    @cached_property
    def sampler_bytes(self) -> float:
        """Bytes of the unsharded weights that a GPU samples from; the vision tower is shared with the trainer."""
        module = _unsharded_copy(self._config, self._settings).module
        return n_bytes(module.parameters()) - n_bytes(tower_parameters(module))

    def items(self, settings: MemorySettings, stage: str) -> dict[str, float]:
        """Return bytes by item, for settings with the same adapters."""
        found = kept_items(self.model, settings)
        if settings.n_gpus == 1:
            return found
        if settings.vllm_bytes is None:
            found[UNSHARDED] = self.sampler_bytes
        found |= reference_items(self.model, settings)
        return found | sharded_items(self.model, settings) if stage == "training" else found


def kept_items(model: LanguageModel, settings: MemorySettings) -> dict[str, float]:
    """Return the bytes of weights and the optimizer's two averages, sharded over all GPUs except for a vision tower.

    The averages take 8 bytes per trained number. With adamw8bit they take 2 bytes and two float32 scales per 256 numbers,
    except for embeddings.
    """
    exact = embedding_weights(model.module) if settings.optimizer == "adamw8bit" else []
    averages = 0.0
    for p in trained_parameters(model):
        eight_bits = settings.optimizer == "adamw8bit" and not any(p is other for other in exact)
        averages += 2 * p.numel() * (1 + FLOAT / 256 if eight_bits else FLOAT)
    tower = n_bytes(tower_parameters(model.module))
    return {
        WEIGHTS: (n_bytes(model.module.parameters()) - tower) / settings.n_gpus + tower,
        f"{OPTIMIZER}, {settings.optimizer}": averages / settings.n_gpus,
    }


def sharded_items(model: LanguageModel, settings: MemorySettings) -> dict[str, float]:
    """Return the bytes of sharded gradients (float32) and of the two layers that are gathered at a time.

    A gathered layer has all its weights in the trainer's dtype and the gradients of its trained weights in float32.
    """
    layers = decoder_layers(model.module)
    numbers = trained = 0
    for layer in layers:
        for p in layer.parameters():
            numbers += p.numel()
            trained += p.numel() if p.requires_grad else 0
    two = 2 / len(layers) * (DTYPES[settings.trainer].itemsize * numbers + FLOAT * trained)
    return {GRADIENTS: FLOAT * sum(p.numel() for p in trained_parameters(model)) / settings.n_gpus, LAYERS: two}


def reference_items(model: LanguageModel, settings: MemorySettings) -> dict[str, float]:
    """Return the bytes of a GPU's shard of the model to compare with, without its vision tower, which is the trainer's;
    nothing if that is the sharded base under adapters."""
    frozen = settings.frozen
    if not (frozen.compared or frozen.moves) or (settings.rank and not frozen.moves):
        return {}
    tower = set(tower_parameters(model.module))
    total = 0.0
    for _, p, _ in lora.base_parameters(model.module):
        if p not in tower:
            total += (FLOAT if frozen.moves else p.itemsize) * p.numel()
    return {REFERENCE: total / settings.n_gpus}


def root_parameters(model: LanguageModel) -> list[Tensor]:
    """Return the sharded parameters outside of layers, which stay gathered during an update."""
    others = {p for layer in decoder_layers(model.module) for p in layer.parameters()}
    others |= set(tower_parameters(model.module))
    return [p for p in model.module.parameters() if p not in others]


def trained_parameters(model: LanguageModel) -> list[Tensor]:
    """Return the parameters that require gradients."""
    return [p for p in model.module.parameters() if p.requires_grad]


def n_bytes(tensors: Iterable[Tensor]) -> float:
    """Return the bytes of all tensors."""
    return float(sum(t.numel() * t.itemsize for t in tensors))
