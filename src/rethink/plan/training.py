"""The moments of an optimizer step: activations first, gradients later.

What is kept for the backward pass is counted operation by operation, from the code in `forward/`, `train/loss.py` and, for
modules, Llama's layers in `transformers`. F tokens go through the model, T of them are trained; H, Q, K, I and V are the
sizes of hidden states, queries, keys, mlp and vocabulary, s and a bytes per number in matrices and in attention.
"""

from __future__ import annotations

from collections.abc import Sequence

from rethink.plan.memory import (
    FLOAT,
    Item,
    Moment,
    Setup,
    frozen,
    gathered,
    gradients,
    optimizer,
    sampler_copy,
    trainer_copy,
    weights,
)
from rethink.plan.shape import Batch


def layer_activations(setup: Setup, batch: Batch) -> float:
    """What one layer keeps for the backward pass, masks apart; of adapters seven products with A, s r bytes per token."""
    linear = fused_activations(setup) if setup.fused else module_activations(setup)
    return (linear + 7 * setup.matrix * setup.rank) * batch.flat + attention_activations(setup, batch)


def fused_activations(setup: Setup) -> float:
    """Bytes per token: two normalized states with their scales, 2 (4 H + 4), again in the matrices' dtype if that is
    another (2 s H); normalized queries and keys, 4 (Q + K), if the model has that; attention's output, s Q; gate, up and
    their product, 3 s I."""
    shape, s = setup.shape, setup.matrix
    states = 2 * FLOAT * (shape.hidden + 1) + (2 * s * shape.hidden if s < FLOAT else 0)
    heads = FLOAT * (shape.n_queries + shape.n_keys + shape.n_heads + shape.n_kv_heads) if shape.qk_norm else 0
    return states + heads + s * shape.n_queries + 3 * s * shape.intermediate


def module_activations(setup: Setup) -> float:
    """Bytes per token: of two norms input and normalized state, 16 H (8 H where their weights are frozen), and what the
    five products behind them read: 8 H, or under autocast a copy each, 10 H; queries and keys before and after their norm,
    (4 + s) (Q + K); attention's output, s Q; gate, its activation, up and their product, 4 s I."""
    shape, s = setup.shape, setup.matrix
    states = ((8 if setup.rank else 16) + (8 if s == FLOAT else 10)) * shape.hidden
    heads = (FLOAT + s) * (shape.n_queries + shape.n_keys) if shape.qk_norm else 0
    return states + heads + s * shape.n_queries + 4 * s * shape.intermediate


def attention_activations(setup: Setup, batch: Batch) -> float:
    """Queries and outputs, 2 a Q and 4 bytes per head for each padded query; keys and values, 2 a K for each padded key."""
    shape, a = setup.shape, setup.attention
    per_query = 2 * a * shape.n_queries + FLOAT * shape.n_heads
    return per_query * batch.queries + 2 * a * shape.n_keys * batch.keys


def cast_weights(setup: Setup) -> float:
    """Under autocast modules keep a copy of each layer's matrices in the trainer's dtype for the backward pass; sharded
    weights are gathered again instead."""
    if setup.fused or setup.matrix == FLOAT or setup.n_gpus > 1:
        return 0
    return setup.matrix * setup.shape.n_body


def masks(setup: Setup, batch: Batch) -> float:
    """One number for each query and key of the replies' rows, the same for all layers; on a GPU each layer is taken to keep
    its own, as the kernel wants it aligned."""
    return batch.mask * setup.attention * (1 if setup.shared_masks else setup.shape.n_layers)


def activations(setup: Setup, batch: Batch) -> float:
    """What the forward pass keeps of the layers: all of each, or its input alone, 4 F H."""
    shape = setup.shape
    if setup.recompute:
        return masks(setup, batch) + shape.n_layers * FLOAT * shape.hidden * batch.flat
    return masks(setup, batch) + shape.n_layers * layer_activations(setup, batch) + cast_weights(setup)


def final_states(setup: Setup, batch: Batch) -> float:
    """Behind the layers: the last norm's input or output, 4 F H, for modules both; the trained tokens' states, 4 T H."""
    return FLOAT * setup.shape.hidden * (batch.flat * (1 if setup.fused else 2) + batch.trained)


def layer_backward(setup: Setup, batch: Batch) -> float:
    """Working memory of the last layer's backward pass, beside what is kept and not yet freed: 4 s I + 4 H bytes per token
    of a fused mlp, 2 s I + 8 H of the modules' one; with recomputed activations also those of the layer."""
    shape, s = setup.shape, setup.matrix
    fused, modules = 4 * s * shape.intermediate + 4 * shape.hidden, 2 * s * shape.intermediate + 8 * shape.hidden
    work = batch.flat * (fused if setup.fused else modules)
    return work + (layer_activations(setup, batch) if setup.recompute else 0)


def logits(setup: Setup, batch: Batch) -> float:
    """A chunk's logits and their softmax in float32, 8 V bytes for each of its tokens; the trained states' gradient."""
    chunk = min(setup.chunk_tokens, batch.trained)
    return 2 * FLOAT * chunk * setup.shape.vocabulary + FLOAT * batch.trained * setup.shape.hidden


def head_gradient(setup: Setup) -> float:
    """4 V H while the head is trained; beside adapters it is not."""
    return 0 if setup.rank else FLOAT * setup.shape.n_embedding


def training_moments(setup: Setup, batch: Batch, n_batches: int = 2) -> Sequence[Moment]:
    """The backward pass at the head and at the last layer, its end, and gradients on their way to the parameters. With more
    than one micro-batch, gradients of earlier ones are there meanwhile."""
    base = (weights(setup), optimizer(setup), *frozen(setup), *_replica(setup), *trainer_copy(setup), *gathered(setup))
    kept = Item("activations", activations(setup, batch))
    summed = (_summed(setup),) if n_batches > 1 else ()
    head = () if setup.n_gpus > 1 or setup.rank else (Item("gradient of the head", head_gradient(setup)),)
    ends = Item("final states", final_states(setup, batch))
    chunk = Item("logits of a chunk", logits(setup, batch))
    layer = Item("backward pass of a layer", layer_backward(setup, batch))
    moments = [
        Moment("training", "at the head", (*base, *summed, kept, ends, *head, chunk)),
        Moment("training", "at the last layer", (*base, *summed, kept, *head, layer)),
        Moment("training", "at the end of a micro-batch", (*base, *summed, *_new_gradients(setup))),
    ]
    if setup.fused:
        moments.append(Moment("training", "when gradients reach the parameters", _handing_over(setup)))
    return moments


def _replica(setup: Setup) -> Sequence[Item]:
    """On one GPU the sampler's copy is dropped while training goes on."""
    return (sampler_copy(setup),) if setup.n_gpus > 1 else ()


def _summed(setup: Setup) -> Item:
    """Gradients so far: of fused weights, or of the parameters themselves, in float32."""
    return Item("gradients", FLOAT * setup.n_trained / setup.n_gpus)


def _new_gradients(setup: Setup) -> Sequence[Item]:
    """Of the last micro-batch, in the dtype of the weights; an embedding that is also the head has two for a moment."""
    shape = setup.shape
    if setup.n_gpus > 1 or setup.rank:
        return (Item("gradients of a micro-batch", FLOAT * setup.n_trained / setup.n_gpus),)
    own = setup.matrix if setup.fused else FLOAT
    matrices = shape.n_joined + shape.n_plain
    ends = FLOAT * (shape.n_parameters - matrices + (shape.n_embedding if shape.tied else 0))
    return (Item("gradients of a micro-batch", own * matrices + ends),)


def _handing_over(setup: Setup) -> tuple[Item, ...]:
    """Gradients of fused weights, in bfloat16 again where these are, beside those of the parameters. The way back has then
    been gone."""
    shape = setup.shape
    copy = trainer_copy(setup)[:1]
    again = setup.matrix * (shape.n_joined + shape.n_plain) if setup.matrix < FLOAT else 0
    fused = Item("gradients of the copy", FLOAT * setup.n_trained + (0 if setup.rank else again))
    return (weights(setup), optimizer(setup), *frozen(setup), *copy, fused, gradients(setup))
