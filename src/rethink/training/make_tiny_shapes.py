"""Make the tiny vision model "tiny-shapes", which answers questions about shapes:

    python -m rethink.training.make_tiny_shapes FOLDER [SEED]

1. The tower learns to say what is in each patch of an image: color, kind, and the size of the shape whose middle is there.
   The layer that says it is thrown away.
2. The whole model imitates worked solutions (`problems.shapes_worked`): with a thought, with an empty thought, and behind
   "wait" after a mistake. It also asks and answers sub-questions (Socratic-MCTS).
3. The language model learns from solutions of which some have a slip and a wrong answer. So it answers worse than it
   could, as the other tiny models do. In one trial without this stage, no gain from GRPO was seen.

All stages draw new images of the train split all the time.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rethink.problems import shapes
from rethink.problems.shapes_canvas import COLORS, KINDS, SIZE, Canvas
from rethink.problems.shapes_worked import TASKS, Worked, mistaken, worked
from rethink.seeds import rng
from rethink.strategies.socratic import FIRST, NEXT, WRAP_UPS
from rethink.training.tiny_shapes_parts import (
    PATCH,
    image_text,
    load,
    pixels,
    save,
    tokenizer,
    vision_model,
)

N_TOWER, N_ALL, N_SLIPS = 150, 1_200, 150
"""Steps of the three stages."""

SLIPS = 0.3
"""The share of first solutions with a slip, in the last stage."""

N_IMAGES, N_ASKED = 32, 24
"""Images of a step: of the tower's stage, and of the others."""

MOST = 96
"""The most tokens of the questions and replies that follow an image; further ones are left out."""

PREFIX = f"<user> {image_text()}"
SIDE = SIZE // PATCH


def main(folder: str, seed: int = 0) -> None:
    torch.manual_seed(seed)
    model = vision_model()
    train_tower(model, seed, N_TOWER)
    train_all(model, seed, N_ALL)
    Path(folder).mkdir(parents=True, exist_ok=True)
    save(model, folder)
    model = load(folder)
    train_slips(model, seed + 1, N_SLIPS)
    save(model, folder)


def scenes(seed: int) -> Iterator[tuple[Canvas, list[Worked]]]:
    """Yield images and what can be asked about them, without questions of the other splits."""
    draw = rng("make_tiny_shapes", seed)
    shares = shapes.SPLITS["train"][0]
    while True:
        for task in TASKS:
            canvas, question, _ = shapes.TASKS[task](draw, 1)
            found: list[Worked] = []
            for one in worked(task, canvas):
                if shapes.key_of(task, one.question, canvas) % 20 in shares:
                    found.append(one)
            if question in {one.question for one in found}:
                yield canvas, found


class PatchReader(nn.Module):
    """Says what the tower has seen in each patch: the color and the kind of the shape there, and the size of one whose
    middle is there; 0 for none."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList(nn.Linear(width, n) for n in (len(COLORS) + 1, len(KINDS) + 1, SIZE // 2))

    def loss(self, x_N_P_H: Tensor, labels_N_P_3: Tensor, weight_of_none: float) -> Tensor:
        losses: list[Tensor] = []
        for n, head in enumerate(self.heads):
            logits = head(x_N_P_H).flatten(0, 1)
            weights = torch.ones(logits.shape[-1])
            weights[0] = weight_of_none
            losses.append(F.cross_entropy(logits, labels_N_P_3[..., n].flatten(), weights))
        return torch.stack(losses).sum()


def labels(canvas: Canvas) -> list[list[int]]:
    """Return what `PatchReader` is to say of each patch, row by row."""
    found: list[list[int]] = []
    for row in range(SIDE):
        for column in range(SIDE):
            x, y = (PATCH * n + PATCH // 2 for n in (column, row))
            label = [0, 0, 0]
            for item in canvas.drawn:
                if max(abs(item.x - x), abs(item.y - y)) <= item.size:
                    label[:2] = list(COLORS).index(item.color) + 1, KINDS.index(item.kind) + 1
                if (item.x // PATCH, item.y // PATCH) == (column, row):
                    label[2] = item.size
            found.append(label)
    return found


def train_tower(model: Any, seed: int, n_steps: int) -> None:
    """Train the tower to see what is in each patch."""
    torch.manual_seed(seed)
    tower = model.model.vision_model
    reader = PatchReader(tower.config.hidden_size)
    step = _Steps([*tower.parameters(), *reader.parameters()], 4e-3, n_steps, "tower")
    drawn = scenes(seed)
    for _ in range(n_steps):
        canvases = [next(drawn)[0] for _ in range(N_IMAGES)]
        x_N_P_H = tower(pixel_values=pixels(canvases)).last_hidden_state
        step(reader.loss(x_N_P_H, torch.tensor([labels(c) for c in canvases]), 1.0))


def train_all(model: Any, seed: int, n_steps: int) -> None:
    """Train the whole model to answer questions, and its tower still to see what is in each patch."""
    torch.manual_seed(seed)
    prefix = tokenizer()(PREFIX)["input_ids"]
    tower = model.model.vision_model
    reader = PatchReader(tower.config.hidden_size)
    step = _Steps([*model.parameters(), *reader.parameters()], 3e-3, n_steps, "all")
    for canvases, rows in islice(batches(seed), n_steps):
        x_N_P_H = tower(pixel_values=pixels(canvases)).last_hidden_state
        seen = reader.loss(x_N_P_H, torch.tensor([labels(c) for c in canvases]), 0.2)
        step(seen + imitation_loss(model, model.model.connector(x_N_P_H), prefix, rows))


def train_slips(model: Any, seed: int, n_steps: int) -> None:
    """Train the language model to make slips."""
    prefix = tokenizer()(PREFIX)["input_ids"]
    step = _Steps([*model.model.text_model.parameters(), *model.lm_head.parameters()], 1e-3, n_steps, "slips")
    for canvases, rows in islice(batches(seed, SLIPS), n_steps):
        with torch.no_grad():
            x_N_P_H = model.model.vision_model(pixel_values=pixels(canvases)).last_hidden_state
            vectors_N_I_H = model.model.connector(x_N_P_H)
        step(imitation_loss(model, vectors_N_I_H, prefix, rows))


def batches(seed: int, slips: float = 0.0) -> Iterator[tuple[list[Canvas], list[list[Branch]]]]:
    """Yield images, and the branches that follow each."""
    words, drawn, draw = tokenizer(), scenes(seed + 1), rng("branches", seed)
    while True:
        batch = [next(drawn) for _ in range(N_ASKED)]
        rows: list[list[Branch]] = []
        for _, asked in batch:
            rows.append(branches(words, asked, draw, slips))
        yield [canvas for canvas, _ in batch], rows


@dataclass(frozen=True)
class Branch:
    """What follows an image: a question and a reply. The loss is on the last `n_learned` tokens."""

    ids: list[int]
    n_learned: int


def branch(words: Any, one: Worked, draw: random.Random, slips: float = 0.0) -> Branch:
    """Return a question with a reply of a kind that is drawn."""
    (kind,) = draw.choices((_solved, _short, _again, _socratic), (6, 1, 1, 4))
    if slips and kind in (_solved, _short) and draw.random() < slips:
        thought, answer = mistaken(one, draw)
        one = replace(one, thought=thought, answer=answer)
    asked, given, reply = kind(one, draw)
    before = words(f"{asked} <reply> {given}")["input_ids"]
    after = words(f"{reply} <end>")["input_ids"]
    return Branch([*before, *after], len(after))


def branches(words: Any, asked: Sequence[Worked], draw: random.Random, slips: float = 0.0) -> list[Branch]:
    """Return branches with the questions about an image, in random order; most images have two, which are asked twice."""
    found: list[Branch] = []
    n_tokens = 0
    for one in draw.sample([*asked, *asked], min(4, 2 * len(asked))):
        more = branch(words, one, draw, slips)
        n_tokens += len(more.ids)
        if found and n_tokens > MOST:
            break
        found.append(more)
    return found


Turn = tuple[str, str, str]
"""What is asked, the start of the reply, which is not imitated, and the rest of it."""


def _solved(one: Worked, draw: random.Random) -> Turn:
    return f"{one.question} think", "", f"<think> {one.thought} </think> {one.answer}"


def _short(one: Worked, draw: random.Random) -> Turn:
    """Without "think", a thought is dropped with probability 0.5."""
    return one.question, "", f"<think> {draw.choice((one.thought, ''))} </think> {one.answer}"


def _again(one: Worked, draw: random.Random) -> Turn:
    """Behind a first try, which is mostly wrong and may be cut within its thought."""
    thought, answer = mistaken(one, draw) if draw.random() < 0.7 else (one.thought, one.answer)
    first = f"<think> {thought}" + f" </think> {answer}" * (draw.random() < 0.7)
    asked = f"{one.question}{draw.choice((' think', ''))}"
    return asked, f"{first} wait", f"<think> {one.thought} </think> {one.answer}"


def _socratic(one: Worked, draw: random.Random) -> Turn:
    """Ask the next sub-question, answer one, or answer the question after some of them."""
    facts = draw.sample(one.facts, draw.randint(0, len(one.facts)))
    units = ""
    for n, (question, answer) in enumerate(facts):
        units += f"{NEXT if n else FIRST} {question} {answer} "
    kind = draw.choice(("ask", "tell", "answer"))
    if kind == "tell":
        question, answer = draw.choice(one.facts)
        return f"{question} tell", "", answer
    if kind == "answer":
        return f"{one.question}{draw.choice((' think', ''))}", units + draw.choice(WRAP_UPS), one.answer
    rest = [fact for fact in one.facts if fact not in facts]
    return f"{one.question} {units or 'nothing yet'} ask", "", draw.choice(rest)[0] if rest else "no further question"


def imitation_loss(model: Any, vectors_N_I_H: Tensor, prefix: Sequence[int], rows: list[list[Branch]]) -> Tensor:
    """Return the mean loss of the learned tokens. The branches of a row follow one image, and do not see each other."""
    length = len(prefix) + max(sum(len(b.ids) for b in row) for row in rows)
    ids_N_T = torch.zeros((len(rows), length), dtype=torch.long)
    part_N_T = torch.full((len(rows), length), -1)
    positions_N_T, targets_N_T = torch.zeros_like(ids_N_T), torch.full_like(ids_N_T, -100)
    for n, row in enumerate(rows):
        at = len(prefix)
        ids_N_T[n, :at] = torch.tensor(prefix)
        part_N_T[n, :at], positions_N_T[n, :at] = 0, torch.arange(at)
        for k, b in enumerate(row):
            end = at + len(b.ids)
            ids_N_T[n, at:end], part_N_T[n, at:end] = torch.tensor(b.ids), k + 1
            positions_N_T[n, at:end] = len(prefix) + torch.arange(len(b.ids))
            targets_N_T[n, end - b.n_learned - 1 : end - 1] = torch.tensor(b.ids[-b.n_learned :])
            at = end
    x_N_T_H = model.get_input_embeddings()(ids_N_T)
    x_N_T_H = x_N_T_H.masked_scatter((ids_N_T == model.config.image_token_id)[..., None], vectors_N_I_H)
    same = (part_N_T[:, :, None] == part_N_T[:, None]) | (part_N_T[:, None] == 0)
    mask = same & torch.ones((length, length), dtype=torch.bool).tril()
    out = model.model.text_model(inputs_embeds=x_N_T_H, attention_mask=mask[:, None], position_ids=positions_N_T)
    is_target = targets_N_T >= 0
    return F.cross_entropy(model.lm_head(out.last_hidden_state[is_target]), targets_N_T[is_target])


class _Steps:
    """Steps of an optimizer, whose rate rises for 15 of them, and falls to zero over the second half."""

    def __init__(self, parameters: Sequence[Tensor], lr: float, n_steps: int, name: str) -> None:
        self.parameters, self.n_steps, self.name = parameters, n_steps, name
        self.optimizer = torch.optim.AdamW(parameters, lr, betas=(0.9, 0.98), weight_decay=0.01)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda n: min((n + 1) / 15, 1.0, 2 * (n_steps - n) / n_steps)
        )
        self.n_done, self.start, self.mean = 0, time.perf_counter(), 0.0

    def __call__(self, loss: Tensor) -> None:
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.schedule.step()
        self.n_done += 1
        self.mean += (loss.item() - self.mean) / min(self.n_done, 50)
        if self.n_done % 20 == 0:
            seconds = time.perf_counter() - self.start
            print(f"{self.name} {self.n_done}/{self.n_steps} loss {self.mean:.3f} {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)  # with more, sums are rounded otherwise
    main(sys.argv[1], *map(int, sys.argv[2:3]))
