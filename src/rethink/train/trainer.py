"""Apply an update: denominators first, then micro-batches, then optimizer steps. Knows parts, but no method."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from threading import Lock

import torch
from torch import Tensor

from rethink.models.forward import Weights
from rethink.models.language_model import LanguageModel
from rethink.objectives import Imitate, Part, PolicyGradient, Prefer, Shaped, Update
from rethink.settings import Training
from rethink.train.engine import Engine, LocalEngine, Piece, Score, score
from rethink.train.loss import clipped, kl_to_initial, preference, shaped
from rethink.train.micro_batch import MicroBatch, Row, lay_out, pack
from rethink.train.monitor import Monitor
from rethink.train.optimizer import embeddings, open_optimizer, set_lr, take_step
from rethink.train.parts import needs_gradient, pair_rows, rows_of, split
from rethink.types import Sample

GPU_TOKENS = 16384
CPU_NUMBERS = 500_000
"""Sizes of micro-batches where the recipe leaves them open: a GPU wants to be filled; on a CPU tokens times hidden size are
bounded, so that what one core works on stays in its cache, and the fixed cost of a micro-batch stays small beside it."""


class Trainer:
    """Holds the trained weights and the optimizer. `load_initial` gives the frozen start model, once a part asks; `engine`
    is where it computes, by default this process."""

    def __init__(
        self,
        model: LanguageModel,
        settings: Training,
        n_updates: int,
        load_initial: Callable[[], LanguageModel],
        engine: Engine | None = None,
    ) -> None:
        self.engine = engine or LocalEngine(model, settings)
        self.model = model
        self.settings = settings
        self.dtype = self.engine.dtype
        self.n_planned_updates = n_updates
        self.version = 0
        self.n_optimizer_steps = 0
        self._load_initial = load_initial
        self._initial: LanguageModel | None = None
        self._lock = Lock()
        self.parameters = self.engine.parameters
        self.optimizer = open_optimizer(self.parameters, settings, exact=embeddings(model.module))

    def apply(self, update: Update, lag: int = 0) -> dict[str, float]:
        """Train on one update; the weights are then one version on. Returns its monitors.

        The samples of an on-policy update are `lag` updates older than the weights, as the driver knows: ratios are then
        taken to log-probs of that version (or, recomputed, the truncated importance ratio corrects); parts without a ratio
        are trained as they are. Sampler and trainer can only be compared without a lag; with one, the same numbers, under
        "lag/", say how far the policy has moved.

        Raises ValueError for samples of any other version in an on-policy update, FloatingPointError when loss or
        gradient are not finite (that optimizer step is not taken; earlier ones of the update are).
        """
        self._check_versions(update, lag)
        monitor = Monitor()
        old = self._recomputed(update)
        monitor.last["lr"] = self._set_lr()
        steps = zip(*(split(part, update.n_steps) for part in update.parts), strict=True)
        n_before = self.n_optimizer_steps
        compare = "" if not update.on_policy else "lag" if lag else "mismatch"
        for parts in steps:
            self._optimizer_step(parts, old, monitor, compare if self.n_optimizer_steps == n_before else "")
        self.version += 1
        return monitor.numbers()

    def log_probs(self, samples: Sequence[Sample]) -> list[Tensor]:
        """Log-probs [T] of each sample's chosen tokens under the present weights."""
        batches = self._pack([Row(s) for s in samples])
        if not batches:
            return [torch.empty(0)] * len(samples)
        found = {
            id(row.sample): piece
            for rows, pieces in zip(batches, self.engine.log_probs(batches), strict=True)
            for row, piece in zip(rows, pieces, strict=True)
        }
        return [found.get(id(s), torch.empty(0)) for s in samples]

    @property
    def initial(self) -> LanguageModel:
        """The frozen start model."""
        with self._lock:  # a method may ask for it while an update with a KL term is trained
            if self._initial is None:
                initial = self._load_initial()
                initial.module.requires_grad_(False)
                self._initial_weights = initial.weights(self.dtype)
                self._initial = initial
            return self._initial

    @property
    def initial_weights(self) -> Weights:
        """The frozen start model's."""
        assert self.initial
        return self._initial_weights

    def _check_versions(self, update: Update, lag: int) -> None:
        for part in update.parts if update.on_policy else ():
            stale = {s.version for s in part.samples} - {self.version - lag}
            if stale:
                now = f"{self.version} with a lag of {lag}" if lag else f"{self.version}"
                raise ValueError(
                    f"update {update.name!r} has samples of version {sorted(stale)} for a policy of version {now}; "
                    "sample after the last yield, or declare the update on_policy=False"
                )

    def _recomputed(self, update: Update) -> dict[int, tuple[float, ...]]:
        """The trainer's own log-probs, by id(sample), as long as the reply: of all samples where the settings say so, else
        of those with forced tokens, and of these alone."""
        always = self.settings.old_log_probs == "recomputed"
        samples = [
            s
            for part in update.parts
            if isinstance(part, PolicyGradient)
            for s, w in zip(part.samples, part.advantages, strict=True)
            if needs_gradient(part, w) and (always or any(s.forced))
        ]
        found = {}
        for sample, log_probs_T in zip(samples, self.log_probs(samples), strict=True):
            new = iter(log_probs_T.tolist())
            forced = sample.forced or (False,) * len(sample.ids)
            own = [next(new) if counts else lp for lp, counts in zip(sample.log_probs, sample.mask, strict=True)]
            triples = zip(own, sample.log_probs, forced, strict=True)
            found[id(sample)] = tuple(new if always or by_others else lp for new, lp, by_others in triples)
        return found

    def _set_lr(self) -> float:
        warm = min(1.0, (self.version + 1) / (self.settings.n_warmup_updates + 1))
        done = min(1.0, self.version / self.n_planned_updates)
        falls = {"constant": 1.0, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}
        lr = self.settings.lr * warm * falls[self.settings.schedule]
        set_lr(self.optimizer, lr)
        return lr

    def _optimizer_step(
        self, parts: Sequence[Part], old: dict[int, tuple[float, ...]], monitor: Monitor, compare: str
    ) -> None:
        """One step over the parts' shares. Without any gradient (only silent groups, say) the weights stay put."""
        self.optimizer.zero_grad()
        pieces = [piece for part in parts for piece in self._pieces(part, old, compare)]
        if not pieces:
            monitor.mean("loss", torch.zeros(1))
            return
        total = self.engine.backward(pieces, monitor)
        norm = self.engine.clip(self.settings.max_grad_norm)
        if not math.isfinite(total) or not math.isfinite(norm):
            raise FloatingPointError(f"the loss is {total} and the gradient's norm {norm}")
        take_step(self.optimizer)
        self.n_optimizer_steps += 1
        monitor.mean("loss", torch.tensor([total]))
        monitor.mean("grad_norm", torch.tensor([norm]))

    def _pieces(self, part: Part, old: dict[int, tuple[float, ...]], compare: str) -> list[Piece]:
        """The part in micro-batches.

        With `compare` the first optimizer step is still to come; "mismatch" means that sampler and trainer have the same
        weights: any difference of their log-probs is then a fault.
        """
        if isinstance(part, Prefer):
            pieces: list[Piece] = [partial(self._prefer, part, pairs) for pairs in self._pairs(part)]
        else:
            pieces = [partial(self._loss, part, rows, compare) for rows in self._pack(rows_of(part, old))]
        if pieces and (isinstance(part, Prefer) or (isinstance(part, PolicyGradient) and part.kl)):
            assert self.initial  # loaded here, not by several threads at once
        return pieces

    def _loss(
        self, part: PolicyGradient | Imitate, rows: Sequence[Row], compare: str, score: Score, monitor: Monitor
    ) -> Tensor:
        micro = lay_out(rows, self.model.device)
        log_probs_T = score(micro)
        if isinstance(part, PolicyGradient) and compare:
            monitor.mismatch(log_probs_T.detach(), micro.sampler_T, compare)
        return (self._token_loss(part, micro, log_probs_T, monitor) * micro.scale_T).sum()

    def _token_loss(
        self, part: PolicyGradient | Imitate, micro: MicroBatch, log_probs_T: Tensor, monitor: Monitor
    ) -> Tensor:
        if isinstance(part, Imitate):
            monitor.mean("nll_nats", -log_probs_T.detach())
            return -micro.weight_T * log_probs_T
        if isinstance(part.surrogate, Shaped):
            s = shaped(log_probs_T, micro.old_T, micro.weight_T, micro.forced_T, part.surrogate)
        else:
            s = clipped(log_probs_T, micro.old_T, micro.weight_T, part.surrogate)
        monitor.surrogate(s)
        loss_T = s.loss_T * (micro.old_T - micro.sampler_T).exp().clamp(max=self.settings.truncate)
        if not part.kl:
            return loss_T
        initial_T = self._initial_log_probs(micro)
        kl_T = kl_to_initial(log_probs_T, initial_T)
        monitor.mean("kl_to_initial_nats", kl_T.detach())
        return loss_T + part.kl * kl_T

    def _pairs(self, part: Prefer) -> list[list[tuple[Row, Row]]]:
        """Pairs by token budget: a pair is never split."""
        batches: list[list[tuple[Row, Row]]] = []
        used = 0
        for pair in pair_rows(part):
            size = sum(len(r.sample.prompt_ids) + len(r.sample.ids) for r in pair)
            if not batches or used + size > self._micro_batch_tokens:
                batches.append([])
                used = 0
            batches[-1].append(pair)
            used += size
        return batches

    def _prefer(self, part: Prefer, pairs: Sequence[tuple[Row, Row]], score: Score, monitor: Monitor) -> Tensor:
        flat = [row for pair in pairs for row in pair]
        micro = lay_out([row for row in flat if row.sample.n_trained], self.model.device)
        log_probs_T = score(micro)
        initial_T = self._initial_log_probs(micro)
        pieces = (log_probs_T - initial_T).split([row.sample.n_trained for row in micro.rows])
        sums = {id(row): log_probs_T.new_zeros(()) for row in flat}  # stays 0 for a reply without chosen tokens
        sums |= {id(row): piece.sum() for row, piece in zip(micro.rows, pieces, strict=True)}
        chosen, rejected = (torch.stack([sums[id(pair[side])] for pair in pairs]) for side in (0, 1))
        return preference(chosen, rejected, part.beta).sum() * flat[0].scale

    def _pack(self, rows: Sequence[Row]) -> list[list[Row]]:
        return pack(rows, self._micro_batch_tokens, self.engine.n_shares(len(rows)))

    @property
    def _micro_batch_tokens(self) -> int:
        if self.settings.micro_batch_tokens:
            return self.settings.micro_batch_tokens
        if self.model.device.type != "cpu":
            return GPU_TOKENS
        return max(512, CPU_NUMBERS // int(self.model.width))

    @torch.no_grad()
    def _initial_log_probs(self, micro: MicroBatch) -> Tensor:
        """Log-probs [T] of the micro-batch's trained tokens under the start model."""
        return score(self.initial_weights, self.settings.chunk_tokens, micro)
