"""The trainer applies updates: denominators first, then micro-batches, then optimizer steps. It knows no methods."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from threading import Lock

import torch
from torch import Tensor

from rethink.models.forward import Weights
from rethink.models.language_model import LanguageModel
from rethink.models.open_vision import share_tower
from rethink.objectives import Part, PolicyGradient, Update, split_into_steps
from rethink.settings import Training
from rethink.training.engine import Engine, LocalEngine, Pack
from rethink.training.losses import LossSettings, loss_of
from rethink.training.losses.policy_gradient import missing_old_log_probs, with_old_log_probs
from rethink.training.lr_schedule import learning_rate
from rethink.training.metrics import Statistics
from rethink.training.micro_batch import TrainingSample, pack
from rethink.training.optimizer import embedding_weights, open_optimizer, set_lr, take_step
from rethink.training.reference import MovingReference
from rethink.types import Sample

GPU_TOKENS = 16384
CPU_NUMBERS = 500_000
"""Default sizes of micro-batches: tokens on a GPU, to fill it; tokens times hidden size on a CPU, to fit a core's cache
while the fixed cost of a micro-batch stays small."""


class Trainer:
    """Holds the trained weights and the optimizer. `load_initial` loads the frozen start model, whole, on first use; it
    shares a frozen vision tower with `model`. `reference` follows the trained weights, if the settings say so; `engine`
    computes losses and gradients, by default in this process."""

    def __init__(
        self,
        model: LanguageModel,
        settings: Training,
        n_updates: int,
        load_initial: Callable[[], LanguageModel],
        engine: Engine | None = None,
    ) -> None:

        def load_start() -> LanguageModel:
            return share_tower(load_initial(), model)

        self.engine = engine or LocalEngine(model, settings, lambda: self.initial, load_start)
        self.model = model
        self.settings = settings
        self.dtype = self.engine.dtype
        self.n_planned_updates = n_updates
        self.version = 0
        self.n_optimizer_steps = 0
        self.before_step: Callable[[], object] = lambda: None  # called before the weights change
        self._load_initial = load_start
        self._initial: LanguageModel | None = None
        self._lock = Lock()
        self._start_weights: Weights | None = None
        open_copy = partial(self.engine.start_model, in_float32=True)
        self.reference = MovingReference(open_copy, load_start, self.dtype, settings)
        self.parameters = self.engine.parameters
        self.optimizer = open_optimizer(self.parameters, settings, exact=embedding_weights(model.module))

    def apply(self, update: Update, lag: int = 0) -> dict[str, float]:
        """Train on one update, which increments `version`. Return its metrics.

        The samples of an on-policy update must be exactly `lag` updates older than the weights. Ratios are then relative to
        that version (or, with recomputed log-probs, importance weights correct); parts without ratios are trained
        unchanged. Without a lag, metrics under "mismatch/" compare the sampler's log-probs with the trainer's; with a lag,
        the same metrics under "lag/" show how far the policy has moved.

        Raise ValueError for samples of any other version in an on-policy update, and FloatingPointError if loss or gradient
        are not finite. That optimizer step is not taken; earlier ones of the update are.
        """
        self._check_versions(update, lag)
        parts = self._with_old_log_probs(update.parts)
        statistics = Statistics()
        lr = learning_rate(self.settings, self.version, self.n_planned_updates)
        set_lr(self.optimizer, lr)
        statistics.last["lr"] = lr
        steps = zip(*(split_into_steps(part, update.n_steps) for part in parts), strict=True)
        n_before = self.n_optimizer_steps
        comparison = "" if not update.on_policy else "lag" if lag else "mismatch"
        for parts_of_step in steps:
            if self.n_optimizer_steps > n_before:
                comparison = ""  # the weights are no longer the sampler's
            packs = self._pack_parts(parts_of_step)
            self._optimizer_step(packs, self._loss_settings(comparison), statistics)
        self.version += 1
        if self.reference.is_due(self.version):
            self._start_weights = None  # no part compares with the start model any more
            self.reference.move(self.engine.named_weights())
            with self._lock:
                self._initial = None
        return statistics.metrics()

    def log_probs(self, samples: Sequence[Sample]) -> list[Tensor]:
        """Return the log-probs [T] of each sample's trained tokens under the current weights, in nats."""
        found = [torch.empty(0)] * len(samples)
        batches = self._pack([TrainingSample(sample, position=i) for i, sample in enumerate(samples)])
        if not batches:
            return found
        for batch, log_probs in zip(batches, self.engine.log_probs(batches), strict=True):
            for item, log_probs_T in zip(batch, log_probs, strict=True):
                found[item.position] = log_probs_T
        return found

    @property
    def initial(self) -> LanguageModel:
        """The frozen start model, whole: for a method that samples from it or scores with it and, in one process, for
        losses that compare with it."""
        with self._lock:  # a method may use it while an update with a KL term trains
            if self._initial is None:
                initial = self._load_initial()
                initial.module.requires_grad_(False)
                self._initial = initial
            return self._initial

    @property
    def reference_weights(self) -> Weights:
        """The weights that a part compares with: those of the reference once it has moved, else of the start model."""
        if self.reference.weights is not None:
            return self.reference.weights
        if self._start_weights is None:
            start = self.reference.opened() if self.settings.reference_every else self.engine.start_model()
            self._start_weights = start.weights()
        return self._start_weights

    def _check_versions(self, update: Update, lag: int) -> None:
        for part in update.parts if update.on_policy else ():
            stale = {s.version for s in part.samples} - {self.version - lag}
            if stale:
                now = f"{self.version} with a lag of {lag}" if lag else f"{self.version}"
                raise ValueError(
                    f"update {update.name!r} has samples of version {sorted(stale)} for a policy of version {now}; "
                    "sample after the last yield, or set on_policy=False in the update"
                )

    def _with_old_log_probs(self, parts: Sequence[Part]) -> list[Part]:
        """Compute old log-probs before the first step: of all samples if the settings say so, else of forced tokens."""
        recompute = self.settings.old_log_probs == "recomputed"
        lacking: list[tuple[int, int]] = []  # part and sample
        computed: list[dict[int, Tensor]] = []  # of each part, by sample
        for p, part in enumerate(parts):
            computed.append({})
            if isinstance(part, PolicyGradient):
                lacking += [(p, i) for i in missing_old_log_probs(part, recompute)]
        samples = [parts[p].samples[i] for p, i in lacking]
        for (p, i), log_probs_T in zip(lacking, self.log_probs(samples), strict=True):
            computed[p][i] = log_probs_T
        found = list(parts)
        for p, part in enumerate(parts):
            if isinstance(part, PolicyGradient) and computed[p]:
                found[p] = with_old_log_probs(part, computed[p], recompute)
        return found

    def _loss_settings(self, comparison: str) -> LossSettings:
        """Return the settings of the losses. Without recomputed log-probs, there are no importance weights."""
        settings = self.settings
        return LossSettings(
            settings.importance_sampling_mode if settings.old_log_probs == "recomputed" else "none",
            settings.importance_sampling_clip_max,
            settings.importance_sampling_clip_min,
            comparison,
        )

    def _pack_parts(self, parts: Sequence[Part]) -> list[Pack]:
        """Return the micro-batches of one optimizer step."""
        found: list[Pack] = []
        for part in parts:
            loss = loss_of(part)
            samples = loss.samples(part)
            n_shares = self.engine.n_shares(len(samples))
            for packed in loss.pack(samples, self._micro_batch_tokens, n_shares, not self.model.plain):
                found.append(Pack(part, packed))
        return found

    def _optimizer_step(self, packs: Sequence[Pack], settings: LossSettings, statistics: Statistics) -> None:
        """Take one optimizer step. If nothing has a gradient (all groups are zero-std, for example), nothing changes."""
        self.optimizer.zero_grad()
        if not packs:
            statistics.mean("loss", torch.zeros(1))
            return
        reference = self.reference_weights if any(pack.part.needs_reference for pack in packs) else None
        loss, found = self.engine.backward(packs, settings, reference)
        norm = self.engine.clip(self.settings.max_grad_norm)
        if not math.isfinite(loss) or not math.isfinite(norm):
            raise FloatingPointError(f"the loss is {loss} and the gradient's norm {norm}")
        self.before_step()
        take_step(self.optimizer)
        self.model.weights_changed()
        self.n_optimizer_steps += 1
        statistics.add(found)
        statistics.mean("loss", torch.tensor([loss]))
        statistics.mean("grad_norm", torch.tensor([norm]))

    def _pack(self, samples: Sequence[TrainingSample]) -> list[list[TrainingSample]]:
        n_shares = self.engine.n_shares(len(samples))
        return pack(samples, self._micro_batch_tokens, n_shares, not self.model.plain)

    @property
    def _micro_batch_tokens(self) -> int:
        if self.settings.micro_batch_tokens:
            return self.settings.micro_batch_tokens
        if self.model.device.type != "cpu":
            return GPU_TOKENS
        return max(512, CPU_NUMBERS // int(self.model.hidden_size))
