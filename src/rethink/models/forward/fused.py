"""A faster forward pass for models with Llama's layers, from rearranged weights.

Queries, keys and values are one product, gate and up another. The weights of the preceding norms are multiplied into both,
and the attention scale into the queries. The two halves of a rotary pair are adjacent. Results equal the modules' except
for rounding; `load_model` checks that for every model. Gradients flow back through the same steps to the parameters.

LoRA adapters are merged into the weights for sampling, but kept separate for training: the gradient of a merged weight is
as large as the weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import embedding

from rethink.models.forward.attention import AttentionFn, sliding_window
from rethink.models.forward.embedding import ImageSource, body, embed_images, has_grids, trained_tower
from rethink.models.forward.gradient_checkpointing import checkpointed
from rethink.models.forward.head import changes_logits
from rethink.models.forward.lowrank import LowRank, base_layer, concat_adapters, merged_weight
from rethink.models.forward.ops import add_product, apply_rope, normalize, product, swiglu
from rethink.models.forward.packed import pack
from rethink.models.forward.weights import Head

Layers = Literal["kept", "on demand", "taken"]
"""Where a layer's rearranged weights live: beside the module's own, or nowhere (they are made again for each pass), or in
their place: then the module's layers are empty, and it can no longer be trained, saved or rearranged."""

STATIC_ROPES = {"default", "linear", "llama3", "yarn"}
"""Types of rotary embeddings whose frequencies do not depend on the length of the text."""


class Layer(NamedTuple):
    """The weights [out, in] of one layer, and its adapters. `qk_norm` [A + K, D] scales queries and keys after their norm.

    The attention scale is included in `qk_norm`, or without one in `qkv`."""

    qkv: Tensor
    qkv_bias: Tensor | None
    qk_norm: Tensor | None
    out: Tensor
    gate_up: Tensor
    down: Tensor
    qkv_adapter: LowRank | None = None
    out_adapter: LowRank | None = None
    gate_up_adapter: LowRank | None = None
    down_adapter: LowRank | None = None


def is_llama_like(module: Any) -> bool:
    """Return whether the module's layers have exactly the parts of Llama, Mistral, Qwen2 or Qwen3."""
    base = body(module)
    tower = getattr(module.config, "vision_config", None)
    if getattr(tower, "deepstack_visual_indexes", None) or has_grids(module.config):
        return False
    if not _child_names(base) >= {"embed_tokens", "layers", "norm", "rotary_emb"} or changes_logits(module):
        return False
    rope = getattr(base.config, "rope_parameters", None) or {}
    return rope.get("rope_type") in STATIC_ROPES and all(map(_is_llama_like_layer, base.layers))


def _is_llama_like_layer(layer: Any) -> bool:
    if _child_names(layer) != {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}:
        return False
    attention, mlp = layer.self_attn, layer.mlp
    norms = {"q_norm", "k_norm"}
    projections = {"q_proj", "k_proj", "v_proj", "o_proj"}
    if _child_names(attention) not in (projections, projections | norms) or attention.o_proj.bias is not None:
        return False
    if hasattr(attention, "q_norm") and len(attention.q_norm.weight) != attention.head_dim:
        return False
    for name in ("gate_proj", "up_proj", "down_proj"):
        linear = base_layer(getattr(mlp, name, None))
        if not isinstance(linear, torch.nn.Linear) or linear.bias is not None:
            return False
    return type(getattr(mlp, "act_fn", None)).__name__ in ("SiLU", "SiLUActivation")


def _child_names(part: Any) -> set[str]:
    return set(dict(part.named_children()))


class FusedWeights:
    """The current weights, rearranged (see `Weights`). Matrices have the given dtype; everything between them is float32.

    With `copy`, they share no memory with the parameters. With `gradient_checkpointing`, activations are recomputed.
    `image_vectors` has the vectors of images, for a vision-language model. Only weights that are not trained can be made
    `layers` "on demand" or "taken"."""

    def __init__(
        self,
        module: Any,
        dtype: torch.dtype,
        trainable: bool = False,
        copy: bool = False,
        gradient_checkpointing: bool = False,
        image_vectors: ImageSource | None = None,
        head_dtype: torch.dtype = torch.float32,
        layers: Layers = "kept",
    ) -> None:
        assert layers == "kept" or not trainable
        self.gradient_checkpointing = gradient_checkpointing
        self.image_vectors = image_vectors
        base = body(module)
        self.rotary = base.rotary_emb
        self.padding = base.embed_tokens.padding_idx  # if the model has one, its row is not trained
        self.eps = float(base.norm.variance_epsilon)
        self.head_dim = int(base.layers[0].self_attn.head_dim)
        # On a CPU, every attention kernel is slow in bfloat16, and attention is a small part of the work.
        self.attention_dtype = dtype if module.device.type != "cpu" else torch.float32

        leaves = _Leaves(trainable, module if copy else None)
        output = module.get_output_embeddings()
        self.embedding, self.norm = leaves.get(base.embed_tokens.weight), leaves.get(base.norm.weight)
        weight, bias = leaves.get(output.weight), leaves.get(getattr(output, "bias", None))
        head = Head(weight, bias, dtype=head_dtype)
        self.head = head if trainable else head.converted()  # once, not at every step of the sampler
        self.windows = list(map(partial(sliding_window, base.config), range(len(base.layers))))
        self.layers: Sequence[Layer] = _LayersOnDemand(base.layers, dtype)
        if layers != "on demand":
            self.layers = kept = []
            for part in base.layers:
                with torch.set_grad_enabled(trainable):
                    layer = _layer(part, dtype, merge=not trainable)
                if layers == "taken":
                    kept.append(_packed(layer))  # not through `leaves`, which would hold the plain matrices, too
                    _empty(part)
                else:
                    kept.append(Layer(*map(leaves.get, layer)))
        for p in trained_tower(module) if trainable else ():
            leaves.by_source[p] = p  # the module runs it: nothing is rearranged
        self.leaves = [leaf for leaf in leaves.by_source.values() if leaf.requires_grad]
        self._sources = [source for source, leaf in leaves.by_source.items() if leaf.requires_grad]

    def hidden(self, ids_T: Tensor, positions_T: Tensor, attend: AttentionFn) -> Tensor:
        """Return final hidden states [T, H]; see `Weights`."""
        embedded = embed_images(ids_T, self._look_up, self.image_vectors, attend)
        x_T_H = (self._look_up(ids_T) if embedded is None else embedded.x_T_H).float()
        rope_T_1_D = self._rope(x_T_H, positions_T)
        for i, layer in enumerate(self.layers):
            work = partial(self._run_layer, i, layer, rope_T_1_D=rope_T_1_D, attend=attend)
            x_T_H = checkpointed(work, x_T_H) if self.gradient_checkpointing else work(x_T_H)
        return normalize(x_T_H, self.eps) * self.norm

    def _look_up(self, ids_T: Tensor) -> Tensor:
        return embedding(ids_T, self.embedding, self.padding)

    def _run_layer(self, i: int, layer: Layer, x_T_H: Tensor, rope_T_1_D: Tensor, attend: AttentionFn) -> Tensor:
        y = self._attention(i, layer, x_T_H, rope_T_1_D, attend)
        x_T_H = _add_adapter(add_product(x_T_H, y, layer.out), y, layer.out_adapter)
        y = normalize(x_T_H, self.eps).to(layer.gate_up.dtype)
        y = swiglu(_add_adapter(product(y, layer.gate_up), y, layer.gate_up_adapter))
        return _add_adapter(add_product(x_T_H, y, layer.down), y, layer.down_adapter)

    def _attention(self, i: int, layer: Layer, x_T_H: Tensor, rope_T_1_D: Tensor, attend: AttentionFn) -> Tensor:
        y = normalize(x_T_H, self.eps).to(layer.qkv.dtype)
        heads = _add_adapter(product(y, layer.qkv, layer.qkv_bias), y, layer.qkv_adapter)
        heads = heads.view(len(y), -1, self.head_dim)
        n_queries = layer.out.shape[1] // self.head_dim
        n_keys = (heads.shape[1] - n_queries) // 2
        qk, v = heads.split([n_queries + n_keys, n_keys], 1)
        if layer.qk_norm is not None:
            qk = normalize(qk.float(), self.eps) * layer.qk_norm
        q, k = apply_rope(qk, rope_T_1_D).to(self.attention_dtype).split([n_queries, n_keys], 1)
        out = attend(i, q, k, v.to(self.attention_dtype), scale=1.0, window=self.windows[i])
        return out.flatten(1)

    def _rope(self, x_T_H: Tensor, positions_T: Tensor) -> Tensor:
        """Return the rotations as complex numbers [T, 1, D / 2]."""
        with torch.no_grad():
            cos, sin = self.rotary(x_T_H[None], positions_T[None])
        half = self.head_dim // 2
        return torch.complex(cos[0, :, :half].float(), sin[0, :, :half].float())[:, None]

    def backward_to_parameters(self, gradients: Sequence[Tensor | None]) -> None:
        """Propagate the leaves' gradients through the rearrangement to the parameters."""
        sources: list[Tensor] = []
        given: list[Tensor] = []
        for source, gradient in zip(self._sources, gradients, strict=True):
            if gradient is not None:
                sources.append(source)
                given.append(gradient.to(source.dtype))
        torch.autograd.backward(sources, given)


class _LayersOnDemand(Sequence[Layer]):
    """The rearranged weights of the module's layers, made when they are asked for."""

    def __init__(self, parts: Sequence[Any], dtype: torch.dtype) -> None:
        self.parts = parts
        self.dtype = dtype

    def __len__(self) -> int:
        return len(self.parts)

    @torch.no_grad()
    def __getitem__(self, i: Any) -> Any:
        return _layer(self.parts[i], self.dtype, merge=True)


def _packed(layer: Layer) -> Layer:
    """Return a merged layer without gradients, with its matrices in the form that makes products fast here."""
    qkv, out, gate_up, down = map(pack, (layer.qkv, layer.out, layer.gate_up, layer.down))
    return layer._replace(qkv=qkv, out=out, gate_up=gate_up, down=down)


def _empty(part: torch.nn.Module) -> None:
    """Free the memory of a module's parameters, except what other tensors share with them."""
    for p in part.parameters():
        p.data = p.data.new_empty(0)


class _Leaves:
    """Detached tensors with respect to which gradients are taken, by the tensor that each was detached from.

    A tensor that occurs twice (a tied head) gets one leaf. Tensors that share memory with a parameter of `copied` are
    copied."""

    def __init__(self, trainable: bool, copied: Any | None) -> None:
        self.trainable = trainable
        self.by_source: dict[Tensor, Tensor] = {}
        self.taken = set() if copied is None else set(map(_memory, copied.parameters()))

    def get(self, source: Any) -> Any:
        """Return the leaf of a tensor, the two leaves of an adapter, or None for None."""
        if source is None:
            return None
        if isinstance(source, LowRank):
            return LowRank(self.get(source.a), self.get(source.b))
        if source not in self.by_source:
            leaf = source.clone() if _memory(source) in self.taken else source
            self.by_source[source] = leaf.detach().requires_grad_(self.trainable and source.requires_grad)
        return self.by_source[source]


def _memory(tensor: Tensor) -> int:
    """Return the address of the tensor's storage: equal for tensors that share memory."""
    return tensor.untyped_storage().data_ptr()


def _add_adapter(out: Tensor, y: Tensor, adapter: LowRank | None) -> Tensor:
    """Return `out` plus the adapter's B A y."""
    if adapter is None:
        return out
    return add_product(out, product(y.to(adapter.a.dtype), adapter.a), adapter.b)


def _layer(layer: Any, dtype: torch.dtype, *, merge: bool) -> Layer:
    """Return a layer's rearranged weights, with its adapters merged in, or rearranged and separate."""
    attention, mlp = layer.self_attn, layer.mlp
    d = int(attention.head_dim)
    before, between = layer.input_layernorm.weight, layer.post_attention_layernorm.weight
    q, k, v = attention.q_proj, attention.k_proj, attention.v_proj
    scale = 1.0 if hasattr(attention, "q_norm") else float(attention.scaling)
    weight = merged_weight if merge else _base_weight
    qkv = torch.cat([_interleave(weight(q), d) * scale, _interleave(weight(k), d), weight(v)])
    bias = None if q.bias is None else torch.cat([_interleave(q.bias, d) * scale, _interleave(k.bias, d), v.bias])
    gate_up = torch.cat([weight(mlp.gate_proj), weight(mlp.up_proj)])
    merged = Layer(
        (qkv * before).to(dtype),
        None if bias is None else bias.to(dtype),
        _qk_norm(attention, d),
        weight(attention.o_proj).to(dtype),
        (gate_up * between).to(dtype),
        weight(mlp.down_proj).to(dtype),
    )
    if merge:
        return merged

    def paired(rows: Tensor) -> Tensor:
        return _interleave(rows, d)

    def scaled(rows: Tensor) -> Tensor:
        return _interleave(rows, d) * scale

    return merged._replace(
        qkv_adapter=_cast(concat_adapters([q, k, v], [scaled, paired, _identity]), dtype, before),
        out_adapter=_cast(concat_adapters([attention.o_proj], [_identity]), dtype),
        gate_up_adapter=_cast(concat_adapters([mlp.gate_proj, mlp.up_proj], [_identity, _identity]), dtype, between),
        down_adapter=_cast(concat_adapters([mlp.down_proj], [_identity]), dtype),
    )


def _base_weight(linear: Any) -> Tensor:
    weight: Tensor = base_layer(linear).weight
    return weight


def _cast(adapter: LowRank | None, dtype: torch.dtype, before: Tensor | None = None) -> LowRank | None:
    """Return the adapter in this dtype, with the preceding norm's weight [in] multiplied into A."""
    if adapter is None:
        return None
    a = adapter.a if before is None else adapter.a * before
    return LowRank(a.to(dtype), adapter.b.to(dtype))


def _identity(rows: Tensor) -> Tensor:
    return rows


def _qk_norm(attention: Any, d: int) -> Tensor | None:
    if not hasattr(attention, "q_norm"):
        return None
    q = _interleave(attention.q_norm.weight, d) * float(attention.scaling)
    k = _interleave(attention.k_norm.weight, d)
    return torch.cat([q.expand(len(attention.q_proj.weight) // d, d), k.expand(len(attention.k_proj.weight) // d, d)])


def _interleave(rows: Tensor, d: int) -> Tensor:
    """Reorder the rows of each head to make the two of a rotary pair adjacent."""
    return rows.unflatten(0, (-1, 2, d // 2)).transpose(1, 2).flatten(0, 2)
