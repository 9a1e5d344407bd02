"""Llama's layer, as most open models have it, from weights that are put together anew for speed.

Queries, keys and values are one product, gate and up another; the weights of the norms before them are multiplied into
both, and the scale of attention into the queries; rotary pairs lie side by side. The results are those of the modules
except for rounding, which `load_model` checks for every model. Parameters stay where they are: gradients go back to them
through the same steps.

Low-rank adapters are merged into the weights that are sampled from, but stay apart in training: the gradient of a merged
weight has the size of the weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import embedding

from rethink.models.forward.attention import AttentionFn, window_of
from rethink.models.forward.checkpointing import again
from rethink.models.forward.lowrank import base_layer, concat_adapters, merged_weight
from rethink.models.forward.ops import add_product, normalize, product, rotate, swiglu

STEADY_ROPES = {"default", "linear", "llama3", "yarn"}
"""Rotary embeddings whose frequencies do not depend on how long the text is."""


class Layer(NamedTuple):
    """Weights [out, in] of one layer. `qk_norm` [A + K, D] scales queries and keys after their norm. The scale of attention
    is in it, or in the queries' weights. `_a` [r, in] and `_b` [out, r] are what an adapter adds to the product."""

    qkv: Tensor
    qkv_bias: Tensor | None
    qk_norm: Tensor | None
    out: Tensor
    gate_up: Tensor
    down: Tensor
    qkv_a: Tensor | None = None
    qkv_b: Tensor | None = None
    out_a: Tensor | None = None
    out_b: Tensor | None = None
    gate_up_a: Tensor | None = None
    gate_up_b: Tensor | None = None
    down_a: Tensor | None = None
    down_b: Tensor | None = None


def is_llama_like(module: Any) -> bool:
    """Whether the module's layers have the parts of Llama, Mistral, Qwen2 or Qwen3, and no others."""
    base = module.base_model
    if not hasattr(base, "rotary_emb") or not all(hasattr(base, name) for name in ("embed_tokens", "layers", "norm")):
        return False
    rope = getattr(base.config, "rope_parameters", None) or {}
    return rope.get("rope_type") in STEADY_ROPES and all(_is_llama_like_layer(layer) for layer in base.layers)


def _is_llama_like_layer(layer: Any) -> bool:
    parts = {name for name, _ in layer.named_children()}
    if parts != {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}:
        return False
    attention, mlp = layer.self_attn, layer.mlp
    inner = {name for name, _ in attention.named_children()}
    norms = {"q_norm", "k_norm"}
    projections = {"q_proj", "k_proj", "v_proj", "o_proj"}
    if inner not in (projections, projections | norms) or attention.o_proj.bias is not None:
        return False
    if norms <= inner and len(attention.q_norm.weight) != attention.head_dim:
        return False
    linears = [base_layer(getattr(mlp, name, None)) for name in ("gate_proj", "up_proj", "down_proj")]
    return all(isinstance(x, torch.nn.Linear) and x.bias is None for x in linears) and _is_silu(mlp)


def _is_silu(mlp: Any) -> bool:
    return type(getattr(mlp, "act_fn", None)).__name__ in ("SiLU", "SiLUActivation")


class FusedWeights:
    """The weights of one moment. Matrices have the given dtype, everything between them is float32. With `copy`, nothing
    of them lies in the parameters' own memory. With `gradient_checkpointing`, activations are not kept; see `again`."""

    def __init__(
        self,
        module: Any,
        dtype: torch.dtype,
        trainable: bool = False,
        copy: bool = False,
        gradient_checkpointing: bool = False,
    ) -> None:
        self.gradient_checkpointing = gradient_checkpointing
        base = module.base_model
        self.rotary = base.rotary_emb
        self.windows = [window_of(base.config, i) for i in range(len(base.layers))]
        self.padding = base.embed_tokens.padding_idx  # its row is not trained, where the model has one
        self.eps = float(base.norm.variance_epsilon)
        first = base.layers[0].self_attn
        self.head_dim = int(first.head_dim)
        with torch.set_grad_enabled(trainable):
            layers = [_layer(layer, dtype, merge=not trainable) for layer in base.layers]
        output = module.get_output_embeddings()
        named = (base.embed_tokens.weight, base.norm.weight, output.weight, getattr(output, "bias", None))
        # The same tensor twice (a tied head, say) becomes one leaf.
        sources = {id(t): t for t in (*named, *(t for layer in layers for t in layer)) if t is not None}
        taken = {_memory(p) for p in module.parameters()} if copy else set()
        leaves = {key: _leaf(t.clone() if _memory(t) in taken else t, trainable) for key, t in sources.items()}
        self._sources = [t for t in sources.values() if leaves[id(t)].requires_grad]
        self.leaves = [leaf for leaf in leaves.values() if leaf.requires_grad]
        found: list[Any] = [None if t is None else leaves[id(t)] for t in named]
        self.embedding, self.norm = found[:2]
        # Once, and not at every step of the sampler.
        self._head = (found[2], found[3]) if trainable else (found[2].float(), found[3])
        found_layers: list[list[Any]] = [[None if t is None else leaves[id(t)] for t in layer] for layer in layers]
        self.layers = [Layer(*tensors) for tensors in found_layers]
        # On a CPU attention in bfloat16 is slow in every kernel there is, and a small part of the work.
        self.attention_dtype = dtype if module.device.type == "cuda" else torch.float32

    @property
    def head(self) -> tuple[Tensor, Tensor | None]:
        """Weight and bias of the output layer, as they are."""
        return self._head

    def hidden(self, ids_T: Tensor, positions_T: Tensor, attend: AttentionFn) -> Tensor:
        """Final hidden states [T, H]; see `Weights`."""
        x_T_H = embedding(ids_T, self.embedding, self.padding).float()
        rope_T_1_D = self._rope(x_T_H, positions_T)
        for i, layer in enumerate(self.layers):
            work = partial(self._through, i, layer, rope_T_1_D=rope_T_1_D, attend=attend)
            x_T_H = again(work, x_T_H) if self.gradient_checkpointing else work(x_T_H)
        return normalize(x_T_H, self.eps) * self.norm

    def _through(self, i: int, layer: Layer, x_T_H: Tensor, rope_T_1_D: Tensor, attend: AttentionFn) -> Tensor:
        y = self._attention(i, layer, x_T_H, rope_T_1_D, attend)
        x_T_H = _adapted(add_product(x_T_H, y, layer.out), y, layer.out_a, layer.out_b)
        y = normalize(x_T_H, self.eps).to(layer.gate_up.dtype)
        y = swiglu(_adapted(product(y, layer.gate_up), y, layer.gate_up_a, layer.gate_up_b))
        return _adapted(add_product(x_T_H, y, layer.down), y, layer.down_a, layer.down_b)

    def _attention(self, i: int, layer: Layer, x_T_H: Tensor, rope_T_1_D: Tensor, attend: AttentionFn) -> Tensor:
        y = normalize(x_T_H, self.eps).to(layer.qkv.dtype)
        heads = _adapted(product(y, layer.qkv, layer.qkv_bias), y, layer.qkv_a, layer.qkv_b)
        heads = heads.view(len(y), -1, self.head_dim)
        n_queries = layer.out.shape[1] // self.head_dim
        n_keys = (heads.shape[1] - n_queries) // 2
        qk, v = heads.split([n_queries + n_keys, n_keys], 1)
        if layer.qk_norm is not None:
            qk = normalize(qk.float(), self.eps) * layer.qk_norm
        q, k = rotate(qk, rope_T_1_D).to(self.attention_dtype).split([n_queries, n_keys], 1)
        out = attend(i, q, k, v.to(self.attention_dtype), scale=1.0, window=self.windows[i])
        return out.flatten(1)

    def _rope(self, x_T_H: Tensor, positions_T: Tensor) -> Tensor:
        """Rotations as complex numbers [T, 1, D / 2]."""
        with torch.no_grad():
            cos, sin = self.rotary(x_T_H[None], positions_T[None])
        half = self.head_dim // 2
        return torch.complex(cos[0, :, :half].float(), sin[0, :, :half].float())[:, None]

    def backward_to_parameters(self, gradients: Sequence[Tensor | None]) -> None:
        """Gradients of the leaves, back through what was put together, to the parameters."""
        pairs = [(s, g) for s, g in zip(self._sources, gradients, strict=True) if g is not None and s.requires_grad]
        torch.autograd.backward([s for s, _ in pairs], [g.to(s.dtype) for s, g in pairs])


def _memory(tensor: Tensor) -> int:
    """Where the tensor's numbers lie; the same for all that share them."""
    return tensor.untyped_storage().data_ptr()


def _leaf(tensor: Tensor, trainable: bool) -> Tensor:
    return tensor.detach().requires_grad_(trainable and tensor.requires_grad)


def _adapted(out: Tensor, y: Tensor, a: Tensor | None, b: Tensor | None) -> Tensor:
    """The product of y with what the adapter adds; the product without it, where there is none."""
    return out if a is None or b is None else add_product(out, product(y.to(a.dtype), a), b)


def _layer(layer: Any, dtype: torch.dtype, *, merge: bool) -> Layer:
    attention, mlp = layer.self_attn, layer.mlp
    d = int(attention.head_dim)
    before, between = layer.input_layernorm.weight, layer.post_attention_layernorm.weight
    q, k, v = attention.q_proj, attention.k_proj, attention.v_proj
    scale = 1.0 if hasattr(attention, "q_norm") else float(attention.scaling)
    weight = merged_weight if merge else (lambda linear: base_layer(linear).weight)
    qkv = torch.cat([_paired(weight(q), d) * scale, _paired(weight(k), d), weight(v)])
    bias = None if q.bias is None else torch.cat([_paired(q.bias, d) * scale, _paired(k.bias, d), v.bias])
    gate_up = torch.cat([weight(mlp.gate_proj), weight(mlp.up_proj)])
    merged = Layer(
        (qkv * before).to(dtype),
        None if bias is None else bias.to(dtype),
        _qk_norm(attention, d),
        weight(attention.o_proj).to(dtype),
        (gate_up * between).to(dtype),
        weight(mlp.down_proj).to(dtype),
    )
    return merged if merge else merged._replace(**_adapters(layer, d, scale, dtype))


def _adapters(layer: Any, d: int, scale: float, dtype: torch.dtype) -> dict[str, Tensor]:
    """What adapters add to a layer's products, put together as its weights are."""
    attention, mlp = layer.self_attn, layer.mlp
    q, k, v = attention.q_proj, attention.k_proj, attention.v_proj
    before, between = layer.input_layernorm.weight, layer.post_attention_layernorm.weight
    turns = [lambda b: _paired(b, d) * scale, lambda b: _paired(b, d), _same]
    none = before.new_ones(())
    found = {
        "qkv": concat_adapters([q, k, v], turns, before),
        "out": concat_adapters([attention.o_proj], [_same], none),
        "gate_up": concat_adapters([mlp.gate_proj, mlp.up_proj], [_same, _same], between),
        "down": concat_adapters([mlp.down_proj], [_same], none),
    }
    sides = {f"{name}_{side}": x for name, pair in found.items() for side, x in zip("ab", pair, strict=True)}
    return {name: x.to(dtype) for name, x in sides.items() if x is not None}


def _same(rows: Tensor) -> Tensor:
    return rows


def _qk_norm(attention: Any, d: int) -> Tensor | None:
    if not hasattr(attention, "q_norm"):
        return None
    q, k = (_paired(norm.weight, d) for norm in (attention.q_norm, attention.k_norm))
    n_queries, n_keys = (len(x.weight) // d for x in (attention.q_proj, attention.k_proj))
    return torch.cat([(q * float(attention.scaling)).expand(n_queries, d), k.expand(n_keys, d)])


def _paired(rows: Tensor, d: int) -> Tensor:
    """Rows of each head in another order: the two that a rotary position turns together come side by side."""
    return rows.unflatten(0, (-1, 2, d // 2)).transpose(1, 2).flatten(0, 2)
