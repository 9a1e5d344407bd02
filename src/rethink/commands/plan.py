"""`rethink plan`: what a recipe needs, before anything starts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rethink import recipes
from rethink.commands.console import columns, say, show
from rethink.errors import UserError
from rethink.jsonl import replace as write_file
from rethink.plan.counted import Counted, Lengths, count
from rethink.plan.memory import GIB
from rethink.plan.seconds import Machine
from rethink.recipe import Recipe, load_recipe

STAGES = ("sampling", "training")
STATED_BY_MODULES = "what is kept for the backward pass is counted for Llama's layers, which this model has not"


def plan(
    recipe: str,
    settings: Sequence[str],
    n_gpus: int,
    gib: float,
    config: Path | None,
    lengths: Lengths,
    machine: Machine,
    out: Path | None,
) -> None:
    """Print the plan, and write it as JSON where asked."""
    _check(n_gpus, gib, lengths, machine)
    resolved = load_recipe(recipes.find(recipe), settings)
    _check_ranks(resolved, n_gpus)
    found = figures(resolved, n_gpus, gib, config, lengths, machine)
    if out is not None:
        write_file(out, json.dumps(found, indent=1) + "\n")
    show(text(found))
    if out is not None:
        say(f"figures: {out}")


def _check(n_gpus: int, gib: float, lengths: Lengths, machine: Machine) -> None:
    if n_gpus < 1:
        raise UserError(f"--gpus must be at least 1, not {n_gpus}")
    if not gib > 0:
        raise UserError(f"--gpu-memory is the memory of one GPU in GiB, above 0, not {gib:g}")
    if not 0 < lengths.share <= 1 or lengths.question < 1:
        raise UserError("--reply-share must lie in (0, 1], and --question-tokens be 1 or more")
    if not (machine.tflops > 0 and machine.bandwidth > 0):
        raise UserError("--tflops and --bandwidth must be above 0")


def _check_ranks(recipe: Recipe, n_gpus: int) -> None:
    """What `rethink train` would refuse to do on so many GPUs."""
    if n_gpus > 1 and recipe.lora.rank and recipe.training.optimizer == "adamw8bit":
        raise UserError("several GPUs train adapters (lora.rank) with training.optimizer=adamw alone")
    if n_gpus > recipe.n_problems:
        raise UserError(
            f"{n_gpus} GPUs would share the problems of a batch, but there are only {recipe.n_problems} (n_problems)"
        )


def figures(
    recipe: Recipe, n_gpus: int, gib: float, config: Path | None, lengths: Lengths, machine: Machine
) -> dict[str, Any]:
    """All numbers of the plan. Memory is that of the longest replies; tokens and hours also of those that are assumed."""
    from rethink.models.device import GPU_SHARE
    from rethink.plan.advice import changes, first_fit
    from rethink.plan.estimate import Estimate, choice_of
    from rethink.plan.read import read_shape

    shape = read_shape(recipe.model.path, config)
    if not recipe.limits.cache_gib:
        recipe = replace(recipe, limits=replace(recipe.limits, cache_gib=GPU_SHARE * gib))
    most, problems = count(recipe, Lengths(lengths.question, 1.0))
    mean, _ = count(recipe, lengths)
    recomputed = recipe.training.old_log_probs == "recomputed"
    choice = choice_of(recipe, shape, n_gpus, most)
    longest, usual = (Estimate(choice, counted, recomputed) for counted in (most, mean))
    fits = longest.needed <= gib * GIB
    found: dict[str, Any] = {
        "method": recipe.method["name"],
        "model": recipe.model.path,
        "n_parameters": shape.n_parameters,
        "n_gpus": n_gpus,
        "gpu_memory_gib": gib,
        "memory": {stage: _memory(longest, stage) for stage in STAGES},
        "needed_gib": longest.needed / GIB,
        "fits": fits,
        "updates": {name: _tokens(e.counted) | _hours(e, machine) for name, e in (("mean", usual), ("most", longest))},
        "assumptions": _assumptions(recipe, lengths, machine, problems, shape.fused, n_gpus),
    }
    if not fits:
        found["changes"] = [{"setting": c.setting, "saved_gib": c.saved / GIB} for c in changes(longest)]
        together, then = first_fit(longest, gib * GIB)
        found["together"] = {"settings": together, "needed_gib": then.needed / GIB, "fits": then.needed <= gib * GIB}
    return found


def _memory(estimate: Any, stage: str) -> dict[str, Any] | None:
    moment = estimate.largest(stage)
    if moment is None:
        return None
    return {"moment": moment.name, "gib": {item.name: item.n_bytes / GIB for item in moment.items}}


def _tokens(counted: Counted) -> dict[str, Any]:
    n = max(1, len(counted.updates))
    own = [r for r in counted.requests if r.role == "policy"]
    return {
        "sampled": {r.phase: r.n_sampled / n for r in own},
        "prompts": sum(sum(r.prompts) for r in own) / n,
        "others": sum(r.n_sampled for r in counted.requests if r.role != "policy") / n,
        "trained": sum(s.n_trained for u in counted.updates for p in u.parts for s in p.samples) / n,
    }


def _hours(estimate: Any, machine: Machine) -> dict[str, float]:
    n = max(1, len(estimate.counted.updates))
    seconds = {"sampling_s": estimate.sampling_s(machine) / n, "training_s": estimate.training_s(machine) / n}
    return seconds | {"hours_per_100": sum(seconds.values()) / 36}


def _assumptions(
    recipe: Recipe, lengths: Lengths, machine: Machine, problems: str, fused: bool, n_gpus: int
) -> list[str]:
    cap = recipe.sampling.max_tokens
    found = [
        f"problems: {problems}; a word of a prompt is a token",
        f"replies: expected {lengths.share:.0%} of their cap (sampling.max_tokens = {cap}), at most all; half are right",
        "memory is that of the longest replies; 1 GiB for CUDA, 5% of the peak for what the allocator cannot use",
        f"a GPU: {machine.tflops:g} TFLOP/s in bfloat16, {machine.tflops_float32:g} in float32, {machine.bandwidth:g} TB/s "
        "(H100 SXM, NVIDIA's data sheet, unless given)",
        f"reached: {machine.share_of_tflops:.0%} of the operations, {machine.share_of_bandwidth:.0%} of the bandwidth, "
        f"{machine.launches_per_layer} operations per layer and token at {machine.launch_s * 1e6:g} us; not measured",
        "grading, evaluation and checkpoints are not counted",
    ]
    if n_gpus > 1:
        found.append(
            "weights, gradients and optimizer are sharded (FSDP2), two layers are gathered at a time, embedding and head "
            "stay whole; each GPU has all weights to sample with, and its share of the prompts"
        )
    return found if fused else [*found, STATED_BY_MODULES]


def text(found: dict[str, Any]) -> str:
    """The plan as tables."""
    gpus = f"{found['n_gpus']} GPU{'s' if found['n_gpus'] > 1 else ''} of {found['gpu_memory_gib']:g} GiB"
    head = f"{found['method']} on {found['model']} ({found['n_parameters'] / 1e9:.2f}e9 parameters), {gpus}"
    parts = [head, _memory_table(found), _verdict(found), _token_table(found)]
    return "\n\n".join([*parts, "assumed:\n" + "\n".join(f"- {line}" for line in found["assumptions"])])


def _memory_table(found: dict[str, Any]) -> str:
    stages = [stage for stage in STAGES if found["memory"][stage]]
    names = dict.fromkeys(name for stage in stages for name in found["memory"][stage]["gib"])
    lines = [["GiB per GPU", *stages]]
    for name in names:
        lines.append([name, *(_gib(found["memory"][stage]["gib"].get(name)) for stage in stages)])
    lines.append(["together", *(_gib(sum(found["memory"][stage]["gib"].values())) for stage in stages)])
    moments = ", ".join(f"{stage} {found['memory'][stage]['moment']}" for stage in stages)
    return f"{columns(lines)}\n(at the worst moment of each: {moments})"


def _gib(value: float | None) -> str:
    return "" if not value else f"{value:.2f}"


def _verdict(found: dict[str, Any]) -> str:
    needed = f"needs {found['needed_gib']:.1f} GiB per GPU with CUDA and fragments"
    if found["fits"]:
        return f"FITS: {needed}, of {found['gpu_memory_gib']:g}"
    lines = [f"DOES NOT FIT: {needed}, but there are {found['gpu_memory_gib']:g}"]
    table = [[change["setting"], f"{change['saved_gib']:.1f}"] for change in found["changes"]]
    if table:
        lines.append(columns([["each of these alone", "saves GiB"], *table]))
    together = found["together"]
    names = " ".join(together["settings"])
    then = f"{together['needed_gib']:.1f} GiB"
    lines.append(f"fits with: {names} ({then})" if together["fits"] else f"still not with: {names} ({then})")
    return "\n".join(lines)


def _token_table(found: dict[str, Any]) -> str:
    mean, most = found["updates"]["mean"], found["updates"]["most"]
    lines = [["per update", "expected", "at most"]]
    for phase in most["sampled"]:
        lines.append([f"sampled tokens, {phase}", *(f"{e['sampled'].get(phase, 0):,.0f}" for e in (mean, most))])
    for key, name in (("others", "sampled by others"), ("prompts", "prompt tokens"), ("trained", "trained tokens")):
        if most[key]:
            lines.append([name, *(f"{e[key]:,.0f}" for e in (mean, most))])
    for key, name in (("sampling_s", "seconds of sampling"), ("training_s", "seconds of training")):
        lines.append([name, *(f"{e[key]:,.1f}" for e in (mean, most))])
    lines.append(["hours per 100 updates", *(f"{e['hours_per_100']:,.2f}" for e in (mean, most))])
    return columns(lines)


def machine_of(tflops: float, bandwidth: float) -> Machine:
    """The default machine with other figures."""
    return Machine(**{**asdict(Machine()), "tflops": tflops, "bandwidth": bandwidth})
