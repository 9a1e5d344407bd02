"""Comparing answers by their structure: lists, names in front, relations, plus-minus, matrices, cases, units, words."""

from __future__ import annotations

import pytest

from rethink.grading.formulas.judge import judge

RIGHT = r"""
x=1, y=2 ~ (x,y)=(1,2)
y=2, x=1 ~ (1,2)
(y,x)=(4,3) ~ (x,y)=(3,4)
\begin{cases}x=3\\y=4\end{cases} ~ (x,y)=(3,4)
x=1, y=2, x=3, y=4 ~ (3,4), (1,2)
x_1=2, x_2=3 ~ 3, 2
x=2, 3 ~ x=3, x=2
x\in\{2,3\} ~ x=3 \text{ or } x=2
x=4 \lor x=-7 ~ 4, -7
\{5\} ~ 5
S=\{1,2\} ~ 2, 1
f(x)=x+1 ~ f(z)=z+1
y=x+1 ~ f(x)=x+1
f^{-1}(x)=\frac{x-1}{2} ~ \frac{x-1}{2}
A(1,2), B(3,4) ~ (3,4), (1,2)
AB=5 ~ BA=5
m\angle A=30^\circ ~ 30
\sin\theta=\frac12 ~ \frac12
\text{Area}=5 ~ 5
x=\frac{1\pm\sqrt5}{2} ~ \frac{1+\sqrt5}{2}, \frac{1-\sqrt5}{2}
\frac{1\pm\sqrt5}{2} ~ \frac12\mp\frac{\sqrt5}{2}
(\pm 1, 2) ~ (1,2), (-1,2)
\{\pm 1, 3\} ~ \{-1, 1, 3\}
1 \pm 2 \mp 4 ~ -1, 3
2a>2b ~ a>b
-a>-b ~ a<b
a+1>b ~ a>b-1
0<a<b ~ b>a>0
a \ne b ~ b \ne a
y=2x+3 ~ 2x-y=-3
5=x ~ x=5
\begin{cases}x+y=3\\x-y=1\end{cases} ~ \begin{cases}x-y=1\\2x+2y=6\end{cases}
x=2+3=5 ~ 5
x=\frac13\approx 0.33 ~ \frac13
\frac13 ~ \frac13\approx 0.33
0.33 ~ \frac13\approx 0.33
5.2 ~ x\approx 5.2
\approx 13 ~ 13
x\equiv 3\pmod 7 ~ 3\pmod 7
x\equiv 10\pmod 7 ~ x\equiv 3\pmod 7
3/4 \text{ or } 0.75 ~ 0.75
-\begin{pmatrix}1\\2\end{pmatrix} ~ (-1,-2)
\begin{pmatrix}1&0\\0&1\end{pmatrix}+\begin{pmatrix}1&2\\3&4\end{pmatrix} ~ \begin{pmatrix}2&2\\3&5\end{pmatrix}
-\mathbf{I} ~ \begin{pmatrix}-1&0\\0&-1\end{pmatrix}
\langle 1,2\rangle ~ \begin{pmatrix}1\\2\end{pmatrix}
\begin{cases}x^2 & x\ge0\\-x & x<0\end{cases} ~ \begin{cases}-x & x<0\\x^2 & \text{otherwise}\end{cases}
\dot{x}=2x ~ \frac{dx}{dt}=2x
y'=2x ~ \frac{dy}{dx}=2x
5\text{ h }30\text{ min} ~ 330\text{ min}
5\text{ h }30\text{ min} ~ 5.5
50\%, 0.5 ~ 50, 50\%
\text{Option B} ~ B
\text{The answer is B} ~ \text{(B)}
\text{(B)}\ 26 ~ 26
100,200 ~ 200, 100
"""
WRONG = r"""
\{\{1\},\{2\}\} ~ \{1,2\}
\{\{1\}\} ~ \{1\}
x=1, y=2 ~ (y,x)=(1,2)
y=2, x=1 ~ (2,1)
\begin{cases}x=3\\y=4\end{cases} ~ (4,3)
x=5 ~ y=5
f(x)=x+1 ~ g(x)=x+1
(1,2) ~ P(2,1)
\frac{1\pm\sqrt5}{2} ~ \frac{1+\sqrt5}{2}
\frac{1\pm\sqrt5}{2} ~ \frac{1\pm\sqrt3}{2}
1 \pm 2 \pm 4 ~ 1 \pm 2 \mp 4
-a>-b ~ a>b
2a>2b ~ a>2b
a<b ~ a\le b
3<4 ~ 1<2
3=3 ~ 4=4
x^2+y^2=25 ~ 25
25 ~ x^2+y^2=25
2x=10 ~ 10
2=2=3 ~ 3
\frac13\approx 0.9 ~ \frac13
x\approx 5 ~ 5
x\equiv 5 ~ x=5
x\equiv 3\pmod 7 ~ x\equiv 3\pmod 8
x\equiv 3\pmod 7 ~ x=3
3/4 \text{ or } 0.76 ~ 0.75
3/4, 0.75 ~ 0.75
5 \text{ or } 6 ~ 6
2:4 ~ 1:2
\begin{pmatrix}1\\2\end{pmatrix} ~ (2,1)
\begin{pmatrix}1&2\\3&4\end{pmatrix} ~ (1,2,3,4)
\begin{cases}x^2 & x\ge0\\-x & x<-5\end{cases} ~ \begin{cases}x^2 & x\ge0\\-x & \text{otherwise}\end{cases}
\begin{cases}x^2 & x>0\\-x & x<0\end{cases} ~ \begin{cases}x^2 & x<0\\-x & x>0\end{cases}
\dot{x}=2x ~ \frac{dx}{dy}=2x
50\%, 0.5 ~ 50, 5
\text{(B) or (C)} ~ B
\text{(B)}\ 26 ~ 27
\text{E. coli} ~ \text{E. faecium}
I do not know ~ 42
1,034 ~ 1, 34
"""


def _pairs(table: str) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for line in table.strip().splitlines():
        answer, gold = line.split(" ~ ")
        found.append((answer, gold))
    return found


@pytest.mark.parametrize(("answer", "gold"), _pairs(RIGHT))
def test_the_same_in_another_structure(answer: str, gold: str) -> None:
    """Guards against right answers called wrong for how they are put together."""
    assert judge(answer, gold)[0] is True


@pytest.mark.parametrize(("answer", "gold"), _pairs(WRONG))
def test_a_structure_that_only_looks_the_same(answer: str, gold: str) -> None:
    """Guards against brackets, names, order, signs and conditions that a comparison of the parts alone would miss."""
    right, reason = judge(answer, gold)
    assert right is False, reason


@pytest.mark.parametrize(
    ("answer", "gold", "reason"),
    [
        (r"(\pm1,\pm2)", "(1,2),(-1,-2)", "several plus-minus signs"),
        (r"\undefined", "5", "the answer cannot be read"),
        ("5", r"\undefined", "the gold answer cannot be read"),
        ("5", r"\frac10", "the gold answer has no finite value"),
        ("x" * 5001, "5", "more than 5000 characters"),
        ("(" * 2000 + "5" + ")" * 2000, "5", "nested too deeply"),
    ],
)
def test_what_cannot_be_compared_is_not_graded(answer: str, gold: str, reason: str) -> None:
    """Guards against a verdict where there is none, and against one without its reason."""
    right, why = judge(answer, gold)
    assert right is None
    assert reason in why


def test_a_difference_decides_even_if_another_part_cannot_be_compared() -> None:
    """Guards against answers that are never wrong because one of their parts is not read."""
    assert judge(r"(9^{9^9}, 5)", r"(9^{9^8}, 6)")[0] is False
    assert judge(r"(9^{9^9}, 5)", r"(9^{9^8}, 5)")[0] is None


def test_many_items_take_bounded_work() -> None:
    """Guards against a matching whose work has no bound."""
    ours, theirs = ", ".join(f"x+{n}" for n in range(400)), ", ".join(f"{n}+y" for n in range(400))
    assert judge(ours, theirs)[0] is not True
    numbers = [str(n) for n in range(150)]
    assert judge(", ".join(numbers), ", ".join(reversed(numbers)))[0] is True
