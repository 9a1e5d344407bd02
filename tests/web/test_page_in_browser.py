"""The page in Chromium: it opens from disk, its numbers are those of the files, and no reply runs or loads anything."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rethink.jsonl import append
from rethink.report.page import write_report
from rethink.run_folder import RunFolder
from support.report_runs import HOSTILE, answer, estimate, held_out, sample, step, training_folder, update_record
from web.browser import Watched, chromium, open_page

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = training_folder(tmp_path_factory.mktemp("page") / "run")
    append(folder.metrics, [update_record(7, alarms=["nothing was trained: <b>all</b>"])])
    return write_report(folder.path)


@pytest.fixture
def transcripts(browser: Any, report: Path) -> Iterator[Watched]:
    watched = open_page(browser, report, "#transcripts", viewport={"width": 1300, "height": 800})
    watched.page.wait_for_selector(".list-row")
    yield watched
    watched.assert_quiet()
    watched.page.close()


def n_shown(page: Any) -> int:
    return int(page.locator(".shown-count").inner_text().split(" of ")[0].replace(",", ""))


def wait_for_count(page: Any, n: int) -> None:
    """Wait until n rows are shown: a search begins shortly after the last key."""
    page.locator(".shown-count", has_text=f"{n} of 45 replies").wait_for()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1300])
def test_the_page_opens_from_disk(browser: Any, report: Path, scheme: str, width: int) -> None:
    """Guards against a page that needs a network, has errors in its script, or is wider than a phone."""
    watched = open_page(browser, report, viewport={"width": width, "height": 800}, color_scheme=scheme)
    page = watched.page
    page.wait_for_selector(".u-wrap canvas")
    for view in ("Training", "Transcripts", "Settings"):
        page.get_by_role("link", name=view, exact=True).click()
        page.wait_for_timeout(100)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, view
    watched.assert_quiet()
    page.close()


def test_the_numbers_of_training_are_shown(browser: Any, report: Path) -> None:
    """Guards against a headline, a table or a flow with other numbers than metrics.jsonl."""
    watched = open_page(browser, report, viewport={"width": 1300, "height": 800})
    page = watched.page
    tiles = page.locator(".tile").all_inner_texts()
    assert [tile.split("\n")[1:3] for tile in tiles] == [
        ["50.0%", "[45.0, 55.0]"],
        ["60.0%", "[55.0, 65.0]"],
        ["+10.0%", "[+5.0, +15.0]"],
        ["30.0%", "[25.0, 35.0]"],
        ["10.0%", "[5.0, 15.0]"],
    ]
    assert "a fresh answer: 20.0" in tiles[3]
    assert page.locator(".alarms li").all_inner_texts() == [
        "alarm in 1 of 7 updates, first in update 7: nothing was trained: <b>all</b>"
    ]
    titles = page.locator(".chart-title").all_inner_texts()
    assert {"Accuracy", "Reward", "Entropy, nats per token", "Fix rate: wrong drafts made right"} <= set(titles)
    reward = page.locator("figure", has=page.get_by_text("Reward", exact=True)).locator(".legend-item")
    assert "solve" in reward.first.inner_text()
    flow = dict(text.split("\n") for text in page.locator(".flow-list li").all_inner_texts())
    assert {name[2:]: int(n) for name, n in flow.items()} == {
        "fixed": 15,
        "damaged": 5,
        "kept right": 40,
        "still wrong": 40,
    }
    watched.assert_quiet()
    page.close()


def test_a_run_without_refinement_has_no_flow(browser: Any, tmp_path: Path) -> None:
    """Guards against a box of zeros, with links to no replies, beside the table of a run whose answers are not refined."""
    run = RunFolder(tmp_path / "run")
    run.create('out = "run"\n')
    nothing = {name: estimate(0.0, 0) | {"value": None} for name in ("refined", "gain", "fix", "damage")}
    none = dict.fromkeys(("right_right", "right_wrong", "wrong_right", "wrong_wrong"), 0)
    append(run.metrics, [update_record(1), held_out(2, 0.4, **nothing, transitions=none)])
    watched = open_page(browser, write_report(run.path), viewport={"width": 1300, "height": 800})
    page = watched.page
    page.wait_for_selector("table.numbers")
    assert "40.0" in page.locator("table.numbers").inner_text()
    assert page.locator(".flow-box").count() == 0
    watched.assert_quiet()
    page.close()


def test_filters_show_what_passes_them(transcripts: Watched) -> None:
    """Guards against filters that show other rows than those counted by hand: 40 answers, a quarter of each transition."""
    page = transcripts.page
    assert n_shown(page) == 40 + len(HOSTILE)
    page.get_by_role("button", name="fixed").click()
    assert n_shown(page) == 10
    assert page.locator(".list-row .glyph").first.get_attribute("title") == "fixed"
    page.get_by_role("searchbox").fill("2 = 12")  # sum-12 is the only draft with this text, and was fixed
    wait_for_count(page, 1)
    page.get_by_role("button", name="clear").click()
    wait_for_count(page, 45)
    page.get_by_label("source").select_option("training")
    assert n_shown(page) == len(HOSTILE)
    page.get_by_label("update").select_option("3")
    assert n_shown(page) == 1
    page.get_by_role("button", name="clear").click()
    page.get_by_label("verdict").select_option("right")
    assert n_shown(page) == 20
    page.get_by_role("button", name="clear").click()
    page.get_by_label("Problem").fill("sum-7")
    page.get_by_label("Problem").press("Enter")
    assert n_shown(page) == 1
    page.get_by_role("button", name="clear").click()
    page.get_by_label("min. tokens").fill("100")
    assert n_shown(page) == 0


def test_draft_and_refinement_stand_side_by_side(transcripts: Watched) -> None:
    """Guards against a diff that marks the wrong words, and against verdicts or answers of the other reply."""
    page = transcripts.page
    page.get_by_text("What is sum-8?").click()
    draft, refinement = page.locator(".reply").all()
    assert draft.locator("del").all_inner_texts() == ["First", "8"]
    assert refinement.locator("ins").all_inner_texts() == ["Again", "4"]
    assert "wrong" in draft.locator(".verdict").inner_text()
    assert "right" in refinement.locator(".verdict").inner_text()
    assert draft.locator(".why code").inner_text() == "8"
    assert refinement.locator(".why").inner_text().endswith("compared")
    assert page.locator(".gold code").inner_text() == "4"
    a_left, b_left = draft.bounding_box()["x"], refinement.bounding_box()["x"]
    assert a_left < b_left
    page.get_by_role("button", name="Formulas").click()
    assert page.locator(".reply").first.locator("math").count() == 2
    page.get_by_role("button", name="Plain text").click()
    assert draft.locator(".text").inner_text() == r"First, \(2 + 2 = 8\), so \boxed{8}."


def test_keys_walk_through_the_replies(transcripts: Watched) -> None:
    """Guards against keys that lead elsewhere: sum-0 was fixed, sum-1 damaged, sum-2 and sum-3 kept, sum-4 fixed."""
    page = transcripts.page
    title = page.locator(".detail-title h2")
    walked = []
    for key in ("n", "n", "n", "p", "j", "j", "k"):
        page.keyboard.press(key)
        walked.append(title.inner_text())
    assert walked == ["sum-0", "sum-1", "sum-4", "sum-1", "sum-2", "sum-3", "sum-2"]
    page.keyboard.press("/")
    page.keyboard.type("jn")
    assert page.get_by_role("searchbox").input_value() == "jn"
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")
    assert title.count() == 0


def test_a_link_leads_to_the_reply(transcripts: Watched, browser: Any, report: Path) -> None:
    """Guards against addresses that do not hold the state of the page."""
    page = transcripts.page
    page.get_by_role("button", name="damaged").click()
    page.keyboard.press("n")
    page.keyboard.press("n")
    other = open_page(browser, report, page.evaluate("location.hash"))
    other.page.wait_for_selector(".detail-title h2")
    assert other.page.locator(".detail-title h2").inner_text() == "sum-5"
    assert n_shown(other.page) == 10
    other.page.close()


def test_replies_are_shown_as_text(transcripts: Watched) -> None:
    """Guards against scripts, images and links of a model, terminal escapes and marks that reorder a line, in all views."""
    page = transcripts.page
    page.get_by_label("source").select_option("training")
    for n, text in enumerate(HOSTILE):
        page.get_by_text(f"What is hostile-{n}?").click()
        for view in ("Formulas", "Plain text"):
            page.get_by_role("button", name=view).click()
            shown = page.locator(".reply .text")
            assert shown.locator("img, script, a, iframe, object").count() == 0
            if "\x1b" in text:
                assert shown.locator(".hidden-letter").all_inner_texts() == [r"\x1b", r"\x1b", r"\u202e", r"\u202c"]
                assert "\u202e" not in shown.inner_text()
        if "\x1b" not in text:
            assert shown.inner_text() == text
        assert page.locator(".detail").evaluate("element => element.scrollWidth <= element.clientWidth")
    page.wait_for_timeout(200)


def test_ten_thousand_replies(browser: Any, tmp_path: Path) -> None:
    """Guards against a page that stands still with 10,000 replies. It prints its times: on a quiet machine, the first paint
    takes less than 2 s, and a filter less than 200 ms."""
    folder = training_folder(tmp_path / "run", n_answers=0)
    records = []
    for n in range(10_000):
        words = " ".join(f"step {n * m % 997} of {m}" for m in range(60))
        verdicts = ("wrong", "right") if n % 3 else ("right", "right")
        draft, final = step("solve", f"{words} a{n}", verdicts[0]), step("refine", f"{words} b{n}", verdicts[1])
        records.append(answer(f"p{n}", draft, final))
    append(folder.path / "eval" / "000008.jsonl", records)
    append(folder.samples, [sample("more", "text", 9)])
    file = write_report(folder.path)
    watched = open_page(browser, file, viewport={"width": 1300, "height": 800})
    page = watched.page
    paint = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? performance.now()")
    page.get_by_role("link", name="Transcripts").click()
    page.wait_for_selector(".list-row")
    times = page.evaluate(TIMED_FILTERS)
    watched.assert_quiet()
    print(f"first paint {paint:.0f} ms, filters {times}")
    assert paint < 20_000
    assert max(times) < 2000
    assert "of the 10,006 records" in page.locator(".shown-count").inner_text()
    page.close()


TIMED_FILTERS = """async () => {
    const settle = () => new Promise((done) => requestAnimationFrame(() => setTimeout(done, 0)));
    const times = [];
    for (const query of ['q=b9999', 'q=step+7', 'transition=fixed', 'verdict=right&min=10', 'q=nowhere', '']) {
        await settle();
        const start = performance.now();
        location.hash = '#transcripts?' + query;
        await settle();
        times.push(Math.round(performance.now() - start));
    }
    return times;
}"""
