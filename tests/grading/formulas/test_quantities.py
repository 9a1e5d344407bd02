"""Values with units through the front door: which answers are right, whatever the units, and which are wrong."""

from __future__ import annotations

import pytest

from rethink.grading.formulas.judge import judge

RIGHT = r"""
15 | 15\,\mu\text{F}
15 | 15\,\mu\mathrm{F}
15\,\mu\text{F} | 0.000015\text{ F}
12 | 12\text{ cm}^2
12 | 12\,\text{cm}^{2}
12 | 12 cm^2
12 | 12\ \mathrm{cm^2}
12 | 12\text{ cm$^2$}
12 | 12\text{ cm²}
12 | 12~\mathrm{cm}^{2}
12\pi | 12\pi \text{ square centimeters}
12 | 12\text{ sq. cm}
12 | 12 \text{ square units}
12\text{ cm}^2 | 12 \text{ square units}
12\text{ cm}^2 | 12 \text{ units}^2
5 | 5\text{ km/h}
5\text{ km/h} | 5\text{ kilometers per hour}
5\text{ km/h} | 5 \frac{\text{km}}{\text{h}}
5\text{ km/h} | 5\,\mathrm{km\,h^{-1}}
36\text{ km/h} | 10\text{ m/s}
72\text{ mph} | 72\text{ miles per hour}
3 | 3\text{ m/s}
1.5\times10^8\text{ m/s} | 150000000\text{ m/s}
1.6\times 10^{-19}\text{ C} | 1.6e-19
9.11 \times 10^{-31} | 9.11 \times 10^{-31}~\text{kg}
2\text{ m} | 200\text{ cm}
0.5\text{ kg} | 500\text{ g}
50\% | 0.5
50\% | \frac12
50 | 50\%
50\% | 50\text{ percent}
50\% | 50\text{ per cent}
12.5 | 12.5\%
\$12.50 | 12.50
\$12.50 | 12.5\text{ dollars}
\$12.50 | \text{\$}12.50
\$1,200 | 1200
\$1{,}200 | 1200\text{ USD}
\$ 18 | 18
\$18 | \$18.00
18 | 18\$
18 | 18 dollars
18 | \$18\text{ per hour}
1200000 | \$1.2M
1200000 | \$1.2\text{ million dollars}
1200000 | 1.2\text{ million}
1200000 | 1.2 million
3\text{ million} | 3000000
2.5\text{ billion dollars} | \$2500000000
\$0.50 | 50\text{ cents}
\$0.50 | 50¢
60^\circ | 60
60^\circ | 60\text{ degrees}
60^\circ | \frac{\pi}{3}\text{ radians}
60^\circ | 60°
60^\circ | 60 \degree
60^{\circ} | \pi/3
2\text{ rad} | 2
1\text{ hour} | 60\text{ minutes}
90\text{ minutes} | 1.5\text{ hours}
1\text{ h }30\text{ min} | 90\text{ min}
5\text{ feet }3\text{ inches} | 63\text{ inches}
5\text{ ft }3\text{ in} | 5\text{ feet and }3\text{ inches}
5\text{ hours and }30\text{ minutes} | 5\text{ h }30\text{ min}
3^\circ 20' | \frac{10}{3}^\circ
24 | 24\text{ apples}
24 | 24 apples
24\text{ apples} | 24\text{ red apples}
1 | 1\text{ apple}
24 | 24\text{ students}
24 | \text{24 students}
24 | 24\text{ pages per day}
24 | 24\text{ pages/day}
24 | 24\text{ years old}
24 | 24\text{ years}
24 | 24个
24 | 24\text{个苹果}
24 | 24人
24 | 24\text{名学生}
24 | 24\text{ 平方厘米}
24 | 24元
24 | 24\text{ 元}
24 | ￥24
24 | 24\text{ yuan}
24 | 24\text{ euros}
24 | 24\,€
24 | €24
24 | 24\text{ €}
24 | ₹24
24 | 24\text{ rupees}
24 | 24 \text{ lb}
24 | 24 lbs
24 | 24kg
24 | 24\,\text{kg}
x\text{ cm} | x
\frac{3}{4}\text{ cup} | \frac34
\frac{3}{4}\text{ mile} | 0.75
\frac{1}{2}\text{ hour} | 30\text{ minutes}
2\sqrt{3}\text{ cm} | 2\sqrt3
2\sqrt{3}\text{ cm} | 2\sqrt3\,cm
25 °C | 25\,^\circ\text{C}
25 °C | 25^{\circ}\mathrm{C}
25 | 25^\circ F
25\text{ K} | 25
5000 \mathrm{~K} | 5000
298\text{ K} | 298\ \mathrm{K}
5 | \SI{5}{\metre\per\second}
5\text{ m/s} | \SI{5}{m/s}
5\text{ m/s} | \qty{5}{\metre\per\second}
5 | \qty{5}{\kilo\gram}
3\Omega | 3\text{ ohms}
5 | 5\,\Omega
3.5\text{ kΩ} | 3500\ \Omega
4 \text{ ordered pairs} | 4
3\text{ tenths} | 0.3
3\text{ tenths} | \frac{3}{10}
5\text{ dozen} | 60
2\text{ dozen eggs} | 24\text{ eggs}
12 | 12\text{ o'clock}
6 | 6\text{ units}
6 | 6\text{ cubic units}
14\text{ hens}, 21\text{ goats} | 21\text{ goats}, 14\text{ hens}
9.8 | 9.8\text{ m/s}^2
9.8 | 9.8\, m/s^2
9.8 | 9.8\ \text{m}\cdot\text{s}^{-2}
9.8 | 9.8\ \text{N}\cdot\text{m}
3.3\text{ eV} | 3.3
1.23 \text{ g/cm}^3 | 1.23
1.23 \text{ g/cm}^3 | 1230\text{ kg/m}^3
4.5e33 | 4.5\times10^{33}\text{ erg/s}
4.5e33 | 4.5 \times 10^{33} erg/s
7.0 | 7.0\,\text{\AA}
10^{5} | 10^5\text{ Pa}
12\text{ in} | 1\text{ ft}
5 | 5\text{ in.}
5 | 5\text{ inches}
8\text{ am} | 8 \text{ a.m.}
-3^\circ | -3\text{ degrees}
\text{42 cm} | 42
100\text{ square feet} | 100\text{ ft}^2
7 | 7\text{ meters squared}
7\text{ Hz} | 7\text{ s}^{-1}
60\text{ rpm} | 1\text{ Hz}
2 | 2\text{ pounds}
x=5\text{ cm} | 5
5\text{ hours} | t=5\text{ h}
5-\sqrt2\text{ cm} | 5-\sqrt2
(5-\sqrt2)\text{ cm} | 5-\sqrt2
10 | 10\text{ ways}
10 | 10\text{ possible ways}
10 | 10\text{ different ways}
10 | 10\text{ solutions}
10 | 10\text{ real solutions}
10 | 10 \text{ positive integers}
10 | 10\text{ people}
10 | 10\text{ digits}
10 | 10\text{ cookies}
10 | 10\text{ boxes of cookies}
10 | 10\text{ bags per week}
10 | 10\text{ miles per gallon}
10 | 10\text{ dollars per person}
10 | \$10/\text{hour}
10 | \$10\text{ per pound}
10 | 10\text{ cm}^3/\text{s}
10 | 10\text{ cubic meters per second}
10 | 10\text{ points}
10 | 10\text{ pieces}
10 | 10\text{ minutes and }0\text{ seconds}
10\text{ persons} | 10\text{ people}
10\text{ L} | 10\text{ liters}
10\text{ L} | 10000\text{ mL}
10\text{ L} | 10\text{ litres}
10 | 10\text{ litros}
10 | 10\text{ kilometers}
10 | 10\ \text{km}
10 | 10\textrm{ km}
10 | 10\hspace{1mm}\text{km}
10 | 10 \mbox{ km}
10 | 10 \rm{km}
10 | 10\, {\rm km}
10 | 10 {\text{ km}}
10 | 10\;\text{J}\cdot\text{kg}^{-1}\cdot\text{K}^{-1}
10\text{ J/(kg·K)} | 10\,\frac{\text{J}}{\text{kg}\cdot\text{K}}
10\text{ J/(kg K)} | 10\text{ J kg}^{-1}\text{ K}^{-1}
12 | Rs 12
12 | ₺12
12 | 12\text{ kr}
12 | 12\text{ zł}
5 | 5\,\unit{\metre}
5 | 5\,\si{\metre\per\second}
5\text{ μm} | 5\times10^{-6}\text{ m}
5 | 5\,\mathrm{\mu m}
30^\circ | 30^{\text{o}}
7 | 7\text{ (days)}
7 | 7\text{ [cm]}
7 | 7\text{ miles away}
7 | 7 \mathrm{~erg} \mathrm{~s}^{-1}
7 | 7 \mathrm{~g} / \mathrm{cm}^{3}
7 | 7\text{ values}
7 | 7\text{ zeros}
"""

WRONG = r"""
5\text{ MW} | 5\text{ mW}
3 | 3\text{ tenths}
9 | 9\text{ pairs}
9 | 9\text{ pair}
9 | 9\text{ score}
9 | 9\text{ dozen}
9 | 9\text{ crore}
9 | 9\text{ millions}
9 | 9\text{ thousand}
9 | 9\text{ thirds}
9 | 9\text{ squared}
9 | 9\text{ cubed}
9 | 9\text{ fold}
9 | 9-fold
9 | 9K
9 | 9k
9 | 9\text{k}
9 | 9\text{K}
9 | 9\text{M}
9 | 9M
9 | 9\text{ bn}
9 | 9\text{ or more}
9 | 9\text{ plus}
9 | 9\text{ minus}
9 | 9\text{ and a half}
9 | 12\text{ dozen}
12 | 12\text{ dozen}
100 | 100\text{ hundred}
9 | 9\text{ to the third}
9 | 9\text{ root}
9 | 9\text{ less}
9 | 9\text{ below zero}
9 | 9\text{ percent points}
9 | 9\text{ base 8}
9 | 9\text{ base eight}
9 | 9\text{ inverse}
9 | 9\text{ negative}
9 | 9\text{ x}
9 | 9x
9 | 9\text{万}
9 | 9万
9 | 9百万
9 | 9\text{亿}
9 | 9\text{倍}
9 | 9\text{ 个以上}
9 | 9\text{ 平方}
9\text{ kg} | 9\text{ g}
9\text{ cm} | 9\text{ m}
9\text{ h} | 9\text{ min}
9\text{ apples} | 9\text{ oranges}
9\text{ red balls} | 9\text{ blue balls}
\$9 | €9
\$9 | 9\text{ cents}
9\% | 9\text{ cm}
9\% | 9^\circ
9^\circ | 9\text{ rad}
9^\circ | 9\text{ minutes}
9\text{ °C} | 9\text{ °F}
9\text{ cm} | 9\text{ cm}^2
9\text{ cm}^2 | 9\text{ square inches}
9\text{ m/s} | 9\text{ m/s}^2
9\text{ MHz} | 9\text{ mHz}
9\text{ Mg} | 9\text{ mg}
9\text{ S} | 9\text{ s}
9\text{ N} | 9\text{ J}
9\text{ units} | 9\text{ square units}
\sin 30^\circ | \sin 30
9\text{ million} | 9\text{ billion}
9 | 9\text{ hundredths}
9 | 9\text{ half}
9 | 9\text{ halves}
9 | 9\text{ quarters}
9 | 9\text{ factorial}
9 | 9\text{ nonillion}
9 | 9\text{ googol}
9 | 9\text{ gross}
9 | 9\text{ lakhs}
9 | 9\text{ degrees below zero}
9 | 9\text{ degrees south}
9 | 9\text{ dollars less}
9 | 9\text{ million dollars}
9 | \$9\text{ million}
9 | \$9B
9 | €9bn
9 | 9\text{ Millionen}
9 | 9\text{ milliards}
9 | 9\text{ docenas}
9 | 9\text{ Zehntel}
9 | 9\text{ тысяч}
9 | 9\text{ millones}
9 | 9\text{ ten thousands}
9 | 9\text{ tens}
9 | 9\text{ powers}
9 | 9\text{ inches below}
9 | 9\text{ over 2}
9 | 9\text{ per 2}
9 | 9/\text{2}
9 | 9\text{ hundred apples}
9 | 9\text{ million people}
9\text{ am} | 9\text{ pm}
9 | 9\text{ deficit}
9 | 9\text{ hex}
9 | 9\text{ radix 16}
2mg | 2
2km | 2mk
9\text{ s} | 9\text{ min}
9\text{ square meters} | 9\text{ meters}
9 | 9\text{ recurring}
9 | 9\text{ choose }2
9 | 9\text{ permute }2
9 | 9\text{ of }10
9 | 9\text{ out of }10
9\text{ mL} | 9\text{ ML}
9\text{ nm} | 9\text{ mm}
5 | 5\text{ approximately}
"""


def rows(table: str) -> list[tuple[str, str]]:
    """Return the pairs of a table, each in both orders."""
    found = []
    for row in table.strip().splitlines():
        one, _, other = row.partition(" | ")
        found += [(one, other), (other, one)]
    return found


@pytest.mark.parametrize(("gold", "answer"), rows(RIGHT))
def test_right(gold: str, answer: str) -> None:
    """Guards against units that hide an equal value."""
    assert judge(answer, gold)[0] is True


@pytest.mark.parametrize(("gold", "answer"), rows(WRONG))
def test_wrong(gold: str, answer: str) -> None:
    """Guards against words and units that change a value and are dropped."""
    assert judge(answer, gold)[0] is False
