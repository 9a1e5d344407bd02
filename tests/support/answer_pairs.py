"""Pairs of answers that are the same in two spellings, and pairs that are not."""

from __future__ import annotations


def pairs(table: str) -> list[tuple[str, str]]:
    """One pair per line, two blanks and a tilde between its answers."""
    return [(a.strip(), b.strip()) for a, b in (line.split("  ~ ") for line in table.strip().splitlines())]


SAME_NUMBERS = pairs(
    r"""
    0.5                  ~ \frac{1}{2}
    .5                   ~ 1/2
    -\frac12             ~ -0.5
    \frac{-1}{2}         ~ -\dfrac 1 2
    -3./2                ~ -1.5
    3.                   ~ 3.0
    +5                   ~ 5
    - 5                  ~ −5
    007                  ~ 7
    -0                   ~ 0
    1e-5                 ~ 10^{-5}
    4.5\times10^{3}      ~ 4500
    1.6 × 10⁻¹⁹          ~ 1.6e-19
    x²³                  ~ x^{23}
    1.6\times10^{-19}    ~ 1.6e-19
    3E8                  ~ 3 \cdot 10^8
    1,234,567            ~ 1234567
    1{,}234              ~ 1234
    11,\! 111,\! 100     ~ 11111100
    10\,000              ~ 10 000
    1,234.5              ~ 1234.5
    \$32,\!348           ~ 32348
    $\frac{3}{4}$        ~ 0.75
    1 \frac{1}{2}        ~ \frac{3}{2}
    2\frac{1}{3}         ~ 7/3
    1 4/5                ~ 1.8
    1½                   ~ 1.5
    0.\overline{3}       ~ 1/3
    0.1\overline{6}      ~ \frac{1}{6}
    -2.\overline{36}     ~ -\frac{26}{11}
    50%                  ~ 0.5
    50\%                 ~ 50
    10 percent           ~ 0.1
    90^\circ             ~ 90
    30°                  ~ 30 \text{ degrees}
    (5)                  ~ {5}
    x = 5                ~ 5
    \angle ABC = 30      ~ 30^\circ
    2516_8               ~ 2516_{8}
    \mathbf{42}          ~ 42
    12^{\text{th}}       ~ 12
"""
)

SAME_SHAPES = pairs(r"""
    5 \text{ or } 6      ~ 6,5
    \{1,2\}              ~ 2, 1
    \pm 3                ~ 3,-3
    1 \pm \sqrt{19}      ~ 1+\sqrt{19}, 1-\sqrt{19}
    (1,2),(3,4)          ~ (3,4),(1,2)
    100, 200             ~ 200,100
    (100,200)            ~ (100, 200)
    \left( 1, 2 \right)  ~ (1,2)
    x=1, y=2             ~ (1,2)
    a=5,b=3              ~ b=3,a=5
    n=2,3,4              ~ 2,3,4
    (0,9)\cup(9,36)      ~ (9,36)\cup(0,9)
    x \in [-2,7]         ~ [-2, 7]
    x<-5                 ~ (-\infty,-5)
    0 \le x<9            ~ [0,9)
    2>x>1                ~ (1,2)
    5>x                  ~ x<5
    k \ge 2              ~ [2,\infty)
    \varnothing          ~ \emptyset
    \begin{bmatrix}1\\2\end{bmatrix}  ~ \begin{pmatrix} 1 \\ 2.0 \end{pmatrix}
    \mathbf{v} = \begin{pmatrix}1\\2\end{pmatrix}  ~ \begin{pmatrix}1\\2\end{pmatrix}
    \text{Evelyn}        ~ evelyn
    \text{(C) Plane}     ~ \text{(C)}
    C                    ~ \text{(C)}
    E_1 \text{ and } E_2  ~ E_{1},E_{2}
    5 cm                 ~ 5\text{ centimeters}
    5 square meters      ~ 5\text{ m}^2
    864\text{ in}^2      ~ 864 \mbox{ inches}^2
    60 mph               ~ 60 \text{ miles per hour}
    18.90 dollars        ~ \$18.90
    5\text{ cm}          ~ 5
    5\text{ times}       ~ 5
""")

SAME_FORMULAS = pairs(r"""
    f(n)=n, \quad g(n)=1  ~ g(n)=1, f(n)=n
    \lbrace 2, x+1 \rbrace  ~ \{x+1, 2\}
    \|v\|                ~ \lVert v \rVert
    y^{\prime\prime} + y  ~ y + y''
    f^{\prime}(x)        ~ f'(x)
    3 \pmod 7            ~ 3 \bmod 7
    \mathbf{a} + \mathbf{b}  ~ \vec{b} + \vec{a}
    30\degree            ~ 30^\circ
    \text{42}            ~ 42.0
    The answer is (1,2)  ~ (1,2)
    x \ne 2              ~ x \neq 2
    \bigl(1, 2\bigr)     ~ (1,2)
    f(x)=2x              ~ 2x
    y=2x+3               ~ 3+2x
    2x-y+3=0             ~ y=2x+3
    4x-2y+6=0            ~ y=2x+3
    -5x+7y-11z-4=0       ~ 5x - 7y + 11z + 4 = 0
    a^2+b^2=c^2          ~ c^2=a^2+b^2
    (b+2)(a+5)           ~ ab+2a+5b+10
    2^10                 ~ 1024
    10!/9!               ~ 10
    \binom{10}{3}        ~ 120
    3!!                  ~ 720
    \frac{\sqrt{2}}{2}   ~ \frac{1}{\sqrt{2}}
    \sqrt{3+2\sqrt{2}}   ~ 1+\sqrt2
    sqrt(2)              ~ \sqrt{2}
    2 pi                 ~ 2\pi
    \sqrt[3]8            ~ 2
    \sqrt{x^2}           ~ x
    |x-1|                ~ |1-x|
    \sin^2 x+\cos^2 x    ~ 1
    \sin^{-1} x          ~ \arcsin x
    np.arcsin(10/13)     ~ \operatorname{arcsin}\left(\frac{1}{1.3}\right)
    e^{i\pi}             ~ -1
    e^{i\theta}          ~ \cos\theta+i\sin\theta
    \frac{1}{1+i}        ~ \frac{1-i}{2}
    \ln 2 + i\pi / 3     ~ \ln 2 + \frac{\pi}{3} i
    \log_2 8             ~ 3
    \log_b x             ~ \frac{\ln x}{\ln b}
    \lceil n/2 \rceil    ~ \lfloor (n+1)/2 \rfloor
    \sum_{k=1}^{n} k     ~ \frac{n(n+1)}{2}
    \prod_{k=1}^3 k      ~ 6
    \frac{d}{dx} x^2     ~ 2x
    \dot{x}=2x           ~ \frac{dx}{dt}=2x
    x^2+C                ~ x^2+c
    \max(a,b)            ~ \frac{a+b+|a-b|}{2}
    \frac13\begin{pmatrix}1\\2\end{pmatrix}  ~ \begin{pmatrix}1/3\\2/3\end{pmatrix}
    E_0+e_1              ~ e_1+E_0
    (\gamma-1)m c^2      ~ mc^2(\gamma-1)
""")

OTHER_NUMBERS = pairs(r"""
    3                    ~ 4
    0.333                ~ 1/3
    0.3333333333333333   ~ \frac{1}{3}
    0.\overline{3}       ~ 0.3
    3.14159265358979     ~ \pi
    \frac{22}{7}         ~ \pi
    10^{-20}             ~ 0
    1/2004!              ~ 1/2006!
    \frac{1}{2004!}      ~ 0
    1+10^{-20}           ~ 1
    \sqrt{2}+10^{-40}    ~ \sqrt{2}
    2^{1000}+1           ~ 2^{1000}
    100!                 ~ 100!+1
    2^{1009}             ~ 2^{1010}
    e^{\pi\sqrt{163}}    ~ 262537412640768744
    1\frac{1}{2}         ~ \frac{11}{2}
    1.5                  ~ 1\frac{4}{5}
    \frac{1}{2}3         ~ 1/23
    1 2                  ~ 12
    5 6                  ~ 30
    1, 234               ~ 1234
    12,34                ~ 1234
    1.5                  ~ 1,5
    (100,200)            ~ 100200
    1,000                ~ 1
    123,456              ~ 456,123
    1.5.2                ~ 0.3
    5%                   ~ 500
    50                   ~ 0.5
    5!                   ~ 5
    -5                   ~ 5
    5                    ~ \infty
    \infty               ~ -\infty
    2516_8               ~ 2516_9
    A_1                  ~ A
    60                   ~ \frac{\pi}{3}
    ٣                    ~ 3
    ３                   ~ 3
    ²                    ~ 2
    1_000                ~ 1000
    0x10                 ~ 16
    five                 ~ 5
    1:2                  ~ 2:1
    7 \pmod{10}          ~ 7 \pmod{11}
""")

OTHER_SHAPES = pairs(r"""
    n=2,3,4              ~ n=1,2,3
    3=3                  ~ 4=4
    3, 4                 ~ 3
    3;4                  ~ 4
    5 or 6               ~ 6
    5, 5                 ~ 5
    1,1,2                ~ 1,2,2
    \pm 3                ~ 3
    (-2,1)               ~ (1,-2)
    (1,2)                ~ [1,2]
    (3,4]                ~ (3,4)
    \{1,2\}              ~ (1,2)
    (1,2),(3,4)          ~ (1,2),(4,3)
    x=1,y=2              ~ x=2,y=1
    x=5                  ~ y=5
    x=5                  ~ x=6
    5=6                  ~ 6
    10/4=2.6             ~ 2.5
    x^2=4                ~ x=2
    x\neq 5              ~ 5
    x>5                  ~ 5
    x>5                  ~ x \geq 5
    x<5                  ~ x>5
    x<5                  ~ y<5
    1<x<2                ~ 1<y<2
    (0,9)                ~ (0,9)\cup(9,36)
    (1,2]\cup[3,4)       ~ (1,2)\cup(3,4)
    \mathbb{R}           ~ \mathbb{Q}
    \emptyset            ~ 0
    \begin{pmatrix}1\\2\end{pmatrix}  ~ \begin{pmatrix}1&2\end{pmatrix}
    \begin{pmatrix}1&2\\3&4\end{pmatrix}  ~ \begin{pmatrix}1&3\\2&4\end{pmatrix}
    \frac13\begin{pmatrix}1\\2\end{pmatrix}  ~ \begin{pmatrix}1/3\\1/3\end{pmatrix}
    \text{even}          ~ \text{odd}
    \text{Evelyn or Bob}  ~ \text{Evelyn}
    \text{(C) or (D)}    ~ \text{(C)}
    \text{A and C}       ~ \text{(C)}
    A                    ~ B
    \angle ABC           ~ \angle BAC
    5 cm                 ~ 5 m
    5\text{ cm}^2        ~ 5\text{ cm}^3
    5\text{ cents}       ~ \$5
    5 million            ~ 5
    5\text{ or more}     ~ 5
    5 pi                 ~ 5
    5 xy                 ~ 5
    5 times x            ~ 5
    2\mathrm{e}          ~ 2
    3\mathrm{i}          ~ 3
    2\mathbf{v}          ~ 2
""")

OTHER_FORMULAS = pairs(r"""
    6                    ~ 6m
    2                    ~ 2n
    R-r                  ~ r-R
    \frac{R}{r}          ~ 1
    3R^2                 ~ 3r^2
    I^2                  ~ -1
    p-q                  ~ q-p
    ab                   ~ a+b
    a_{n+1}              ~ a_{n-1}
    a_{-1}               ~ a_1
    x'                   ~ x
    f'(x)                ~ f(x)
    f(x+1)               ~ f(x)+1
    |x|                  ~ x
    \ln|x|               ~ \ln x
    \max(x,1)            ~ x
    \lfloor x \rfloor    ~ x
    \lfloor n/2 \rfloor  ~ \lfloor 2n/3 \rfloor
    m\frac{dv}{dt}+bv    ~ bv
    \frac{d^2x}{dt^2}    ~ \dot{x}
    c(\gamma-1)          ~ c(\gamma-5)
    2\cdot x^T           ~ 2x
    \log_2 x             ~ \log_3 x
    \sin x^2             ~ \sin^2 x
    \frac{1}{x+1}        ~ \frac{1}{x}+1
    x^2+C                ~ x^2
    C+c                  ~ 2c
    \bar{z}              ~ z
    \overline{AB}        ~ AB
    2x-y+3=0             ~ y=2x-3
    0=0                  ~ 1=1
    M=R                  ~ MR=SRMC
    \frac{1}{2               ~ \frac{1}{2}
""")


EQUAL = [*SAME_NUMBERS, *SAME_SHAPES, *SAME_FORMULAS]
DIFFERENT = [*OTHER_NUMBERS, *OTHER_SHAPES, *OTHER_FORMULAS]
