"""The curve of accuracy over tokens, read back from its SVG."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET
from itertools import pairwise

import pytest

from rethink.report.chart import BETWEEN, COLORS, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Point, Series, chart, cost_curves

SVG = "{http://www.w3.org/2000/svg}"
NOTHING: Series = {}


def drawn(accuracy: Series, gain: Series = NOTHING, title: str = "m, s") -> ET.Element:
    text = cost_curves(title, accuracy, gain)
    assert "nan" not in text
    assert "inf" not in text
    return ET.fromstring(text)


def circles(svg: ET.Element) -> list[tuple[float, float, str]]:
    """Place and text of each marker; the keys of the legend have none."""
    found = [(c, c.find(f"{SVG}title")) for c in svg.iter(f"{SVG}circle")]
    return [(float(c.attrib["cx"]), float(c.attrib["cy"]), t.text or "") for c, t in found if t is not None]


def texts(svg: ET.Element) -> list[str]:
    return [t.text or "" for t in svg.iter(f"{SVG}text")]


def point(name: str, tokens: float, value: float, half: float = 0.1) -> Point:
    return Point(tokens, value, value - half, value + half, name)


def test_two_points_by_hand() -> None:
    """100 and 400 tokens lie 12 from the margins, 200 half-way between (the axis is logarithmic). Limits from 0.3 to 0.7
    are padded by 6% at both ends: 0.4 is (0.4 - 0.276) / 0.448 up from the floor."""
    assert (WIDTH, LEFT, RIGHT, HEIGHT) == (760, 58, 190, 250)
    svg = drawn({"vote": [point("vote:4", 400, 0.6), point("vote:1", 100, 0.4)], "refine": [point("refine", 200, 0.5)]})
    found = circles(svg)
    assert [(x, name) for x, _, name in found] == [
        (70.0, "vote:1: 40.0 at 100 tokens"),
        (558.0, "vote:4: 60.0 at 400 tokens"),
        (314.0, "refine: 50.0 at 200 tokens"),
    ]
    up = [TOP + HEIGHT - y for _, y, _ in found]
    assert up == pytest.approx([250 * 0.124 / 0.448, 250 * 0.324 / 0.448, 125], abs=0.06)  # places have one decimal
    # Joined from left to right, whatever the order they came in.
    lines = [line.attrib["points"] for line in svg.iter(f"{SVG}polyline")]
    assert [re.findall(r"[\d.]+(?=,)", line) for line in lines] == [["70.0", "558.0"], ["314.0"]]
    # 100 and 200 tokens have a label where they lie; 500 lies outside.
    labels = {t.text: float(t.attrib["x"]) for t in svg.iter(f"{SVG}text") if t.attrib.get("text-anchor") == "middle"}
    assert labels == {"100": 70.0, "200": 314.0, "sampled tokens per problem": 314.0}
    # The axis of values is labeled in tens.
    labels = {t.text: float(t.attrib["y"]) for t in svg.iter(f"{SVG}text") if t.attrib.get("text-anchor") == "end"}
    assert list(labels) == ["30", "40", "50", "60", "70"]
    assert labels["50"] - 4 == TOP + HEIGHT / 2
    assert labels["40"] - labels["60"] == pytest.approx(250 * 0.2 / 0.448, abs=0.11)


def test_whiskers_end_at_the_limits() -> None:
    """Limits of 0.2 and 0.6, padded by 0.024: they lie 0.024 / 0.448 of the panel from its floor and its top."""
    svg = drawn({"solve": [Point(50, 0.5, 0.2, 0.6, "solve")]})
    (whisker,) = [p.attrib["d"] for p in svg.iter(f"{SVG}path") if p.attrib.get("opacity")]
    ends = [float(y) for y in re.findall(r"[ V]([\d.]+)", whisker)]
    pad = 250 * 0.024 / 0.448
    assert ends == pytest.approx([TOP + HEIGHT - pad, TOP + pad], abs=0.06)


def test_one_point_alone() -> None:
    """Guards against a logarithm of 0 over 0, and an axis without a single number: 33 is no round one."""
    svg = drawn({"solve": [Point(33, 0.5, math.nan, math.nan, "solve")]})
    assert circles(svg) == [((70 + 558) / 2, TOP + HEIGHT / 2, "solve: 50.0 at 33 tokens")]
    assert "33" in texts(svg)


def test_a_narrow_range_is_labeled_at_its_ends() -> None:
    """Between 21 and 45 there is no 1, 2 or 5 of any power of ten; between 21 and 55 only one."""
    for high in (45, 55):
        svg = drawn({"vote": [point("vote:1", 21, 0.4), point("vote:2", high, 0.6)]})
        found = [t.text for t in svg.iter(f"{SVG}text") if t.attrib.get("text-anchor") == "middle"]
        assert found[:2] == ["21", str(high)]


def test_what_cannot_be_placed_is_left_out() -> None:
    """Guards against the logarithm of no tokens and a mark at NaN, once a crash."""
    odd = [point("none", 0, 0.5), Point(100, math.nan, math.nan, math.nan, "unknown")]
    svg = drawn({"vote": [*odd, point("vote:2", 200, 0.5)], "solve": odd}, {"vote": odd})
    assert [name for _, _, name in circles(svg)] == ["vote:2: 50.0 at 200 tokens"]
    assert "solve" not in texts(svg)
    assert "minus a vote at equal tokens, points" not in texts(svg)
    assert cost_curves("m", {"vote": odd}, {}) == ""


def test_gains_have_a_panel_of_their_own_on_the_same_axis() -> None:
    """Guards against gains on the scale of accuracies: 0, of -0.1 to 0.1, is in the middle of the second panel."""
    accuracy = {"vote": [point("vote:1", 100, 0.4), point("vote:4", 400, 0.6)], "refine": [point("refine", 200, 0.5)]}
    svg = drawn(accuracy, {"refine": [point("refine", 200, 0.0)]})
    (x, y, name) = circles(svg)[-1]
    assert (x, y, name) == (314.0, TOP + HEIGHT + BETWEEN + HEIGHT / 2, "refine: 0.0 at 200 tokens")
    colors = [c.attrib["fill"] for c in svg.iter(f"{SVG}circle") if c.find(f"{SVG}title") is not None]
    assert colors == [COLORS[0], COLORS[0], COLORS[1], COLORS[1]]
    assert float(svg.attrib["viewBox"].split()[3]) == TOP + 2 * HEIGHT + BETWEEN + 40
    alone = drawn(accuracy, {"refine": []})
    assert float(alone.attrib["viewBox"].split()[3]) == TOP + HEIGHT + 40


def test_names_are_escaped() -> None:
    """Guards against names of models and suites that end the drawing."""
    name = '<b> & "quotes" </svg>'
    svg = drawn({name: [point(name, 10, 0.5)]}, title=name)
    assert svg.attrib["aria-label"] == name
    assert texts(svg).count(name) == 2  # the title and the key
    assert circles(svg)[0][2].startswith(name)


def test_more_families_than_colors() -> None:
    """Guards against a crash, and keys below the drawing's end: 17 families, 8 colors, each key 20 below the last."""
    families = {f"f{n}": [point(f"f{n}", 10 + n, 0.5)] for n in range(17)}
    svg = drawn(families)
    keys = [c for c in svg.iter(f"{SVG}circle") if c.find(f"{SVG}title") is None]
    assert [k.attrib["fill"] for k in keys] == [COLORS[n % 8] for n in range(17)]
    height = float(svg.attrib["viewBox"].split()[3])
    assert [float(b.attrib["cy"]) - float(a.attrib["cy"]) for a, b in pairwise(keys)] == [20.0] * 16
    assert max(float(k.attrib["cy"]) for k in keys) + 4 < height


def test_points_of_a_chart_lie_where_arithmetic_puts_them() -> None:
    """An axis that is upside down or a scale that is off. The last point is at the right end and at the top; the first,
    at half of both ranges (0 to 4, 0 to 10), in the middle."""
    drawn = chart("reward", {"solve": [Point(2.0, 5.0), Point(4.0, 10.0)]})
    (points,) = re.findall(r'points="([^"]+)"', drawn)
    # From 64 to 462 across, from 176 to 26 up.
    assert points == "263.0,101.0 462.0,26.0"


def test_a_chart_without_points_is_empty_and_a_constant_series_is_drawn() -> None:
    """A division by a range of zero."""
    assert chart("reward", {"solve": []}) == ""
    assert "polyline" in chart("reward", {"solve": [Point(1.0, 0.0), Point(2.0, 0.0)]})
