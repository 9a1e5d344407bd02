"""`rethink plan`: estimate what a recipe needs before it starts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rethink.commands.console import print_json, print_note, print_result
from rethink.errors import UserError
from rethink.jsonl import write_text
from rethink.plan.token_counts import BatchCounts, Lengths, count_batch
from rethink.printable import align_columns
from rethink.recipe import Recipe, load_recipe

if TYPE_CHECKING:
    from rethink.plan.memory import Peak

GIB = 2**30
STAGES = ("sampling", "training")


def plan(
    recipe: str,
    settings: Sequence[str],
    n_gpus: int,
    gib: float,
    config: Path | None,
    lengths: Lengths,
    out: Path | None,
    as_json: bool = False,
) -> None:
    """Print the plan, as text or as JSON; write it as JSON to `out`, if given."""
    _check(n_gpus, gib, lengths)
    resolved = load_recipe(recipe, settings)
    found = figures(resolved, n_gpus, gib, config, lengths)
    if as_json:
        print_json(found)
    else:
        print_result(plan_text(found))
    if out is not None:
        write_text(out, json.dumps(found, indent=1) + "\n")
        print_note(f"numbers: {out}")


def _check(n_gpus: int, gib: float, lengths: Lengths) -> None:
    if n_gpus < 1:
        raise UserError(f"--gpus must be at least 1, not {n_gpus}")
    if not gib > 0:
        raise UserError(f"--gpu-memory must be above 0 (GiB of one GPU), not {gib:g}")
    if not 0 < lengths.reply_share <= 1 or lengths.question < 1:
        raise UserError("--reply-share must be above 0 and at most 1, and --question-tokens at least 1")


def figures(recipe: Recipe, n_gpus: int, gib: float, config: Path | None, lengths: Lengths) -> dict[str, Any]:
    """Return all numbers of the plan: memory for the longest replies, tokens for the expected and the longest ones.

    Raise UserError for what `rethink train` would refuse on this number of GPUs.
    """
    from rethink.methods import needs_of
    from rethink.models.device import GPU_CACHE_FRAC
    from rethink.models.forward.embedding import has_vision_tower
    from rethink.models.model_folder import reason
    from rethink.models.positions import max_positions
    from rethink.models.read_weights import opened_config
    from rethink.plan.advice import changes, first_fit
    from rethink.plan.estimate import Estimates, memory_settings
    from rethink.plan.meta_model import build_meta_model, keeps_its_attention, read_config
    from rethink.training.check import check_room
    from rethink.training.open_trainer import why_unsupported

    refusal = why_unsupported(recipe, n_gpus)
    if refusal:
        raise UserError(refusal)
    model_config = read_config(recipe.model.path, config)
    if keeps_its_attention(model_config):
        raise UserError(
            f"cannot plan {recipe.model.path!r}: it runs with its own attention and cache, which is slower and takes "
            "memory that the plan does not know (docs/models.md); try a run with few problems and read what it takes"
        )
    if needs_of(recipe.method["name"]).samples:
        positions = max_positions(model_config.get_text_config())
        check_room("sampling.max_tokens", recipe.sampling.max_tokens, positions)
    if not recipe.sampler.cache_gib:
        recipe = replace(recipe, sampler=replace(recipe.sampler, cache_gib=GPU_CACHE_FRAC * gib))
    most, problems = count_batch(recipe, Lengths(lengths.question, 1.0))
    mean, _ = count_batch(recipe, lengths)
    estimates = Estimates(model_config, most)
    memory = memory_settings(recipe, n_gpus, most, gib)
    try:
        longest = estimates.estimate(memory)
    except (RuntimeError, NotImplementedError) as err:  # kernels of mixtures of experts, say
        kind = type(model_config).__name__.removesuffix("Config")
        raise UserError(
            f'cannot plan {recipe.model.path!r} ({kind}): a layer does not run on torch\'s device "meta": {reason(err)}'
        ) from err
    fits = longest.needed <= gib * GIB
    found: dict[str, Any] = {
        "method": recipe.method["name"],
        "model": recipe.model.path,
        "n_parameters": sum(p.numel() for p in build_meta_model(model_config).module.parameters()),
        "n_gpus": n_gpus,
        "gpu_memory_gib": gib,
        "memory": {"sampling": _memory(longest.sampling), "training": _memory(longest.training)},
        "needed_gib": longest.needed / GIB,
        "fits": fits,
        "updates": {"mean": _tokens(mean), "most": _tokens(most)},
        "assumptions": _assumptions(recipe, lengths, problems, n_gpus, has_vision_tower(opened_config(model_config))),
    }
    if not fits:
        found["changes"] = [{"setting": c.setting, "saved_gib": c.saved / GIB} for c in changes(estimates, memory)]
        changed, then = first_fit(estimates, memory, gib * GIB)
        found["combined"] = {"settings": changed, "needed_gib": then.needed / GIB, "fits": then.needed <= gib * GIB}
    return found


def _memory(peak: Peak | None) -> dict[str, Any] | None:
    if peak is None:
        return None
    return {"peak": peak.name, "gib": {name: n / GIB for name, n in peak.items.items() if n}}


def _tokens(counted: BatchCounts) -> dict[str, Any]:
    sampled: dict[str, float] = {}
    prompts = others = 0
    for request in counted.requests:
        if request.role == "policy":
            sampled[request.phase] = sampled.get(request.phase, 0) + request.n_sampled
            prompts += sum(request.prompts)
        else:
            others += request.n_sampled
    trained = sum(sample.n_trained for sample in counted.samples)
    n = max(1, len(counted.updates))
    per_update = {phase: n_tokens / n for phase, n_tokens in sampled.items()}
    return {"sampled": per_update, "prompts": prompts / n, "others": others / n, "trained": trained / n}


def _assumptions(recipe: Recipe, lengths: Lengths, problems: str, n_gpus: int, has_tower: bool) -> list[str]:
    cap = recipe.sampling.max_tokens
    found = [
        f"problems: {problems}; a word of a prompt is a token",
        f"replies: expected {lengths.reply_share:.0%} of sampling.max_tokens = {cap}, at most all of it; half are right",
        "memory: for the longest replies; 1 GiB for CUDA, 5% of the peak for fragmentation",
        "kernels: those of a CPU, with the GPU's dtypes; nothing was measured on a GPU",
        "evaluation and checkpoints are not counted",
    ]
    own = recipe.sampler.engine == "local"
    if recipe.sampler.urls:
        found.append("sampling: on vLLM's servers, which are not counted")
    elif not own:
        found.append("sampling: vLLM takes sampler.gpu_memory of each GPU, and nothing while the trainer works")
    if n_gpus > 1:
        found.append(
            "several GPUs: weights, gradients, optimizer and the model to compare with are sharded (FSDP2); two layers "
            "at a time, the embedding and the head are gathered"
            + ("; each GPU samples its share of the prompts from a full copy of the weights" if own else "")
        )
    if has_tower:
        vision = recipe.training.vision
        tower, passes = "the frozen vision tower, whole on each GPU", "is the pass of the tower over one image"
        if vision != "frozen":
            tower = f'the vision tower, with gradients and averages of what is trained (training.vision = "{vision}")'
            passes = "are the tower's activations for the images of a micro-batch"
        found.append(
            f"images: {tower}; the vectors of images are not counted, nor {passes}: add the vectors of a problem to "
            "--question-tokens"
        )
    return found


def plan_text(found: dict[str, Any]) -> str:
    """Return the plan as text with tables."""
    gpus = f"{found['n_gpus']} GPU{'s' if found['n_gpus'] > 1 else ''} of {found['gpu_memory_gib']:g} GiB"
    head = f"{found['method']} on {found['model']} ({_count(found['n_parameters'])} parameters), {gpus}"
    parts = [head, _memory_table(found), _verdict(found), _token_table(found)]
    return "\n\n".join([*parts, "assumed:\n" + "\n".join(f"- {line}" for line in found["assumptions"])])


def _count(n: int) -> str:
    """Return a number in words.

    >>> _count(4_022_468_096), _count(630_784), _count(512)
    ('4.02 billion', '0.63 million', '512')
    """
    if n < 100_000:
        return f"{n:,}"
    return f"{n / 1e9:.2f} billion" if n >= 1e9 else f"{n / 1e6:.{0 if n >= 1e8 else 2}f} million"


def _memory_table(found: dict[str, Any]) -> str:
    peaks = {stage: found["memory"][stage] for stage in STAGES if found["memory"][stage]}
    rows: dict[str, list[str]] = {}  # in order of appearance
    for peak in peaks.values():
        for name in peak["gib"]:
            rows.setdefault(name, [name])
    total = ["total"]
    for peak in peaks.values():
        for name, row in rows.items():
            row.append(_gib(peak["gib"].get(name)))
        total.append(_gib(sum(peak["gib"].values())))
    table = align_columns([["GiB per GPU", *peaks], *rows.values(), total])
    when = ", ".join(f"{stage}: {peak['peak']}" for stage, peak in peaks.items())
    return f"{table}\n(at the peak of each stage; {when})"


def _gib(value: float | None) -> str:
    return "" if not value else f"{value:.2f}"


def _verdict(found: dict[str, Any]) -> str:
    needed = (
        f"needs {found['needed_gib']:.1f} of {found['gpu_memory_gib']:g} GiB per GPU, CUDA and fragmentation included"
    )
    if found["fits"]:
        return f"FITS: {needed}"
    lines = [f"DOES NOT FIT: {needed}"]
    table = [[change["setting"], f"{change['saved_gib']:.1f}"] for change in found["changes"]]
    if table:
        lines.append(align_columns([["each of these alone", "saves GiB"], *table]))
    combined = found["combined"]
    names = " ".join(combined["settings"])
    needed = f"{combined['needed_gib']:.1f} GiB"
    lines.append(
        f"fits with: {names} ({needed})" if combined["fits"] else f"does not fit even with: {names} ({needed})"
    )
    return "\n".join(lines)


def _token_table(found: dict[str, Any]) -> str:
    mean, most = found["updates"]["mean"], found["updates"]["most"]
    lines = [["per update", "expected", "at most"]]
    for phase in most["sampled"]:
        lines.append([f"sampled tokens, {phase}", *(f"{e['sampled'].get(phase, 0):,.0f}" for e in (mean, most))])
    for key, name in (
        ("others", "sampled by other models"),
        ("prompts", "prompt tokens"),
        ("trained", "trained tokens"),
    ):
        if most[key]:
            lines.append([name, *(f"{e[key]:,.0f}" for e in (mean, most))])
    return align_columns(lines)
