"""The card of an exported model (README.md), and the recipe that it was trained by (recipe.toml).

All of it is read from the run folder and the folder of the base model. What they do not say is left out or left open.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import ModelCardData
from transformers import AutoConfig, AutoModelForImageTextToText

from rethink.errors import UserError
from rethink.evaluation.bounds import NOTE
from rethink.evaluation.fresh import RATES, rate_columns, why_no_fresh
from rethink.evaluation.intervals import Estimate
from rethink.images import MARK
from rethink.jsonl import Record, read_lines, write_text
from rethink.methods import METHODS
from rethink.models.gguf.folder import origin
from rethink.models.read_weights import model_class
from rethink.models.vision.image_text import has_processor
from rethink.printable import printable_line
from rethink.problems import mathematics
from rethink.problems.source import GENERATORS, answer_format_of
from rethink.problems.suites import expand_sources, find_suite
from rethink.recipe import Recipe, load_recipe
from rethink.run_folder import RunFolder
from rethink.settings import ProblemSource
from rethink.training.base_model import BaseModel, find_base_model, read_settings, run_of, update_of
from rethink.training.shared_recipe import last_part, shared_recipe
from rethink.version import __version__

CARD, RECIPE = "README.md", "recipe.toml"
QUESTION = "What is 17 * 24?"
"""An example, if the held-out problems are no public benchmark."""

IMAGE = "image.png"
"""The name of an image in an example, for the reader's own."""

TURN = """
def turn(role, text):
    return {"role": role, "content": text}
""".strip()

VISION_TURN = """
def turn(role, text, *images):
    return {"role": role, "content": [*({"type": "image", "path": p} for p in images), {"type": "text", "text": text}]}
""".strip()
"""How the example in a card makes a message: for vision-language models, of parts."""


@dataclass(frozen=True)
class Origin:
    """What is known of a model: the folder or file that was exported, its base model, and of a run its settings, its recipe
    (None if these settings cannot be loaded here), the update and the evaluations up to it (None if a record of one is
    damaged). `question` is an example, which `has_image` or not.
    """

    source: Path
    base: BaseModel
    settings: Record
    recipe: Recipe | None
    update: int | None
    evaluations: list[Record] | None
    question: str
    has_image: bool = False


def read_origin(source: Path) -> Origin:
    """Return what the files say about a model: a checkpoint of a run, or any other."""
    run = run_of(source.resolve())
    base = find_base_model(source)
    update = None if run is None else update_of(source.resolve())
    if run is None or update is None:
        return Origin(source, base, {}, None, None, [], QUESTION)
    try:
        recipe = load_recipe(run.path / "config.toml")
    except UserError:  # its method may be a file that is not here
        recipe = None
    question, has_image = QUESTION, False
    if recipe is not None and _are_public(recipe.evaluation.problems):
        question, has_image = _example(run, update)
    return Origin(source, base, read_settings(run), recipe, update, _evaluations(run, update), question, has_image)


def _evaluations(run: RunFolder, update: int) -> list[Record] | None:
    """Return the records of a run's evaluations up to an update, one of each; None if one of them is damaged."""
    by_update: dict[int, Record] = {}
    try:
        for _, record in read_lines(run.metrics):
            if record.get("phase") == "evaluation" and record["update"] <= update:
                _table([record], [*RATES])
                by_update[record["update"]] = {**record, "n_problems": int(record["n_problems"])}
    except (AttributeError, LookupError, TypeError, ValueError):
        return None
    return [by_update[number] for number in sorted(by_update)]


def _example(run: RunFolder, update: int) -> tuple[str, bool]:
    """Return the first question of a run's evaluation that a reader can ask, and whether it has an image."""
    for _, answer in read_lines(run.path / "eval" / f"{update:06d}.jsonl"):
        try:
            question, images = answer["question"], answer.get("images", ())
            if MARK not in question and len(images) <= 1:
                return str(question), bool(images)
        except (LookupError, TypeError):  # a damaged record
            continue
    return QUESTION, False


def _are_public(problems: ProblemSource | None) -> bool:
    """Return whether a question of these problems may be shown: all are of known benchmarks or generated."""
    names = expand_sources(problems.source) if problems is not None and problems.source else []
    known: list[str] = []
    for name in names:
        if name in GENERATORS or name.startswith(("gym:", "shapes:")) or find_suite(name) is not None:
            known.append(name)
    return bool(names) and known == names


def write_card(folder: Path, source: Path, name: str, dtype: str) -> None:
    """Write the card of the model in `folder`, which was exported from `source`, and its recipe if there is one. `name` is
    what readers call it: a repository, or a folder.
    """
    found = read_origin(source)
    takes_images = _takes_images(folder)
    parts = [_metadata(found, takes_images), f"# {name.rpartition('/')[2]}", _opening(found)]
    parts += [
        _training(found, dtype),
        _results(found, dtype),
        _use(found, name, folder if takes_images else None),
        _license(found.base),
    ]
    write_text(folder / CARD, "\n\n".join(filter(None, parts)) + "\n")
    if found.recipe is not None:
        write_text(folder / RECIPE, shared_recipe(found.recipe))


def _takes_images(folder: Path) -> bool:
    """Return whether a model folder is opened by transformers' class for images and text."""
    if not (folder / "config.json").is_file():
        return False
    return model_class(AutoConfig.from_pretrained(folder, trust_remote_code=False)) is AutoModelForImageTextToText


def _metadata(found: Origin, takes_images: bool) -> str:
    """Return the block that the hub reads. A license that is not known is left open."""
    method = _method_name(found)
    tags = ["rethink", *([method.replace("_", "-"), "reinforcement-learning"] if method else [])]
    named = {"base_model": found.base.on_hub, "datasets": _data_sets(found), **found.base.license}
    task = "image-text-to-text" if takes_images else "text-generation"
    fields = ModelCardData(library_name="transformers", pipeline_tag=task, tags=tags)
    for key, value in named.items():
        if value:
            fields[key] = value
    left_open = "" if found.base.license else "# license: not known; fill it in before you share this model\n"
    return f"---\n{left_open}{fields.to_yaml().strip()}\n---"


def _method_name(found: Origin) -> str:
    """Return the name of the method as a tag; "" without a run."""
    return str(found.settings.get("method", {}).get("name", "")).rpartition(":")[2]


def _data_sets(found: Origin) -> list[str]:
    """Return the data sets on the hub that the run was trained on."""
    names: list[str] = []
    source = found.settings.get("problems", {}).get("source", "")
    for name in expand_sources(source) if source else []:
        suite = find_suite(name)
        if name.startswith("hub:"):
            names.append(name.removeprefix("hub:"))
        elif suite is not None:
            names.append(suite.hub)
    return list(dict.fromkeys(names))


def _opening(found: Origin) -> str:
    if found.update is None:
        return f"Exported by rethink {__version__} from {code(last_part(str(found.source)))}."
    return (
        f"{_base_link(found.base)}, trained for {found.update} updates with rethink {__version__} to solve problems and to "
        "improve its answers."
    )


def _base_link(base: BaseModel) -> str:
    return f"[{base.on_hub}](https://huggingface.co/{base.on_hub})" if base.on_hub else code(last_part(base.name))


def _training(found: Origin, dtype: str) -> str:
    """Return a table of what the model is."""
    settings = found.settings
    rows = [("base model", _base_link(found.base))]
    if settings:
        rows.append(("method", _method_text(str(settings.get("method", {}).get("name", "")))))
        rows.append(("problems", _problems_text(settings.get("problems", {}))))
        rows.append(("updates", f"{found.update} of {settings.get('updates', '?')}"))
    weights = [dtype]
    if settings.get("lora", {}).get("rank"):
        weights.append(f"with a LoRA adapter of rank {settings['lora']['rank']} merged into them")
    rows.append(("weights", "; ".join(filter(None, [*weights, origin(str(found.source))]))))
    table = "\n".join(f"| {title} | {text} |" for title, text in rows)
    if found.recipe is not None:
        after = f"\n\nAll settings that differ from their defaults are in {code(RECIPE)}."
    else:
        after = "\n\nIts settings could not be loaded where it was exported, so there is no recipe." if settings else ""
    return f"## The model\n\n| | |\n|---|---|\n{table}{after}"


def _method_text(name: str) -> str:
    """Return what a method is, with links to its papers: the first sentence of its file."""
    if name not in METHODS:
        return f"{code(name)}, a custom method"
    text = (sys.modules[METHODS[name].__module__].__doc__ or "").split("\n\n")[0]
    linked = re.sub(r"arXiv (\d{4}\.\d{5})", r"[arXiv \1](https://arxiv.org/abs/\1)", " ".join(text.split()))
    return f"{code(name)}: {linked}".replace("|", "\\|")


def _problems_text(problems: Record) -> str:
    """Return where problems come from: the sources, and which part of them."""
    source = ", ".join(code(last_part(name.strip())) for name in str(problems.get("source", "")).split(","))
    parts = [f"split {code(str(problems['split']))}" if problems.get("split") else ""]
    parts.append(f"the first {problems['limit']}" if problems.get("limit") else "")
    return ", ".join([source, *filter(None, parts)])


def _results(found: Origin, dtype: str) -> str:
    """Return the table of held-out evaluations: at the start, if there was one, and of these weights or the last before."""
    if found.update is None:
        return ""
    title = "## Held-out results\n\n"
    if found.evaluations is None:
        return f"{title}They cannot be shown: a record of them was damaged when this model was exported."
    if not found.evaluations:
        return f"{title}The run has no held-out evaluation of these weights."
    shown = [record for record in found.evaluations[:-1] if record["update"] == 0] + found.evaluations[-1:]
    columns = _measured_columns(shown)
    notes = _result_notes(found, shown, columns)
    return "\n\n".join([f"{title}{_measured(found, shown[-1], dtype)}", _table(shown, columns), *notes])


def _measured_columns(shown: Sequence[Record]) -> list[str]:
    """Return the rates that some evaluation has: where nothing was refined, only that of first answers."""
    return [key for key in rate_columns(shown) if any(record[key]["n"] for record in shown)]


def _table(shown: Sequence[Record], columns: Sequence[str]) -> str:
    """Return a table of rates with a row per evaluation."""
    lines = [["", *map(RATES.__getitem__, columns)], ["---"] * (1 + len(columns))]
    for record in shown:
        number = record["update"]
        cells = ["before training" if number == 0 else f"after {number} updates"]
        for key in columns:
            estimate = Estimate(**record[key])
            cells.append(estimate.value_percent() if key.endswith("_fresh") else estimate.percent())
        lines.append(cells)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _measured(found: Origin, record: Record, dtype: str) -> str:
    """Return what the numbers of an evaluation are."""
    text = f"In percent with 95% intervals over problems, on {record['n_problems']} held-out problems"
    if found.recipe is not None:
        settings = found.recipe.evaluation
        if settings.problems is not None and settings.problems.source:
            text += f" of {_problems_text({'source': settings.problems.source, 'split': settings.problems.split})}"
        text += f", {settings.n} answers each at temperature {settings.sampling.temperature:g}"
    stored = found.settings.get("model", {}).get("dtype", "float32")
    rounded = "" if dtype == stored else f" They were measured in {stored}, before the weights were rounded to {dtype}."
    return f"{text}.{rounded}"


def _result_notes(found: Origin, shown: Sequence[Record], columns: Sequence[str]) -> list[str]:
    """Return what a reader of the table must know."""
    notes: list[str] = []
    if shown[-1]["update"] != found.update:
        notes.append(f"The weights after {found.update} updates were not evaluated.")
    meanings = {
        "fix": "Fix rate: the share of wrong drafts that the refinement made right.",
        "damage": "Damage rate: the share of right drafts that the refinement made wrong.",
        "fix_fresh": "Fresh: what these rates would be with a new answer in place of the refinement.",
    }
    notes.append(" ".join(text for key, text in meanings.items() if key in columns))
    for note in (why_no_fresh(shown), NOTE if any(record.get("n_not_graded") for record in shown) else ""):
        if note:
            notes.append(f"{note[0].upper()}{note[1:]}.")
    return list(filter(None, notes))


def _use(found: Origin, name: str, vision: Path | None) -> str:
    """Return how to ask the model twice: by this package, and by transformers alone. `vision` is the folder of a model with
    a vision tower.
    """
    folder = shlex.quote(name.rpartition("/")[2])
    download = f"hf download {name} --local-dir {folder}\n" if "/" in name else ""
    recipe = f" --recipe {folder}/{RECIPE}" if found.recipe is not None else ""
    question = shlex.quote(printable_line(found.question)) + (f" --image {IMAGE}" if found.has_image else "")
    alone = "" if vision and not has_processor(str(vision)) else _with_transformers(found, name, bool(vision))
    return (
        "## Two passes\n\nThe model answers, is asked to review its answer, and answers again.\n\n"
        f"```console\n{download}rethink answer {folder} {question}{recipe}\n"
        f"rethink serve {folder}{recipe}    # for OpenAI clients: the model {folder}+refine answers in two passes\n```\n\n"
        f"{alone}"
    ).strip()


def _with_transformers(found: Origin, name: str, takes_images: bool) -> str:
    recipe = found.recipe or Recipe()
    if recipe.model.template:
        return (
            f"It was trained with another chat template than its tokenizer's ({code(last_part(recipe.model.template))}), "
            "which transformers does not know."
        )
    model, reader = ("ImageTextToText", "Processor") if takes_images else ("CausalLM", "Tokenizer")
    own = reader.lower()
    how = 'add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"'
    image = f", {IMAGE!r}" if found.has_image else ""
    system = f"turn('system', {recipe.prompts.system!r})" if recipe.prompts.system else ""
    code_lines = f"""
from transformers import AutoModelFor{model}, Auto{reader}

model = AutoModelFor{model}.from_pretrained({name!r})
{own} = Auto{reader}.from_pretrained({name!r})


{VISION_TURN if takes_images else TURN}


def reply(messages):
    inputs = {own}.apply_chat_template(messages, {how})
    output = model.generate(**inputs, max_new_tokens={recipe.evaluation.sampling.max_tokens}, do_sample=False)
    return {own}.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


question = {found.question!r}
messages = [{system}]
messages += [turn("user", {_solve_text(found.recipe)!r}.replace("{{question}}", question){image})]
draft = reply(messages)
messages += [turn("assistant", draft), turn("user", {recipe.prompts.refine!r})]
print(draft, reply(messages), sep="\\n\\n")
"""
    return (
        f"Or with transformers alone, without sampling:\n\n```python{code_lines}```\n\nA draft that begins with its "
        "thinking needs more care: chat templates drop it from the second prompt. `rethink` shows it there."
    )


def _solve_text(recipe: Recipe | None) -> str:
    """Return the text that asks for an answer, with {question} in it."""
    if recipe is None or recipe.prompts.solve:
        return "{question}" if recipe is None else recipe.prompts.solve
    if ":" in recipe.problems.verifier:  # a user's function, which is not to be imported here
        return mathematics.SOLVE_BOXED
    return answer_format_of(recipe.problems).solve


def _license(base: BaseModel) -> str:
    title = "## License\n\n"
    if base.license:
        terms = ", ".join(code(value) for value in base.license.values())
        return f"{title}{terms}: the license of {_base_link(base)}. The data that it was trained on may add terms."
    return (
        f"{title}Not known: no card of {_base_link(base)} was found where this model was exported. Before you share it, "
        "look up the license of the base model and of the data, and write it into the block at the top of this file "
        "(`license: ...`)."
    )


def code(text: str) -> str:
    """Return the text as code in Markdown, on one line, also within a table.

    >>> code("a`b|c")
    "`a'b\\\\|c`"
    """
    return f"`{printable_line(text).replace('`', chr(39)).replace('|', chr(92) + '|')}`"
