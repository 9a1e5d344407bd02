"""`rethink train --dry-run`: check everything that a run needs, and describe the run on one screen."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rethink.commands.console import print_result, warn
from rethink.commands.train import load_checked
from rethink.errors import UserError
from rethink.objectives import Update, split_into_steps
from rethink.plan.token_counts import Lengths, count_batch
from rethink.printable import printable_line
from rethink.problems.source import needs_hub
from rethink.recipe import Recipe, changed_toml, to_toml
from rethink.run_folder import RunFolder
from rethink.settings import ProblemSource
from rethink.types import Problem

if TYPE_CHECKING:
    from rethink.training.check import Inputs

SHORT = Lengths(question=8, reply_share=1e-9)
"""Replies of one word: only their number counts here."""

HEAD, TAIL = 120, 240
"""What is shown of a long prompt, in characters. Its end says how to write the answer."""


def dry_run(recipe: str, settings: Sequence[str], show_all: bool, resume: bool) -> None:
    """Print the settings that differ from the defaults, or all of them, and what the run would do.

    Load no weights, and no data from the hub. Raise UserError for whatever `rethink train` would refuse."""
    resolved = load_checked(recipe, settings)
    from rethink.training.check import check_run
    from rethink.training.no_effect import doubtful_settings
    from rethink.training.problem_hash import TRAINING, refuse_changed
    from rethink.training.run_start import check_can_begin, checkpoint_to_resume

    inputs = check_run(resolved, hub=False)
    for message in doubtful_settings(resolved):
        warn(message)
    folder = RunFolder(Path(resolved.out))
    if resume:
        checkpoint_to_resume(folder, resolved, warn)
        loaded = {TRAINING: inputs.problems, "held-out": inputs.held_out}
        refuse_changed(folder, {purpose: found for purpose, found in loaded.items() if found}, inputs.grader)
    else:
        check_can_begin(folder)
    lines = ["# " + line for line in describe(resolved, inputs)]
    print_result((to_toml(resolved) if show_all else changed_toml(resolved)) + "\n" + "\n".join(lines))


def describe(recipe: Recipe, inputs: Inputs) -> list[str]:
    """Return what a run would do: its model, method, problems, samples, and where it writes."""
    rank = recipe.lora.rank
    weights = (
        f"a LoRA adapter of rank {rank} for {recipe.model.path}" if rank else f"all weights of {recipe.model.path}"
    )
    evaluation = recipe.evaluation
    lines = [
        f"would train {weights} with {recipe.method['name']} for {recipe.updates} updates",
        f"problems:   {_source(recipe.problems, len(inputs.problems), 'train')}, {recipe.problems_per_batch} per batch",
        f"each batch: {_batch(recipe)}",
    ]
    if inputs.problems:
        lines.append(f"a prompt:   {_prompt(recipe, inputs.problems[0])}")
    if evaluation.problems is None:
        lines.append("evaluation: none (evaluation.problems)")
    else:
        held_out = _source(evaluation.problems, len(inputs.held_out), "test")
        when = f"every {evaluation.every} updates and at the end" if evaluation.every else "at the end"
        when = f"at the start, {when}" if evaluation.at_start else when
        lines.append(f"evaluation: {held_out}; {evaluation.strategy}, {evaluation.n} per problem; {when}")
    minutes = f" and every {recipe.checkpoint_minutes:g} minutes" if recipe.checkpoint_minutes else ""
    lines.append(f"writes to:  {recipe.out}, a checkpoint every {recipe.checkpoint_every} updates{minutes}")
    unchecked = [] if inputs.has_model_files else ["model"]
    unchecked += [name for name, source in _sources(recipe) if needs_hub(source)]
    if unchecked:
        lines.append(f"not checked here, because it is on the hub: {', '.join(unchecked)}")
    return lines


def _prompt(recipe: Recipe, problem: Problem) -> str:
    """Return what the model is asked, on one line; the middle of a long question is left out."""
    from rethink.build import build_prompts

    (prompt,) = build_prompts(recipe, recipe.seed).ask([problem])
    text = printable_line(prompt.messages[-1].content)
    return text if len(text) <= HEAD + TAIL else f"{text[:HEAD]} ... {text[-TAIL:]}"


def _sources(recipe: Recipe) -> list[tuple[str, ProblemSource]]:
    held_out = recipe.evaluation.problems
    return [("problems", recipe.problems), *([] if held_out is None else [("evaluation.problems", held_out)])]


def _source(source: ProblemSource, n_problems: int, purpose: str) -> str:
    name = source.source if Path(source.source).is_file() else f"{source.source} (split {source.split or purpose})"
    return f"{n_problems} problems of {name}" if n_problems else f"the problems of {name}, which are not loaded now"


def _batch(recipe: Recipe) -> str:
    """Return the replies and the updates of a problem batch, by running the method with dummy replies."""
    counted, _ = count_batch(recipe, SHORT)
    parts: list[str] = []
    for request in counted.requests:
        n_replies = len(request.prompts) * request.n
        whose = "" if request.role == "policy" else f" by the {request.role}"
        parts.append(f"{n_replies:,} replies ({request.phase}{whose}, at most {request.sampling.max_tokens:,} tokens)")
    n_steps = sum(_most_steps(update) for update in counted.updates)
    n_updates = len(counted.updates)
    if not n_updates:
        raise UserError(f"the method {recipe.method['name']} gives no update, so the run would never end")
    parts.append(
        f"{n_updates} update{'s' * (n_updates != 1)} in at most {n_steps} optimizer step{'s' * (n_steps != 1)}"
    )
    asked = sum(update.n_steps for update in counted.updates)
    if n_steps < asked:
        parts.append(f"not {asked} as n_steps asks, because a step needs a group of replies")
    rest = recipe.updates % n_updates
    if rest:
        parts.append(f"so {recipe.updates - rest + n_updates} updates in all, because a batch is finished")
    return ", ".join(parts)


def _most_steps(update: Update) -> int:
    """Return the number of optimizer steps if every group of replies is trained: steps without a group are left out."""
    taken: set[int] = set()
    for part in update.parts:
        for k, step in enumerate(split_into_steps(part, update.n_steps)):
            if step.samples:
                taken.add(k)
    return len(taken)
