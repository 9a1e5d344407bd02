"""How tiny-shapes is made: what it learns from, and the loss of several questions about an image."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from rethink.models.load import load_model
from rethink.problems import shapes
from rethink.problems.shapes_canvas import COLORS
from rethink.problems.source import load_problems
from rethink.seeds import rng
from rethink.settings import ProblemSource
from rethink.training import make_tiny_shapes
from rethink.training.make_tiny_shapes import PREFIX, branch, branches, imitation_loss, labels, scenes
from rethink.training.tiny_shapes_parts import PATCH, pixels, processor, tokenizer, vision_model
from rethink.types import Message

TASK_OF = {"How many": "count", "What color": "color", "Where is": "position", "Which is": "larger"}


def test_it_learns_from_the_train_split_with_words_that_it_knows() -> None:
    """Guards against held-out questions that were seen, and against words that become padding."""
    words, draw = tokenizer(), rng("test")
    held_out = {p.question for p in islice(shapes.problems("test", "count+color+position+larger"), 200)}
    for question in held_out:
        assert 0 not in words(question)["input_ids"]
    for canvas, asked in islice(scenes(5), 200):
        for one in asked:
            (task,) = (task for start, task in TASK_OF.items() if one.question.startswith(start))
            assert shapes.key_of(task, one.question, canvas) % 20 < 12
            assert 0 not in branch(words, one, draw).ids


@pytest.mark.parametrize("slips", [0.0, 1.0])
def test_slips_are_in_first_solutions(slips: float) -> None:
    """Guards against perfect solutions in the last stage, and slips behind "wait": the verifier judges what is written."""
    words, draw = tokenizer(), rng("test")
    n_first = n_again = 0
    for _, asked in islice(scenes(5), 100):
        _, reply = words.decode(branch(words, asked[0], draw, slips).ids).removesuffix("<end>").split("<reply>")
        first, _, again = reply.partition("wait")
        if again:
            n_again += 1
            assert shapes.verify(again, asked[0].answer).right, reply
        elif first.strip().startswith("<think>"):
            n_first += 1
            assert shapes.verify(first, asked[0].answer).right == (slips == 0), reply
    assert n_first > 40
    assert n_again > 1


def test_pixels_are_those_of_the_processor() -> None:
    """Guards against a tower that was trained on other numbers than it gets later."""
    canvas, _ = next(scenes(5))
    theirs = processor()(images=[canvas.pil_image()], text=["<image>"], return_tensors="pt")
    assert torch.allclose(theirs["pixel_values"][0, 0], pixels([canvas])[0], atol=1e-6)
    assert theirs["input_ids"][0].tolist() == tokenizer()(PREFIX)["input_ids"][1:]


def test_labels_are_what_the_image_shows() -> None:
    """Guards against patches in columns for rows: the middle of a patch has the color of its label."""
    for canvas, _ in islice(scenes(5), 40):
        colors = [color for color in canvas.drawn if color.kind == "square"]
        image, found = canvas.pil_image(), labels(canvas)
        for item in colors:
            row, column = item.y // PATCH, item.x // PATCH
            label = found[row * (96 // PATCH) + column]
            assert label[2] == item.size
            assert COLORS[list(COLORS)[label[0] - 1]] == image.getpixel((item.x, item.y))


def test_questions_about_an_image_do_not_see_each_other() -> None:
    """Guards against a mask or positions that are off: the loss is that of each question alone, without padding."""
    torch.manual_seed(0)
    model, words, draw = vision_model(), tokenizer(), rng("test")
    vectors_N_I_H = torch.randn(3, 16, 64)
    rows = [branches(words, asked, draw) for _, asked in islice(scenes(5), 3)]
    prefix = words(PREFIX)["input_ids"]
    total, n = 0.0, 0
    for vectors_I_H, row in zip(vectors_N_I_H, rows, strict=True):
        for one in row:
            ids_1_T = torch.tensor([[*prefix, *one.ids]])
            x_1_T_H = model.get_input_embeddings()(ids_1_T)
            x_1_T_H = x_1_T_H.masked_scatter((ids_1_T == model.config.image_token_id)[..., None], vectors_I_H)
            logits_T_V = model.lm_head(model.model.text_model(inputs_embeds=x_1_T_H).last_hidden_state)[0]
            places = slice(ids_1_T.shape[1] - one.n_learned - 1, -1)
            loss = F.cross_entropy(logits_T_V[places], ids_1_T[0, -one.n_learned :], reduction="sum")
            total, n = total + loss.item(), n + one.n_learned
    assert imitation_loss(model, vectors_N_I_H, prefix, rows).item() == pytest.approx(total / n, rel=1e-5)


@pytest.mark.slow
def test_what_it_writes_is_a_vision_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against files that the library cannot open, prompts that differ from those it was trained on, and weights that
    the seed does not decide."""
    monkeypatch.setattr(make_tiny_shapes, "N_TOWER", 2)
    monkeypatch.setattr(make_tiny_shapes, "N_ALL", 2)
    monkeypatch.setattr(make_tiny_shapes, "N_SLIPS", 2)
    for name in ("m", "same"):
        make_tiny_shapes.main(str(tmp_path / name))
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("m", "same")]
    assert weights[0] == weights[1]
    model = load_model(str(tmp_path / "m"))
    assert model.image_vectors is not None
    (problem,) = load_problems(ProblemSource("shapes:count", limit=1))
    ids = model.chat.encode((Message("user", problem.question, problem.images),))
    shown = [min(i, model.n_embeddings) for i in ids]
    image = model.module.config.image_token_id
    expected = tokenizer()(f"{PREFIX} {problem.question} <reply>")["input_ids"]
    assert [image if i == model.n_embeddings else i for i in shown] == expected
