"""LoRA: low-rank adapters over frozen weights (Hu et al., arXiv 2106.09685), saved in `peft`'s format.

The layers are `peft`'s. They are injected into a second tree of modules over the same tensors, so the base model without
the adapter stays usable from any thread and takes no extra memory.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers.pytorch_utils import Conv1D
from transformers.utils.peft_utils import find_adapter_config_file

from rethink.errors import UserError, install_extra
from rethink.models.forward.embedding import body, has_vision_tower
from rethink.models.forward.lowrank import base_layer, low_rank, merged_weight
from rethink.models.model_folder import read_object, reason
from rethink.models.read_weights import model_class
from rethink.seeds import stable_hash
from rethink.settings import Lora

if TYPE_CHECKING:
    from rethink.models.language_model import LanguageModel

CONFIG, WEIGHTS, BASE = "adapter_config.json", "adapter_model.safetensors", "adapter_base.json"
NAME = "default"
PREFIX = "base_model.model."
"""The prefix of tensor names in `peft`'s files."""

UNSUPPORTED = (
    "modules_to_save",
    "trainable_token_indices",
    "target_parameters",
    "layer_replication",
    "lora_bias",
    "use_dora",
)
"""`peft` settings that make an adapter more than W + scale * B A."""


HARMLESS_STARTS = (True, False, None, "gaussian", "orthogonal")
"""Values of `init_lora_weights` with which `peft` leaves the base's weights alone (PiSSA, OLoRA and others change them)."""


def add_adapter(model: LanguageModel, settings: Lora, seed: int) -> LanguageModel:
    """Return the model with a new adapter. B is 0, so outputs do not change; A is drawn from the seed.

    Raise UserError if `peft` is not installed or a layer in `settings.targets` does not exist."""
    linears = _linear_layers(model.module)
    alpha = settings.alpha
    path = Path(model.path)
    config = _peft().LoraConfig(
        r=settings.rank,
        lora_alpha=int(alpha) if alpha == int(alpha) else alpha,
        target_modules=_targets(linears, settings.targets, has_vision_tower(model.module.config)),
        lora_dropout=0.0,
        bias="none",
        task_type="CAUSAL_LM",
        fan_in_fan_out=any(isinstance(linear, Conv1D) for linear in linears.values()),
        base_model_name_or_path=str(path.resolve()) if path.exists() else model.path,
    )
    adapted = _inject(model, config)
    with torch.no_grad():
        for name, a in adapter_parameters(adapted.module).items():
            if ".lora_A." in name:
                generator = torch.Generator().manual_seed(stable_hash(seed, "lora", name))
                # As in peft: Kaiming's uniform with a = sqrt(5).
                a.copy_(torch.empty(a.shape).uniform_(-1, 1, generator=generator) / a.shape[1] ** 0.5)
    return adapted


def check_targets(config: Any, targets: str | tuple[str, ...]) -> None:
    """Raise UserError for a target that matches no layer of a model with this configuration. Load no weights."""
    try:
        with torch.device("meta"):
            module = model_class(config).from_config(config)
    except (ValueError, KeyError, AttributeError, TypeError):  # says more when the model is loaded
        return
    _targets(_linear_layers(module), targets)


def prepare_for_training(model: LanguageModel, settings: Lora, seed: int, *, resumed: bool) -> LanguageModel:
    """Return the model to train: with a new adapter if the settings ask for one, or (resumed) with the checkpoint's.

    Raise UserError if the checkpoint does not fit the settings, or if a new run starts from an adapter."""
    if not resumed:
        if model.base is not None:
            raise UserError(
                f"{model.path} is an adapter; merge it first (rethink export {model.path} --out DIR) and start from DIR"
            )
        return add_adapter(model, settings, seed) if settings.rank else model
    if (model.base is None) != (settings.rank == 0):
        was, now = ("all weights", "an adapter") if model.base is None else ("an adapter", "all weights")
        raise UserError(
            f"the run's checkpoint holds {was}, but lora.rank = {settings.rank} trains {now}; resume with the run's own "
            "lora.rank, or `rethink export` it and start a new run from the result"
        )
    return model


def find_base(path: str) -> str | None:
    """Return the path of the base model of the adapter at `path`; None if there is no adapter.

    Raise UserError for an adapter that is not plain LoRA, and if `peft` is not installed."""
    try:
        file = find_adapter_config_file(path)
    except (OSError, ValueError):  # neither a folder nor a hub name: loading it raises a better error
        return None
    if file is None:
        return None
    config = read_object(Path(file))
    kind, base = config.get("peft_type"), config.get("base_model_name_or_path")
    if not kind or not base:
        raise UserError(f"{file} lacks peft_type or base_model_name_or_path")
    unsupported = [key for key in UNSUPPORTED if config.get(key)]
    if config.get("bias", "none") != "none":
        unsupported.append("bias")
    if config.get("init_lora_weights", True) not in HARMLESS_STARTS:
        unsupported.append(f"init_lora_weights {config['init_lora_weights']}, which changes the base")
    if kind != "LORA":
        unsupported.append(f"peft_type {kind}")
    if unsupported:
        raise UserError(
            f"{path} is an adapter with {', '.join(unsupported)}, which is not supported; merge it with peft first"
        )
    if (Path(base) / CONFIG).is_file():
        raise UserError(f"the base of the adapter {path} is itself an adapter ({base}); merge the base first")
    _refuse_unknown(config, file)
    return str(base)


def _refuse_unknown(config: Mapping[str, Any], file: str) -> None:
    """Raise UserError for settings of an adapter that the installed `peft` does not know: it would ignore them."""
    known = {f.name for f in fields(_peft().LoraConfig)}
    unknown = sorted(key for key, value in config.items() if value and key not in known)
    if unknown:
        raise UserError(f"{file} has settings that the installed peft does not know: {', '.join(unknown)}; update peft")


def load(model: LanguageModel, path: str) -> LanguageModel:
    """Return the base model with the adapter at `path`. Raise UserError if the adapter is for another base."""
    peft = _peft()
    _check_base(model, path)
    try:
        config = peft.LoraConfig.from_pretrained(path)
        config.inference_mode, config.lora_dropout = False, 0.0
        adapted = _inject(model, config)
        adapted.path = path
        found = peft.utils.save_and_load.load_peft_weights(path, device="cpu")
    except UserError:
        raise
    except Exception as err:  # wrong settings, a damaged file, a pickle with more than tensors in it
        raise UserError(f"cannot load the adapter {path}: {reason(err)}") from err
    wanted = {_file_name(name): p for name, p in adapter_parameters(adapted.module).items()}
    for name in sorted({*wanted, *found}):
        fault = _misfit(name, found.get(name), wanted.get(name))
        if fault:
            raise UserError(
                f"the adapter {path} does not fit the model {config.base_model_name_or_path}: {fault}; copy or download it "
                "again, or set base_model_name_or_path in its adapter_config.json to the right base"
            )
    with torch.no_grad():
        for name, p in wanted.items():
            p.copy_(found[name])
    return adapted


def save(model: LanguageModel, folder: Path) -> None:
    """Write the adapter in `peft`'s format, with a fingerprint of the base instead of its weights."""
    assert model.base is not None
    write(folder, model.module.peft_config[NAME], adapter_parameters(model.module), fingerprint(model.base.module))


def write(folder: Path, config: Any, parameters: Mapping[str, Tensor], base: str) -> None:
    """Write what `save` writes, given `peft`'s config, the parameters by name, and the base's fingerprint."""
    write_adapter(folder, config, parameters)
    (folder / BASE).write_text(json.dumps({"fingerprint": base}))


def write_adapter(folder: Path, config: Any, parameters: Mapping[str, Tensor]) -> None:
    """Write `peft`'s two files."""
    tensors = {_file_name(name): p.detach().cpu().contiguous() for name, p in parameters.items()}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    config.save_pretrained(folder)
    written = read_object(folder / CONFIG)
    # target_modules is a set; its order changes from process to process.
    written |= {"target_modules": sorted(written["target_modules"]), "inference_mode": True}
    (folder / CONFIG).write_text(json.dumps(written, indent=2, sort_keys=True))


def named_weights(model: LanguageModel) -> Iterator[tuple[str, Tensor]]:
    """Yield (name, tensor) for the base model's weights with the adapter merged in, in the base's dtypes.

    Tied weights come once. Each weight is merged when its turn comes, so there is never a second model in memory."""
    seen: set[Tensor] = set()
    for name, tensor in (model.base or model).module.state_dict(keep_vars=True).items():
        if tensor in seen:
            continue
        seen.add(tensor)
        layer = model.module.get_submodule(name.rpartition(".")[0])
        if name.endswith(".weight") and low_rank(layer) is not None:
            yield name, merged_weight(layer).detach().to(tensor.dtype)
        else:
            yield name, tensor.detach()


def adapter_parameters(module: Any) -> dict[str, Tensor]:
    """Return the adapter's parameters A and B by name."""
    return {name: p for name, p in module.named_parameters() if _is_factor(name)}


def base_parameters(module: Any) -> Iterator[tuple[str, Tensor, Any]]:
    """Yield (name, parameter, layer) for the base model's parameters.

    `layer` is the layer with the adapter if one changes this parameter, else None."""
    for name, p in module.named_parameters():
        if _is_factor(name):
            continue
        path, _, last = name.rpartition(".")
        layer = module.get_submodule(path.removesuffix(".base_layer"))
        adapted = last == "weight" and base_layer(layer) is not layer
        yield name.replace(".base_layer.", "."), p, layer if adapted else None


@contextmanager
def switched_off(module: Any) -> Iterator[None]:
    """Run the module without its adapter inside this context. `peft`'s own switch would end the training of A and B."""
    layers = [part for part in module.modules() if base_layer(part) is not part]
    for layer in layers:
        layer._disable_adapters = True
    try:
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False


def peft_version() -> str:
    """Return the version of `peft`. Raise UserError if it is not installed."""
    return str(_peft().__version__)


def fingerprint(module: Any) -> str:
    """Return a hash of the model's parameter names, shapes, and up to 256 evenly spaced values of each.

    Values are rounded to bfloat16, so the hash does not depend on the dtype in which the model is loaded."""
    digest = hashlib.sha256()
    for name, p in module.named_parameters():
        values = p.detach().flatten()[:: max(1, p.numel() // 256)][:256]
        digest.update(f"{name} {tuple(p.shape)}".encode())
        digest.update(values.to("cpu", torch.bfloat16).contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _inject(model: LanguageModel, config: Any) -> LanguageModel:
    """Return a second tree of modules over the same, frozen tensors, with `peft`'s layers injected."""
    model.module.requires_grad_(False)
    tensors = [*model.module.parameters(), *model.module.buffers()]
    shared = dict(zip(map(id, tensors), tensors, strict=True))  # deepcopy does not copy what is in its memo
    module = copy.deepcopy(model.module, shared)
    peft = _peft()
    try:
        with torch.random.fork_rng(devices=[]):  # peft draws from the global generator
            peft.inject_adapter_in_model(config, module, NAME)
    except ValueError as err:
        raise UserError(f"peft cannot add an adapter to this model: {err}") from err
    module.eval()
    for part in module.modules():
        if getattr(part, "lora_variant", None) or getattr(part, "lora_embedding_A", None):
            raise UserError(
                "adapters of embeddings and variants of LoRA are not supported; merge the adapter with peft first"
            )
    adapted = replace(model, module=module, base=model)
    for p in adapter_parameters(adapted.module).values():
        p.data = p.data.float()  # small steps are lost in the base's bfloat16
        p.requires_grad_(True)
    return adapted


def _is_factor(name: str) -> bool:
    return ".lora_A." in name or ".lora_B." in name


def _file_name(name: str) -> str:
    return PREFIX + name.replace(f".{NAME}.weight", ".weight")


def _misfit(name: str, found: Tensor | None, wanted: Tensor | None) -> str:
    """Return why a tensor of an adapter's file cannot be used; "" if it can."""
    if found is None:
        return f"it lacks {name}"
    if wanted is None:
        return f"it has {name}, for a layer that the model does not have or that target_modules does not name"
    if found.shape != wanted.shape:
        return f"{name} has shape {tuple(found.shape)}, not {tuple(wanted.shape)}"
    return "" if bool(found.isfinite().all()) else f"{name} contains NaN or infinite values"


def _check_base(model: LanguageModel, path: str) -> None:
    file = Path(path) / BASE
    if file.is_file() and read_object(file).get("fingerprint") != fingerprint(model.module):
        raise UserError(
            f"the weights of the base have changed since the adapter {path} was trained; restore them, or set "
            f"base_model_name_or_path in {Path(path) / CONFIG} to the right base"
        )


def _linear_layers(module: Any) -> dict[str, Any]:
    """Return the layers that can have an adapter, by name: all linear layers of the language model except the output
    layer. A vision tower stays as it is."""
    head = module.get_output_embeddings()
    kinds = (torch.nn.Linear, Conv1D)
    own = set(body(module).modules()) if has_vision_tower(module.config) else set(module.modules())
    return {name: m for name, m in module.named_modules() if isinstance(m, kinds) and m is not head and m in own}


def _targets(linears: Mapping[str, Any], requested: str | tuple[str, ...], whole: bool = False) -> list[str]:
    """Return `peft`'s target_modules, as `whole` names if other layers have the same short ones. Raise UserError for a
    target that matches no layer."""
    short = sorted({name.rpartition(".")[2] for name in linears})
    if requested == "all-linear":
        return sorted(linears) if whole else short
    targets = [requested] if isinstance(requested, str) else list(requested)
    suffixes = tuple(map(".{}".format, targets))
    for target in targets or [""]:
        if not any(f".{name}".endswith(f".{target}") for name in linears):
            raise UserError(
                f"lora.targets: the model has no linear layer named {target!r} (the output layer has no adapter); choose "
                f'from {", ".join(short)}, or "all-linear" for all of them'
            )
    return sorted(filter(lambda name: f".{name}".endswith(suffixes), linears)) if whole else targets


def _peft() -> Any:
    try:
        import peft
    except ImportError as err:
        raise UserError(f"LoRA needs the package peft: {install_extra('peft')}") from err
    return peft
