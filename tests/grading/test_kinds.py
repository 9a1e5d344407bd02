"""What graders get wrong, kind by kind: an answer, a gold answer, and the right verdict, which was decided first."""

from __future__ import annotations

import pytest

from rethink.problems.grade import grade
from rethink.problems.mathematics import compare, parse_gold, verify
from support.grading_workers import long_timeout_pool

_long_timeouts = pytest.fixture(scope="module", autouse=True)(long_timeout_pool)

EQUAL: dict[str, list[tuple[str, str]]] = {
    "exact numbers of any length": [
        ("3^{1500}-3", r"3\left(3^{1499}-1\right)"),
        (r"\frac{2025!}{2024!}", "2025"),
        (r"\frac{6^{1000}}{3^{1000}}", "2^{1000}"),
        (r"\binom{2000}{3}", r"\frac{2000 \cdot 1999 \cdot 1998}{6}"),
        (r"1-\frac{1}{3^{900}}", r"\frac{3^{900}-1}{3^{900}}"),
        ("25^{600}", "5^{1200}"),
        (r"4^{1012}+1", r"2^{2024}+1"),
    ],
    "degrees": [
        (r"\cos 60^\circ", r"\frac12"),
        (r"\tan 45°", "1"),
        (r"2\sin 18^{\circ}", r"2\sin\frac{\pi}{10}"),
        (r"\frac{2\pi}{3}", r"120^\circ"),
        (r"75\text{ degrees}", r"75^{\circ}"),
        (r"\sin^2 30^\circ", r"\frac14"),
        (r"-40\ ^\circ\text{C}", "-40"),
        (r"\cos(90^\circ - 20^\circ)", r"\sin 20^\circ"),
        (r"22.5^\circ", r"\frac{\pi}{8}"),
    ],
    "plus-minus": [
        (r"\frac{3}{2}\pm\frac{\sqrt{13}}{2}", r"\frac{3 \pm \sqrt{13}}{2}"),
        (r"-1+\sqrt{2},\ -1-\sqrt{2}", r"-1\pm\sqrt{2}"),
        (r"x = 4 \text{ or } x = -4", r"\pm 4"),
        (r"\pm\sqrt{8}", r"\pm 2\sqrt{2}"),
        (r"\frac{-b \pm \sqrt{b^2-4ac}}{2a}", r"-\frac{b}{2a} \pm \frac{\sqrt{b^2-4ac}}{2a}"),
        (r"2 \mp i", r"2 \pm i"),
        (r"(3, 5), (3, -5)", r"(3, \pm 5)"),
        (r"0, \pm 2", r"\{-2, 0, 2\}"),
    ],
    "separators of lists": [
        ("2, 5, and 9", "2,5,9"),
        ("x = 2 or 5", "2, 5"),
        (r"a = 1 \quad \text{or} \quad a = 6", "1,6"),
        ("5; 8", "5, 8"),
        (r"-1\text{, }7", "7,-1"),
        (r"1,\,2,\,3.", "1, 2, 3"),
        (r"\text{Ann}, \text{Bob}, \text{ and Cy}", r"\text{Bob, Ann, Cy}"),
        ("17,", "17"),
        (r"x=1 \vee x=3", "1,3"),
        (r"\frac{5}{4} \text{ or } 1.25", r"\frac54"),
        (r"6 \text{ and } 7", r"7 \text{ and } 6"),
    ],
    "sets in another notation": [
        (r"x \le -2 \text{ or } x \ge 2", r"(-\infty,-2]\cup[2,\infty)"),
        ("]0, 5]", "(0,5]"),
        (r"\{t \mid t \geq -1\}", r"[-1,\infty)"),
        (r"x \in (-3, 3)", "|x| < 3"),
        (r"\mathbb{R}", r"(-\infty, \infty)"),
        (r"\text{all real numbers except } 0", r"(-\infty,0)\cup(0,\infty)"),
        (r"x \neq 5", r"(-\infty,5)\cup(5,\infty)"),
        (r"x \not= 5", r"x \neq 5"),
        (r"[1,2]\cup\{3\}\cup[4,5)", r"\{3\}\cup[4,5)\cup[1,2]"),
        (r"[0,1]\cup[1,4]", "[0,4]"),
        (r"0 \leq y \text{ and } y < 9", "[0, 9)"),
        (r"\{x\in\mathbb{R}: -1\le x\le 1\}", "[-1,1]"),
        (r"\varnothing", r"\emptyset"),
        (r"x<5,\ x>7", r"(-\infty,5)\cup(7,\infty)"),
    ],
    "a name in front, and systems": [
        (r"(a,b) = (2,7)", "(2,7)"),
        ("a = 2, b = 7", "(2,7)"),
        (r"g^{-1}(x) = \frac{x+3}{4}", r"\frac{x+3}{4}"),
        (r"h(t) = 5t-1", "5t-1"),
        ("Q(1,-1)", "(1,-1)"),
        (r"\begin{cases} x = 0 \\ y = 9 \end{cases}", "(0,9)"),
        (r"x = 1, y = 2, z = 3", "(x,y,z)=(1,2,3)"),
        (r"\angle A = 35^\circ", r"35^\circ"),
        (r"AB = 12", "12"),
        (r"\vec{v} = (1,2)", "(1,2)"),
        (r"P(X = 3) = \frac{1}{8}", r"\frac18"),
        (r"S_{10} = 55", "55"),
        (r"\lim_{n\to\infty} a_n = 2", "2"),
        (r"\text{Area} = 24", "24"),
        (r"f(x) = x + 1 \text{ for all real } x", "f(x) = x + 1"),
        (r"f(x) = 3x, x \in \mathbb{R}", "3x"),
    ],
    "units": [
        ("6平方分米", "600平方厘米"),
        ("6公顷", "60000平方米"),
        ("6立方分米", "6升"),
        ("40km", r"40\text{ km}"),
        (r"6\sqrt{3}\text{ cm}^2", r"6\sqrt{3}"),
        (r"2.5\ \mathrm{kg\,m^2}", "2.5"),
        (r"90\ \mathrm{km/h}", r"25\ \mathrm{m/s}"),
        (r"1.5\text{ h}", r"90\text{ minutes}"),
        (r"3\text{ L}", r"3000\text{ mL}"),
        (r"8\,\mathrm{N\cdot m}", "8"),
        (r"\qty{12}{\meter}", "12"),
        (r"20\,\text{cubic meters}", r"20\text{ m}^3"),
        (r"\frac{7}{2}\text{ units}", r"\frac72"),
        (r"n\text{ meters}", "n"),
        (r"47\,\text{k}\Omega", "47"),
        (r"11\text{ people}", "11"),
        ("3 hours and 20 minutes", r"3\text{ h }20\text{ min}"),
        (r"12\text{ years old}", "12"),
    ],
    "currency": [
        ("€7.50", "7.50"),
        (r"\$1{,}250", "1250"),
        ("45¥", "45"),
        ("£2.5 million", "2500000"),
        (r"30\text{ USD}", r"\$30"),
        (r"75\text{ cents}", r"\$0.75"),
        (r"\text{Rs. }500", "500"),
        (r"\$ 8.00", r"\$8"),
        ("₩9000", "9000"),
    ],
    "Unicode": [
        ("\u20115", "-5"),
        ("12\u202f500", "12500"),
        ("3\u2009·\u20094", "12"),
        ("x² + 1", "x^2+1"),
        ("√10", r"\sqrt{10}"),
        ("a₃", "a_3"),
        ("π⁄6", r"\frac{\pi}{6}"),
        ("−∞ < x ≤ 4", r"(-\infty,4]"),
        ("７２", "72"),
        ("θ = 60°", r"60^\circ"),
        ("‘even’", r"\text{even}"),
        ("2\u00a0m", r"2\text{ m}"),
        ("½", "0.5"),
        ("A ∪ B", r"A \cup B"),
        ("eⁿ", "e^n"),
        ("\u200b19\ufeff", "19"),
    ],
    "dress": [
        (r"{\displaystyle \frac{2}{9}}", r"\frac29"),
        (r"\mathbf{17}", "17"),
        (r"\textcolor{red}{8}", "8"),
        (r"\fbox{8}", "8"),
        ("**36**", "36"),
        (r"\left(\frac{3}{4}\right)", "3/4"),
        (r"0.\overline{27}", r"\frac{3}{11}"),
        (r"2.1\overline{6}", r"\frac{13}{6}"),
        (r"\sfrac{5}{6}", r"\frac56"),
        (r"4 x 10^3", "4000"),
        (r"10{:}45", "10:45"),
        (r"\operatorname{arctg} 3", r"\arctan 3"),
        (r"7!!", "105"),
        (r"(2201)_3", "2201_3"),
        (r"\textbf{(D)}\ 40", r"\text{(D)}"),
        (r"\text{The final answer is } 21", "21"),
        (r"3{,}600{,}000", "3600000"),
        (r"\Large 6", "6"),
        ("six", "6"),
        (r"\text{east}", r"\text{East}"),
    ],
    "piecewise functions": [
        (
            r"\begin{cases} 2-x & x \leq 1 \\ x^3 & x > 1 \end{cases}",
            r"f(x)=\begin{cases}2-x, & \text{if } x\le 1,\\ x^3, & \text{if } x>1.\end{cases}",
        ),
        (
            r"\begin{cases} x^3 & x > 1 \\ 2-x & x \leq 1 \end{cases}",
            r"\begin{cases} 2-x & x \leq 1 \\ x^3 & x > 1 \end{cases}",
        ),
        (
            r"\begin{cases} 0 & \text{if } n \text{ is odd} \\ 1 & \text{if } n \text{ is even} \end{cases}",
            r"\begin{cases} 1, & n \text{ is even} \\ 0, & n \text{ is odd} \end{cases}",
        ),
        (
            r"g(t) = \begin{cases} (t+1)^2, & 0 \le t < 3 \\ 16, & t \ge 3 \end{cases}",
            r"\begin{cases} t^2+2t+1 & 0 \leq t < 3 \\ 16 & t \geq 3 \end{cases}",
        ),
        (
            r"\begin{cases} x & x \ge 0 \\ -x & \text{otherwise} \end{cases}",
            r"\begin{cases} x & \text{for } x \ge 0 \\ -x & \text{otherwise.} \end{cases}",
        ),
    ],
    "notation that is easily misread": [
        (r"\frac{\partial g}{\partial z}", r"\frac{ \partial g }{ \partial z }"),
        (r"h^{-1}(5) + 1", r"1 + h^{-1}(5)"),
        (r"\mathbb{E}[Y^2]", "E[Y^2]"),
        (r"\nabla \times F", r"\nabla \times F"),
        (r"f''(x)", r"f^{\prime\prime}(x)"),
        (r"\frac{dy}{dx} + y", r"y + \frac{dy}{dx}"),
    ],
    "letters of choices": [
        ("B. 12", "B"),
        ("C) 4.5", "C"),
        (r"\mathbf{D}", "D"),
        ("A, C", "AC"),
        ("A、C、D", "ACD"),
        (r"C. \text{ The velocity}", r"\text{(C)}"),
        ("B. 12", "12"),
    ],
    "lists in Chinese": [
        ("2 或 3", "2,3"),
        ("3和5", "3,5"),
        ("x=1或x=2", "1,2"),
        ("{x|x≥2或x≤-1}", r"(-\infty,-1]\cup[2,+\infty)"),
        ("①③", "①,③"),
        ("①④②", "①②④"),
        (r"\text{①③}", "①、③"),
        (r"x=1\text{ 或 }x=4", "1,4"),
    ],
    "what is said about names": [
        (r"f(n)=n+1 \text{ for all positive integers } n", "f(n)=n+1"),
        (r"f(x)=cx \text{ for some constant } c", "f(x)=cx"),
        (r"f(x)=cx \text{ where } c \text{ is a constant}", "f(x)=cx"),
        (r"a_{n}=2n-1, n\in\mathbb{N}^*", "a_n=2n-1"),
        (r"a_n = 2n-1 \ (n \in \mathbb{N}^*)", "a_n=2n-1"),
        (r"x=2k\pi \text{ for any integer } k", r"2k\pi, k \in \mathbb{Z}"),
        (r"x^2-1 \quad (x \geq 0)", r"x^2-1, x\ge 0"),
    ],
    "vectors": [
        (r"(3\hat{i}-4\hat{j})\text{ N}", r"3\hat{\imath}-4\hat{\jmath}"),
        (r"2\hat{i}+3\hat{j}", r"2\mathbf{i}+3\mathbf{j}"),
        (r"2\hat{\mathbf{i}}-\hat{\mathbf{k}}", "(2,0,-1)"),
        (r"\frac{1}{2}(\mathbf{i}+3\mathbf{j})", r"\langle \frac12, \frac32 \rangle"),
        ("(1,-2,3)^T", r"\begin{pmatrix}1\\-2\\3\end{pmatrix}"),
        (r"\begin{pmatrix}1&2&3\end{pmatrix}^{\top}", r"\begin{bmatrix}1\\2\\3\end{bmatrix}"),
        ("[[1,2],[3,4]]", r"\begin{pmatrix}1&2\\3&4\end{pmatrix}"),
        (r"-\hat{\mathbf{z}}", r"-\hat{z}"),
    ],
    "ratios": [
        ("AE:EB=3:5", "3:5"),
        (r"\frac{AE}{EB}=\frac{3}{5}", "3:5"),
        ("AE:EB=3:5", r"\frac35"),
        (r"\frac{1}{2}", "1:2"),
        ("1.5", "3:2"),
        (r"\sqrt{2}", r"\sqrt{2}:1"),
    ],
    "sums and products that are asked for": [
        ("f(1)+f(2)=6", "6"),
        ("|z_1-z_2|=6", "6"),
        (r"|\vec{a}+\vec{b}|=6", "6"),
        ("m+n=25", "25"),
        ("25=m+n", "25"),
        (r"a \cdot b=6", "6"),
        (r"\frac{AB}{CD}=3", "3"),
        (r"A\cap B=\{2\}", r"\{2\}"),
        (r"\dim V=3", "3"),
        ("x+y=5", "2x+2y=10"),
    ],
    "constants of integration, and y for y(x)": [
        (r"-\frac{1}{5}\sin(3t)+C_1\cos(2t)+C_2\sin(2t)", r"-\sin(3t)/5+C_{1}\sin(2t)+C_{2}\cos(2t)"),
        ("y=c_1e^{-x}+c_2e^x", "y=c_1e^x+c_2e^{-x}"),
        ("y = c_1 e^{x} + c_2 e^{-x}", "y=C_1e^{x}+C_2e^{-x}"),
        (r"y(x) = C_1 \cos(x) + C_2 \sin(x)", r"y=C_1\cos x+C_2\sin x"),
        ("y(t)=2t", "y=2t"),
    ],
    "letters before parentheses": [
        (r"\frac{F(1-\cos\theta)}{2}", r"\frac{F}{2}\left(1-\cos\theta\right)"),
        (r"mg(\sin\theta-\mu\cos\theta)", r"mg\sin\theta-\mu mg\cos\theta"),
        ("E(1-e^{-t})", "E-Ee^{-t}"),
    ],
    "solutions of systems and pairs of lines": [
        (r"x=1,y=2 \text{ or } x=3,y=4", "(1,2),(3,4)"),
        (r"3x \pm 4y=0", r"y=\pm\frac{3}{4}x"),
    ],
    "other names of the same": [
        (r"x \equiv 7 \ (\text{mod } 11)", r"x\equiv 7\pmod{11}"),
        (r"x \equiv 7 (mod 11)", r"7 \pmod{11}"),
        (r"2\pi\sqrt{\frac{\ell}{g}}", r"2\pi\sqrt{\frac{l}{g}}"),
        (r"\text{DNE}", r"\text{The limit does not exist}"),
        (r"\text{infinity}", r"\infty"),
        (r"\text{conditionally convergent}", r"\text{converges conditionally}"),
        (r"1-x+x^2-\dots", r"1 - x + x^2 - \cdots"),
        (r"204\text{.}", "204"),
        (r"5\text{th}", "5"),
    ],
}

DIFFERENT: dict[str, list[tuple[str, str]]] = {
    "exact numbers of any length": [
        ("5^{800}+1", "5^{800}"),
        ("1500!", "1500!-1"),
        (r"\frac{7^{700}+1}{2}", r"\frac{7^{700}-1}{2}"),
        (r"\binom{3000}{1500}", r"\binom{3000}{1500}+2"),
        ("1", r"1-\frac{1}{2^{1800}}"),
        ("10^{900}+y", "10^{900}"),
        ("x^3", r"x^3+10^{-300}"),
        (r"3-\frac{1}{1999!}", r"3-\frac{1}{2000!}"),
        ("2^{3000}", "2^{3000}-2^{3}"),
        (r"\sqrt{2}+10^{-700}", r"\sqrt{2}"),
    ],
    "notation that is easily misread": [
        (r"\frac{1}{g(x)}", r"g^{-1}(x)"),
        (r"\frac{\partial g}{\partial y}", r"\frac{\partial g}{\partial x}"),
        ("0", r"\frac{\partial w}{\partial t}"),
        ("0", r"\frac{dy}{dx}"),
        ("E[Y]^2", "E[Y^2]"),
        (r"\nabla F", r"\nabla \cdot F"),
        (r"\nabla \times F", r"\nabla \cdot F"),
        ("h(x)^2", r"h^{(2)}(x)"),
        ("f(x)", "f'(x)"),
        (r"\frac{1}{f(3)}", "f^{-1}(3)"),
        (r"\oint F", r"\int F"),
        ("1", r"\det A"),
        (r"P(A)", r"P(A \mid B)"),
        (r"x", r"\bar{x}"),
        (r"\hat{x}", r"x"),
    ],
    "words that change a number, and units with case": [
        (r"7\text{ hundredths}", "7"),
        (r"4\text{ thirds}", "4"),
        ("2k", "2"),
        (r"6\text{ crore}", "6"),
        (r"6\text{ bn}", "6"),
        (r"3\text{ dozen}", "3"),
        (r"8\text{ squared}", "8"),
        (r"5\text{ below zero}", "5"),
        (r"7\text{ mHz}", r"7\text{ MHz}"),
        (r"2\text{ mJ}", r"2\text{ MJ}"),
        (r"4\text{ mm}", r"4\text{ Mm}"),
        (r"4\text{ seconds}", r"4^\circ"),
        (r"12\%", r"12\text{ kg}"),
        (r"10\text{ reciprocal}", "10"),
        (r"90\text{ radians}", r"90^\circ"),
        (r"2\text{ pairs}", "2"),
        (r"not 5", "5"),
        ("not 0", "0"),
        (r"\text{nothing but } 0", "0"),
        (r"3n", "3"),
    ],
    "relations": [
        ("5<6", "1<2"),
        (r"x \neq 4", "x = 4"),
        ("x > 4", "x < 4"),
        (r"x \ge 4", "x > 4"),
        (r"a \mid b", r"b \mid a"),
        (r"n \equiv 2 \pmod 5", r"n \equiv 2 \pmod 7"),
        ("y = x", "y > x"),
        (r"p \implies q", r"q \implies p"),
    ],
    "degrees": [
        (r"\cos 60", r"\cos 60^\circ"),
        (r"\sin 30^\circ", r"\sin 30"),
        (r"45", r"\frac{\pi}{4}"),
        (r"30^\circ", r"\frac{\pi}{3}"),
        (r"60^\circ", r"61^\circ"),
        (r"1\text{ radian}", r"1^\circ"),
        (r"-20^\circ", r"20^\circ"),
    ],
    "plus-minus": [
        (r"\frac{1+\sqrt{7}}{2}", r"\frac{1\pm\sqrt{7}}{2}"),
        (r"\frac{1\pm\sqrt{7}}{2}", r"\frac{1+\sqrt{7}}{2}"),
        ("3", r"\pm 3"),
        (r"2\pm\sqrt{5}", r"2\pm\sqrt{3}"),
        (r"-2\pm\sqrt{5}", r"2\pm\sqrt{5}"),
        (r"(\pm 1, \pm 2)", r"(1,2),(-1,-2),(1,-2)"),
        (r"(1,2),(-1,2)", r"(1,\pm 2)"),
        (r"\pm 2, 1", r"\pm 2"),
    ],
    "separators of lists": [
        ("2 and 5", "2, 5, 9"),
        ("2, 5, and 9", "2, 5"),
        ("3 or 4", "4"),
        ("1;2;3", "1,2"),
        (r"x=2 \lor x=-3", "2, 3"),
        ("12", "1, 2"),
        (r"A, B, \text{ and } C", "A, B, D"),
    ],
    "sets in another notation": [
        (r"x < 1 \text{ or } x > 5", r"(1,5)"),
        (r"1 \le x < 4", "(1,4)"),
        ("]1,4[", "[1,4]"),
        (r"\{x : x \ge 3\}", r"(3,\infty)"),
        (r"|x| < 2", "[-2,2]"),
        (r"\mathbb{R}\setminus\{2\}", r"\mathbb{R}"),
        (r"\mathbb{Z}", r"\mathbb{R}"),
        (r"[0,2)\cup(2,5]", "[0,5]"),
        (r"(-\infty, 3)", r"(3, \infty)"),
        (r"\{1,2\}", "[1,2]"),
        (r"\{0\}", r"\emptyset"),
        (r"(1,2)", r"\{1,2\}"),
    ],
    "a name in front, and systems": [
        ("(x,y)=(4,3)", "(3,4)"),
        (r"\begin{cases}x=1\\y=3\end{cases}", "(1,2)"),
        (r"f^{-1}(x)=2x+1", r"\frac{x-1}{2}"),
        ("a = 7, b = 2", "(2,7)"),
        ("x=5, y=6", "x=6, y=5"),
        ("f(x) = x+1", "f(x) = x-1"),
        (r"P(4,3)", "(3,4)"),
        ("x = 3", "x = 3, y = 4"),
        ("f(x) = 0, x", "f(x) = 0"),
        (r"f(x) = x^2 \text{ for all } x > 0", "f(x) = x^2"),
    ],
    "units": [
        (r"5\text{ cm}", r"5\text{ m}"),
        (r"5\text{ cm}^2", r"5\text{ cm}^3"),
        (r"9\ \mathrm{m/s}", r"9\ \mathrm{m/s^2}"),
        (r"90\text{ minutes}", r"1\text{ hour}"),
        (r"2\text{ kg}", r"2\text{ N}"),
        (r"14\text{ goats}, 21\text{ hens}", r"14\text{ hens}, 21\text{ goats}"),
        (r"100\text{ mL}", r"1\text{ L}"),
        (r"12\text{ apples}", r"13\text{ apples}"),
        (r"3\text{ h } 20\text{ min}", r"3\text{ h } 30\text{ min}"),
    ],
    "currency": [
        ("€12", r"\$12"),
        (r"\$1.2", r"\$1.2\text{ million}"),
        ("£4.50", "5.40"),
        (r"50\text{ cents}", r"\$50"),
        (r"\$-3", r"\$3"),
    ],
    "Unicode": [
        ("\u20118", "8"),
        ("x³", "x^2"),
        ("x₁", "x_2"),
        ("∛9", r"\sqrt{9}"),
        ("x ≤ 2", "x < 2"),
        ("80\u202f001", "80000"),
        ("¾", "0.7"),
        ("a≠b", "a=b"),
        ("x⁻¹", "x"),
    ],
    "dress": [
        (r"\cancel{4}5", "45"),
        ("0.333...", "0.333"),
        (r"\tilde{5}", "5"),
        (r"0.\overline{3}", "0.3"),
        (r"\phantom{1}2", "12"),
        ("3,5", "3.5"),
        (r"7:50", "7:05"),
        (r"1011_2", "1011_3"),
        (r"\binom{7}{3}", r"\binom{7}{2}"),
        (r"\textbf{(A)}\ 12", r"\text{(B)}"),
        (r"\text{The answer is B}", "A"),
        (r"5!", "5!!"),
        (r"\log_2 10", r"\log_{10} 2"),
        (r"\text{Alice}", r"\text{Alicia}"),
    ],
    "piecewise functions": [
        (
            r"\begin{cases} x & x > 0 \\ -x & x < 0 \end{cases}",
            r"\begin{cases} -x & x > 0 \\ x & x < 0 \end{cases}",
        ),
        (
            r"\begin{cases} 1 & x \geq 2 \\ 0 & x < 2 \end{cases}",
            r"\begin{cases} 1 & x \geq 3 \\ 0 & x < 3 \end{cases}",
        ),
        (r"\begin{cases} 1 & x > 2 \\ 0 & x \le 2 \end{cases}", r"\begin{cases} 1 & x \geq 2 \\ 0 & x < 2 \end{cases}"),
        ("x^2", r"\begin{cases} x^2 & x \geq 2 \\ 0 & x < 2 \end{cases}"),
        (
            r"\begin{cases} 1 & n \text{ even} \\ 0 & n \text{ odd} \end{cases}",
            r"\begin{cases} 1 & n \text{ odd} \\ 0 & n \text{ even} \end{cases}",
        ),
    ],
    "letters of choices": [
        ("C. 12", "B"),
        ("B. 12", "13"),
        (r"\mathbf{C}", "B"),
        ("A, D", "AC"),
        ("A, B, C", "AC"),
        ("B) 12 or C) 13", "B"),
    ],
    "lists in Chinese": [
        ("1或2", "1"),
        ("1和2", "12"),
        ("①③", "①②"),
        ("①②③", "123"),
        ("甲或乙", "甲"),
    ],
    "what is said about names": [
        (r"f(x)=2x \text{ for all even } x", "f(x)=2x"),
        ("f(x)=2x, x<0", "f(x)=2x"),
        (r"f(x)=2x, x \in [0,1]", "f(x)=2x"),
        (r"f(x)=cx \text{ for some integer } c", "f(x)=cx"),
        ("f(x)=cx, c>0", "f(x)=cx"),
        (r"f(n)=n+1, n\in\mathbb{N}", r"f(n)=n+1, n\in\mathbb{Z}"),
        (r"x=k\pi \text{ for any real number } k", r"x=k\pi, k\in\mathbb{Z}"),
        (r"x^2-1 \quad (x \leq 0)", r"x^2-1, x\ge 0"),
    ],
    "vectors": [
        (r"(3\hat{i}-4\hat{j})\text{ N}", r"(3\hat{i}-4\hat{j})\text{ kN}"),
        (r"5\text{ N}", r"5\hat{i}"),
        (r"3\mathbf{i}+2\mathbf{j}", "(2,3)"),
        (r"2\hat{i}+3\hat{k}", "(2,3)"),
        (r"2\hat{i}+3\hat{j}+\hat{k}", r"2\hat{i}+3\hat{j}"),
        ("(2,1)^T", "(1,2)"),
        (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}^T", r"\begin{pmatrix}1&2\\3&4\end{pmatrix}"),
        ("[[1,3],[2,4]]", r"\begin{pmatrix}1&2\\3&4\end{pmatrix}"),
        (r"2\hat{i}\times\hat{j}", r"2\hat{i}\cdot\hat{j}"),
    ],
    "ratios": [
        ("AE:EB=5:3", "3:5"),
        ("3:5=2:4", "2:4"),
        (r"\frac{2}{1}", "1:2"),
        ("1:15", "2:30"),
        ("2.5", "2:30"),
        ("1.2", "1:2"),
        ("1:2:3", r"\frac{1}{2}"),
    ],
    "sums and products that are asked for": [
        ("2f(1)=6", "6"),
        ("|x-y|=6", "6"),
        ("f(1)-f(2)=0", "0"),
        ("f(1)-f(2)=6", "f(1)+f(2)=6"),
        ("2x+3y=25", "25"),
        ("x-y=0", "0"),
        ("m+n=24", "25"),
        ("x+2=5", "5"),
        ("x^2+y^2=25", "25"),
        ("mn=25", "m+n=25"),
        ("m+n=25, k=3", "25"),
        (r"A\cap B=\{3\}", r"\{2\}"),
    ],
    "constants of integration, and y for y(x)": [
        ("C_1V_2+C_2V_1", "C_1V_1+C_2V_2"),
        (r"\frac{C_2V}{C_1+C_2}", r"\frac{C_1V}{C_1+C_2}"),
        ("C_1e^{2x}+C_2e^x", "C_1e^{x}+C_2e^{-x}"),
        ("C_1e^{C_2x}+x", "C_2e^{C_1x}+x"),
        ("c_1e^x+c_1e^{-x}", "C_1e^x+C_2e^{-x}"),
        ("c_2e^x", "C_1e^x"),
        ("y=2x", "f'(x)=2x"),
        ("y=2x", "y'=2x"),
        ("y(1)=2", "y(0)=2"),
        ("f(1)=2", "f(0)=2"),
    ],
    "letters before parentheses": [
        (r"mg(\sin\theta+\mu\cos\theta)", r"mg\sin\theta-\mu mg\cos\theta"),
        ("fx+f", "f(x+1)"),
    ],
    "solutions of systems and pairs of lines": [
        (r"x=1,y=2 \text{ or } x=3,y=4", "(1,4),(3,2)"),
        (r"x=1 \text{ or } y=2", "(1,2)"),
        (r"4x \pm 3y=0", r"y=\pm\frac{3}{4}x"),
        ("3x+4y=0", r"y=\pm\frac{3}{4}x"),
    ],
    "formulas of logic": [
        (r"p \lor q", r"p \land q"),
        ("p", r"\neg p"),
    ],
}

RIGHT_OR_NOT_JUDGED = [
    (r"2\operatorname{cis} 60^\circ", r"1+\sqrt{3}i"),
    (r"\sum_{k=1}^{n} k", r"\frac{n(n+1)}{2}"),
    (r"\sqrt{x^2}", "|x|"),
    (r"\int_0^1 x^2\,dx", r"\frac13"),
    (r"\{2k : k \in \mathbb{Z}\}", r"\{2k \mid k \in \mathbb{Z}\}"),
    (r"x = 2\pi k, k \in \mathbb{Z}", r"2k\pi, k\in\mathbb{Z}"),
]
"""Comparisons that a grader may decline."""


def rows(table: dict[str, list[tuple[str, str]]]) -> list[object]:
    found: list[object] = []
    for kind, pairs in table.items():
        for answer, gold in pairs:
            found.append(pytest.param(answer, gold, id=f"{kind}: {answer} for {gold}"[:120]))
    return found


@pytest.mark.parametrize(("answer", "gold"), rows(EQUAL))
def test_equal_answers(answer: str, gold: str) -> None:
    """Guards against right answers called wrong, in either direction."""
    assert compare(answer, parse_gold(gold)).right is True
    assert compare(gold, parse_gold(answer)).right is True


@pytest.mark.parametrize(("answer", "gold"), rows(DIFFERENT))
def test_different_answers(answer: str, gold: str) -> None:
    """Guards against wrong answers called right, in either direction."""
    assert compare(answer, parse_gold(gold)).right is not True
    assert compare(gold, parse_gold(answer)).right is not True


@pytest.mark.parametrize(("answer", "gold"), RIGHT_OR_NOT_JUDGED)
def test_what_may_be_left_open_is_not_called_wrong(answer: str, gold: str) -> None:
    assert compare(answer, parse_gold(gold)).right is not False


@pytest.mark.parametrize(
    ("reply", "gold", "right"),
    [
        (r"It is \boxed{12}. I put it in \boxed{} as asked.", "12", True),
        (r"It is \boxed 7", "7", True),
        ("It is \\boxed \n {7}.", "7", True),
        ("It is \boxed{7}.", "7", True),
        (r"It is \\boxed{\\sqrt{3}}.", r"\sqrt{3}", True),
        (r"It is \fbox{7}.", "7", True),
        (r"It is $\boxed{7\\}$", "7", True),
        (r"<think>\boxed{3}</think>It is \boxed{4}", "4", True),
        (r"<think>\boxed{3}</think>It is \boxed{4}", "3", False),
        (r"<reasoning>\boxed{3}</reasoning>\boxed{4}", "4", True),
        (r"[THINK]\boxed{3}[/THINK]\boxed{4}", "4", True),
        (
            r"<|channel|>analysis<|message|>\boxed{3}<|end|><|start|>assistant<|channel|>final<|message|>\boxed{4}",
            "3",
            False,
        ),
        (r"◁think▷\boxed{3}◁/think▷\boxed{4}", "4", True),
        (r"\boxed{\boxed{9}}", "9", True),
        (r"either \boxed{5} or \boxed{6}", "5", False),
        (r"\boxed{x=5} \boxed{}", "5", True),
        (r"\boxed{}", "5", False),
        (r"The roots are \boxed{1} and \boxed{2}.", "1,2", True),
    ],
)
def test_boxes(reply: str, gold: str, right: bool) -> None:
    """Guards against boxes that are not found, and against those of the thinking."""
    assert verify(reply, gold).right is right


@pytest.mark.parametrize(
    ("reply", "gold", "right"),
    [
        ("So the answer is 17!", "17", True),
        ("**Answer: 17** ✅", "17", True),
        ("Final Answer: $x = \\frac{2}{7}$", r"\frac27", True),
        ("The total is $150,000 - $90,000 = $60,000.", "60000", True),
        ("It could be 3 or 4.", "4", False),
        ("The answer is not 12.", "12", False),
        ("The answer is 2.5 km (2500 m).", "2.5", True),
        ("### 88", "88", True),
        ("#### 1,024", "1024", True),
    ],
)
def test_answers_without_a_box(reply: str, gold: str, right: bool) -> None:
    """Guards against prose that is misread when reading is lenient."""
    assert grade(reply, gold, lenient=True).right is right


@pytest.mark.parametrize(
    ("reply", "gold", "right"),
    [
        ("Option C is right.", "C", True),
        ("Hence, D is the correct answer.", "D", True),
        ("(A) is correct.", "A", True),
        ("Answer: **C**", "C", True),
        (r"\boxed{B. the second law}", "B", True),
        ("The value is \\boxed{3.2}.\n\nAnswer: C", "C", True),
        ("Option C is wrong, so the answer is B.", "C", False),
        ("Both A and B could be right.", "A", False),
    ],
)
def test_letters_without_a_box(reply: str, gold: str, right: bool) -> None:
    """Guards against prose around a letter that is misread when reading is lenient."""
    assert grade(reply, gold, "choice", lenient=True).right is right


@pytest.mark.parametrize(
    ("answer", "gold"),
    [("\\frac{3}{5}", "\frac{3}{5}"), ("\\text{red}", "\text{red}"), ("\\theta", "\theta"), ("\\beta", "\beta")],
)
def test_a_gold_answer_whose_backslash_was_eaten_is_not_held_against_the_answer(answer: str, gold: str) -> None:
    """Guards against a damaged file that makes every answer wrong: it is refused, or read as it was meant."""
    try:
        parsed = parse_gold(gold)
    except ValueError:
        return
    assert compare(answer, parsed).right is not False


@pytest.mark.parametrize(("answer", "gold"), [(r"\frac35", r"\\frac{3}{5}"), (r"\sqrt{2}", r"\\sqrt{2}")])
def test_a_gold_answer_with_doubled_backslashes(answer: str, gold: str) -> None:
    assert compare(answer, parse_gold(gold)).right is True
