"""A run or a checkpoint as an ordinary model folder: an adapter merged, weights in a chosen dtype, nothing of the run."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer

from rethink.errors import UserError
from rethink.jsonl import make_folder
from rethink.models import lora
from rethink.models.language_model import DTYPES, LanguageModel
from rethink.models.load import from_shards, load_model
from rethink.models.shards import is_sharded
from rethink.run_folder import RunFolder
from rethink.training import checkpoint


def export(source: str, out: Path, dtype: str = "float32", warn: Callable[[str], None] = print) -> Path:
    """Write the model of a run folder (its newest checkpoint), a checkpoint or an adapter to the folder `out`; returns what
    was exported. Raises UserError where there is none, or where `out` holds anything: nothing is overwritten."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is there already; choose another --out DIR")
    found = find(source, warn)
    temporary = out.absolute().with_name(f".writing-{out.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    make_folder(temporary)
    try:
        module, tokenizer = whole_model(str(found))
        module.to(DTYPES[dtype]).save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        temporary.replace(out)  # an empty folder there gives way
    except UserError:
        raise
    except (OSError, ValueError, RuntimeError, SafetensorError) as err:
        raise UserError(f"cannot export {found} to {out}: {err}") from err
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return found


def find(source: str, warn: Callable[[str], None]) -> Path:
    """The newest whole checkpoint of a run folder; any other folder, or a hub name, as it is. Raises UserError for a
    damaged checkpoint and for a run without one."""
    path = Path(source)
    if (path / "config.toml").is_file():
        newest = checkpoint.newest(RunFolder(path).checkpoints, warn)
        if newest is None:
            raise UserError(f"the run {path} has no checkpoint to export")
        return newest
    fault = checkpoint.find_damage(path) if (path / checkpoint.MANIFEST).is_file() else None
    if fault is not None:
        raise UserError(f"the checkpoint {path} is damaged ({fault})")
    return path


def whole_model(path: str) -> tuple[Any, Any]:
    """The module with all its weights in float32, an adapter merged into them, and the tokenizer."""
    if is_sharded(Path(path)):
        return from_shards(Path(path)), AutoTokenizer.from_pretrained(path)
    if lora.find_base(path) is None:
        module = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
        return module, AutoTokenizer.from_pretrained(path)
    model = load_model(path, template="plain")  # of no use here, but one is asked for
    return merged(model), model.chat.tokenizer


@torch.no_grad()
def merged(model: LanguageModel) -> Any:
    """The base with the adapter's share added to its own tensors, which the model with the adapter has as well: that one is
    of no use afterwards."""
    assert model.base is not None
    plain = dict(model.base.module.named_parameters())
    for name, tensor in lora.named_weights(model):
        if name in plain:
            plain[name].copy_(tensor)
    return model.base.module
