"""Divergences of two distributions per token, in chunks, against values worked out by hand and dense float64 tables."""

from __future__ import annotations

import math
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from rethink.models.forward.divergence import divergence, token_divergences
from rethink.models.forward.weights import Head
from rethink.objectives import Divergence
from support.kept_tables import kept_tables
from support.largest_tensor import LargestTensor
from support.products import count_operations

T, V, H = 13, 17, 5
STUDENT = (0.5, 0.3, 0.15, 0.05)
TEACHER = (0.2, 0.3, 0.1, 0.4)
KINDS: tuple[Literal["forward", "reverse", "jensen_shannon"], ...] = ("forward", "reverse", "jensen_shannon")
WHOSE: tuple[Literal["student", "teacher"], ...] = ("student", "teacher")


def kl(p: tuple[float, ...], q: tuple[float, ...]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def js(p: tuple[float, ...], q: tuple[float, ...]) -> float:
    m = tuple((a + b) / 2 for a, b in zip(p, q, strict=True))
    return kl(p, m) / 2 + kl(q, m) / 2


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        # 0.2 ln 0.4 + 0.3 ln 1 + 0.1 ln (2/3) + 0.4 ln 8 = -0.18326 - 0.04055 + 0.83178
        (Divergence("forward", 0), 0.60797),
        # 0.5 ln 2.5 + 0.3 ln 1 + 0.15 ln 1.5 + 0.05 ln 0.125 = 0.45815 + 0.06082 - 0.10397
        (Divergence("reverse", 0), 0.41499),
        (Divergence("jensen_shannon", 0), js(STUDENT, TEACHER)),
        # The student's top two are entries 0 and 1; the tails are 0.2 and 0.5.
        (Divergence("reverse", 2), kl((0.5, 0.3, 0.2), (0.2, 0.3, 0.5))),
        (Divergence("forward", 2), kl((0.2, 0.3, 0.5), (0.5, 0.3, 0.2))),
        # The teacher's top two are entries 3 and 1; the tails are 0.65 and 0.3.
        (Divergence("reverse", 2, "teacher"), kl((0.05, 0.3, 0.65), (0.4, 0.3, 0.3))),
        (Divergence("jensen_shannon", 2, "teacher"), js((0.05, 0.3, 0.65), (0.4, 0.3, 0.3))),
        # Renormalized: 0.5 / 0.8 and 0.3 / 0.8 against 0.2 / 0.5 and 0.3 / 0.5.
        (Divergence("reverse", 2, tail=False), kl((0.625, 0.375), (0.4, 0.6))),
        # One entry and its tail: 0.5 and 0.5 against 0.2 and 0.8.
        (Divergence("reverse", 1), kl((0.5, 0.5), (0.2, 0.8))),
        # As many entries as there are, or more, are all of them.
        (Divergence("reverse", 4, tail=False), 0.41499),
        (Divergence("reverse", 100), 0.41499),
    ],
    ids=repr,
)
def test_values_worked_out_by_hand(how: Divergence, expected: float) -> None:
    """Guards against swapped directions, the other model's top k, and a tail that is left out or counted twice."""
    student, teacher = (torch.tensor([p]).log() + shift for p, shift in ((STUDENT, 3.0), (TEACHER, -1.0)))
    assert divergence(student, teacher, how).tolist() == pytest.approx([expected], abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_top_k_with_a_tail_is_at_most_the_whole(kind: Any) -> None:
    """Guards against bounds that do not hold: merging entries loses information, and never adds any."""
    random = torch.Generator().manual_seed(1)
    student, teacher = (3 * torch.randn(50, 40, generator=random, dtype=torch.float64) for _ in range(2))
    whole = divergence(student, teacher, Divergence(kind, 0))
    found = [divergence(student, teacher, Divergence(kind, k)) for k in (1, 3, 10, 39)]
    for smaller, larger in zip(found, [*found[1:], whole], strict=True):
        assert bool((smaller <= larger + 1e-6).all())
    torch.testing.assert_close(found[-1], whole, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("how", [Divergence(k, n, w) for k in KINDS for n in (0, 3) for w in WHOSE])
def test_equal_distributions_have_no_divergence_and_no_gradient(how: Divergence) -> None:
    """Guards against gradients without a teacher to learn from, and NaN where all probability is in the top k."""
    certain = torch.tensor([[60.0, 0.0, 1.0, 2.0, 3.0]])
    for table in (certain, torch.randn(6, 9, generator=torch.Generator().manual_seed(2))):
        student = table.clone().requires_grad_()
        found = divergence(student, table.clone(), how)
        (slope,) = torch.autograd.grad(found.sum(), student)
        assert found.tolist() == pytest.approx([0.0] * len(table), abs=1e-6)
        assert float(slope.abs().max()) < 1e-6


NONE = (None, None)


class Inputs:
    """Hidden states and heads of student and teacher, ids, temperatures, and factors [T] of a weighted sum."""

    def __init__(
        self, dtype: torch.dtype = torch.float32, bias: bool = True, softcaps: tuple[float | None, float | None] = NONE
    ) -> None:
        random = torch.Generator().manual_seed(3)

        def draw(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=random).to(dtype)

        self.hidden, self.weight = draw(T, H).requires_grad_(), draw(V, H).requires_grad_()
        self.bias = draw(V).requires_grad_() if bias else None
        self.teacher = draw(T, H)
        self.teacher_head = Head(draw(V, H), draw(V) if bias else None, softcaps[1])
        self.softcap = softcaps[0]
        self.ids = torch.randint(V, (T,), generator=random)
        self.temperature = torch.linspace(0.5, 2.0, T)
        self.factors = torch.randn(T, generator=random)

    @property
    def leaves(self) -> list[Tensor]:
        return [x for x in (self.hidden, self.weight, self.bias) if x is not None]

    def run(self, how: Divergence, chunk: int) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Return divergences, log-probs, and gradients of the function under test."""
        head = Head(self.weight, self.bias, self.softcap)
        out, log_probs = token_divergences(
            self.hidden, head, self.teacher, self.teacher_head, self.ids, self.temperature, how, chunk
        )
        assert not log_probs.requires_grad
        return out.detach(), log_probs, list(torch.autograd.grad((out * self.factors).sum(), self.leaves))

    def dense(self, how: Divergence) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Return the same from [T, V] tables of probabilities in float64, one token at a time."""
        leaves = [x.detach().double().requires_grad_() for x in self.leaves]
        head = Head(leaves[1], leaves[2] if len(leaves) > 2 else None, self.softcap)
        student = probabilities(leaves[0], head, self.temperature)
        teacher = probabilities(self.teacher, self.teacher_head, self.temperature)
        found = torch.stack([dense_divergence(s, t, how) for s, t in zip(student, teacher, strict=True)])
        grads = list(torch.autograd.grad((found * self.factors.double()).sum(), leaves))
        return found.detach(), student.detach()[torch.arange(T), self.ids].log(), grads


def probabilities(hidden: Tensor, head: Head, temperature: Tensor) -> Tensor:
    weight, bias, softcap, _ = head
    table = hidden.double() @ weight.double().T + (0.0 if bias is None else bias.double())
    if softcap is not None:
        table = (table / softcap).tanh() * softcap
    return (table / temperature.double()[:, None]).softmax(-1)


def dense_divergence(s: Tensor, t: Tensor, how: Divergence) -> Tensor:
    """Return the divergence of two vectors of probabilities, written out entry by entry."""
    if how.top_k:
        whose = s if how.top_k_of == "student" else t
        kept = sorted(range(V), key=lambda v: -whose[v].item())[: how.top_k]
        others = [v for v in range(V) if v not in kept]
        s_kept, t_kept = [s[v] for v in kept], [t[v] for v in kept]
        if how.tail:
            s, t = (torch.stack([*some, all_[others].sum()]) for some, all_ in ((s_kept, s), (t_kept, t)))
        else:
            s, t = (torch.stack(some) / torch.stack(some).sum() for some in (s_kept, t_kept))
    m = (s + t) / 2
    return {
        "forward": lambda: (t * (t / s).log()).sum(),
        "reverse": lambda: (s * (s / t).log()).sum(),
        "jensen_shannon": lambda: ((s * (s / m).log()).sum() + (t * (t / m).log()).sum()) / 2,
    }[how.kind]()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("chunk", [1, 7, T])
@pytest.mark.parametrize(
    "how",
    [
        *(Divergence(kind, 0) for kind in KINDS),
        *(Divergence(kind, 4, whose) for kind in KINDS for whose in WHOSE),
        *(Divergence(kind, 4, "teacher", tail=False) for kind in KINDS),
    ],
    ids=repr,
)
def test_chunks_equal_dense_float64_tables(how: Divergence, chunk: int, bias: bool) -> None:
    """Guards against a wrong slice, a forgotten temperature, gradients of one chunk only, and a teacher with a gradient.

    Without a bias, both heads have a soft cap; a cap of the other head would go unnoticed if they were equal."""
    inputs = Inputs(bias=bias, softcaps=NONE if bias else (1.5, 2.5))
    found = inputs.run(how, chunk)
    expected = inputs.dense(how)
    for got, want in zip((*found[:2], *found[2]), (*expected[:2], *expected[2]), strict=True):
        torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-5)
        assert got.dtype == torch.float32


def test_bfloat16_inputs_give_float32_values() -> None:
    """Guards against heads in bfloat16."""
    inputs = Inputs(torch.bfloat16)
    how = Divergence("reverse", 4)
    values, log_probs, grads = inputs.run(how, 7)
    expected, expected_log_probs, expected_grads = inputs.dense(how)
    torch.testing.assert_close(values.double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(log_probs.double(), expected_log_probs, rtol=1e-5, atol=1e-5)
    for got, want in zip(grads, expected_grads, strict=True):
        assert got.dtype == torch.bfloat16
        torch.testing.assert_close(got.double(), want, rtol=2.0**-8, atol=1e-4)


@pytest.mark.parametrize("how", [Divergence(kind, k) for kind in KINDS for k in (0, 5)], ids=repr)
def test_no_tensor_and_nothing_saved_has_the_size_of_the_logits(how: Divergence) -> None:
    """Guards against full logits, 101 x 97 entries, in forward or backward pass or kept between them."""
    saved: list[int] = []

    def record(x: Tensor) -> Tensor:
        saved.append(x.numel())
        return x

    hidden, weight = (torch.randn(n, 3, generator=torch.Generator().manual_seed(n)) for n in (101, 97))
    teacher = hidden.flip(0)
    hidden.requires_grad_()
    weight.requires_grad_()
    ids = torch.arange(101) % 97
    with LargestTensor() as largest:
        with torch.autograd.graph.saved_tensors_hooks(record, lambda x: x):
            found, _ = token_divergences(
                hidden, Head(weight, None), teacher, Head(weight, None), ids, torch.ones(101), how, chunk=7
            )
        assert kept_tables(found, 97) == [3 * 97] * 2, "student's and teacher's, of the last chunk of three tokens"
        found.sum().backward()
    assert kept_tables(found, 97) == []
    assert largest.n == 7 * 97
    assert sorted(saved) == sorted([101 * 3, 97 * 3, 101]), "states and head, and temperatures"


@pytest.mark.parametrize(("trained", "chunk", "n_products"), [(True, 12, 4), (True, 6, 5), (False, 6, 3)])
def test_products_with_the_heads(trained: bool, chunk: int, n_products: float) -> None:
    """Guards against logits, of student or teacher, that are computed again without need."""
    hidden, weight = torch.randn(12, H, requires_grad=True), torch.randn(V, H, requires_grad=trained)
    ids, ones = torch.zeros(12, dtype=torch.long), torch.ones(12)
    head, teacher = Head(weight, None), Head(torch.randn(V, H), None)
    with count_operations() as counter:
        found, _ = token_divergences(
            hidden, head, hidden.detach().flip(0), teacher, ids, ones, Divergence("reverse", 4), chunk
        )
        found.sum().backward()
    assert counter.get_total_flops() == n_products * 2 * 12 * V * H


def test_a_frozen_head_gives_the_same_gradient_of_hidden_states() -> None:
    """Guards against slopes from the forward pass that lack the loss's factors or the temperature."""
    inputs, how = Inputs(bias=False, softcaps=(1.5, None)), Divergence("forward", 4)
    _, _, (wanted, _) = inputs.run(how, 7)
    inputs.weight = inputs.weight.detach()
    head = Head(inputs.weight, None, 1.5)
    out, _ = token_divergences(
        inputs.hidden, head, inputs.teacher, inputs.teacher_head, inputs.ids, inputs.temperature, how, 7
    )
    (out * inputs.factors).sum().backward()
    assert inputs.hidden.grad is not None
    torch.testing.assert_close(inputs.hidden.grad, wanted, rtol=1e-6, atol=1e-6)
