"""`rethink answer`: what it prints, what it writes for a file of questions, how it resumes, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rethink import jsonl
from rethink.commands import answer
from rethink.errors import UserError
from rethink.jsonl import append, to_json
from rethink.policies.fake import FakePolicy
from rethink.recipe import Recipe
from rethink.types import Prompt, Sampling
from support.command_line import Rethink, assert_one_message
from support.fake_endpoint import Answer, Asked, FakeEndpoint, chunk, completion, event, refusal, streamed
from support.images import image, png

Scripted = Callable[[Callable[[Prompt, int], str]], FakePolicy]


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Scripted:
    """In place of any model, one that replies by the script."""

    def install(script: Callable[[Prompt, int], str]) -> FakePolicy:
        policy = FakePolicy(lambda prompt, index, _version: script(prompt, index), Sampling(max_tokens=23))
        monkeypatch.setattr(answer, "open_policy", lambda recipe: policy)
        return policy

    return install


def by_phase(**replies: str) -> Callable[[Prompt, int], str]:
    """The reply of a phase; of several, parted by |, one per candidate."""
    return lambda prompt, index: replies[prompt.phase].split("|")[index]


# ------------------------------------------------------------------------------------------------------ one question


def test_a_question_is_answered(rethink: Rethink, scripted: Scripted) -> None:
    """Guards against replies that are changed, and messages on stdout. The fake has a token per word and an end."""
    policy = scripted(by_phase(solve="It is  \\boxed{3}.", refine="No:\n\\boxed{5}"))
    shown = rethink("answer", "m", "2 + 3?")
    assert shown.code == 0
    assert shown.out == (
        "\n\n-- draft --\nIt is  \\boxed{3}.\n\n-- refinement --\nNo:\n\\boxed{5}\n\nanswer: 5\nchanged from: 3\n"
    )
    assert shown.err.count("\n") == 1
    assert "replies: 2, sequential calls: 2" in shown.err
    assert "sampled tokens: 7" in shown.err
    assert [p.problem.question for p in policy.shown] == ["2 + 3?"] * 2


BOXED = "evaluation.problems.verifier=boxed"
NO_ANSWERS = "evaluation.problems.verifier=support.coins:never"


@pytest.mark.parametrize(
    ("before", "after", "said", "settings"),
    [
        ("\\boxed{1/2}", "so \\boxed{0.5}", "answer: 0.5\nunchanged", []),
        ("\\boxed{3}", "Not \\boxed{3} but \\boxed{5}", "answer: 5\nchanged from: 3", []),
        ("\\boxed{3}", "Not \\boxed{3} but \\boxed{5}", "answer: 5\nchanged from: 3", [BOXED]),
        ("\\boxed{3}", "\\boxed{4} is a slip; it is \\boxed{3}", "answer: 3\nunchanged", [BOXED]),
        ("well", "hm", "answer: none in the required form\nunchanged", [BOXED]),
        ("\\boxed{3}", "hm", "answer: none in the required form\nchanged from: 3", [BOXED]),
        ("The answer is 42.", "The answer is 42.", "answer: 42 (not in the required form)\nunchanged", [BOXED]),
        ("The answer is 42.", "The answer is 42.", "answer: 42\nunchanged", []),
        ("**Answer:** $x + 1$", "The answer is 42.", "answer: 42\nchanged from: x + 1", []),
        ("well", "hm", "answer: hm\nchanged from: well", []),
        (
            "It is blue.\nThe answer is 4 or 5, I think.",
            "Air!\nYes.",
            "answer: the refinement above\nchanged from the draft",
            [],
        ),
        ("a\nb", "a\nb", "answer: the refinement above\nunchanged", []),
        ("a  ", "a\n", "answer: a\nunchanged", [NO_ANSWERS]),
        ("a", "b", "answer: b\nchanged from: a", [NO_ANSWERS]),
    ],
)
def test_a_change_is_reported_as_the_grader_sees_it(
    rethink: Rethink, scripted: Scripted, before: str, after: str, said: str, settings: list[str]
) -> None:
    """Guards against a spelling that counts as a change. Without extracted answers whole replies are compared."""
    scripted(by_phase(solve=before, refine=after))
    assert rethink("answer", "m", "x?", *settings).out.endswith(f"\n\n{said}\n")


@pytest.mark.parametrize(
    ("more", "boxed"),
    [([], False), ([BOXED], True), (["--gold", "3"], True), (["--strategy", "vote:2"], True), ([NO_ANSWERS], True)],
)
def test_the_form_of_the_answer_is_asked_for_only_where_it_is_needed(
    rethink: Rethink, scripted: Scripted, more: list[str], boxed: bool
) -> None:
    """Guards against "why is the sky blue?" with a request for a number in a box."""
    policy = scripted(lambda prompt, index: "\\boxed{3}")
    assert rethink("answer", "m", "Why is the sky blue?", *more).code == 0
    shown = policy.shown[0].messages[-1].content
    assert ("boxed" in shown) == boxed
    assert boxed or shown == "Why is the sky blue?"


def test_the_answers_of_several_candidates_are_listed(rethink: Rethink, scripted: Scripted) -> None:
    """Guards against mixed candidates, and a vote that is not shown. 7 wins by 2 to 1, in two spellings."""
    scripted(by_phase(solve="\\boxed{3}|or \\boxed{14/2}|hm|\\boxed{7}|x"))
    shown = rethink("answer", "m", "x?", "--strategy", "vote:5")
    none = "none in the required form"
    listed = ["3", "14/2", none, "7", none]
    heads = "".join(f"\n\n-- draft {n} --\n{text}" for n, text in enumerate(listed, start=1))
    assert shown.out == f"{heads}\n\nanswer: 14/2 (draft 2)\n"
    assert "replies: 5, sequential calls: 1" in shown.err
    one = rethink("answer", "m", "x?", "--strategy", "solve")  # is not compared with itself
    assert one.out == "\n\n-- draft --\n\\boxed{3}\n\nanswer: 3\n"


def test_a_strategy_with_commas_is_one_strategy(rethink: Rethink, scripted: Scripted) -> None:
    """`rsa:3,2,2`, which the help names, was once refused as three strategies."""
    policy = scripted(by_phase(solve="1|2|3", merge="4"))
    shown = rethink("answer", "m", "x?", "--strategy", "rsa:3,2,2")
    assert (shown.code, "answer: 4" in shown.out) == (0, True)
    assert [prompt.phase for prompt in policy.shown] == ["solve", *["merge"] * 3]


def test_gold_answer_makes_wrong_answers_retry(rethink: Rethink, scripted: Scripted) -> None:
    """Guards against a --gold that is not used: the first answer is wrong, the second right, so 3 calls are enough."""
    scripted(by_phase(solve="\\boxed{3}", reflect="I see.", retry="\\boxed{5}"))
    shown = rethink("answer", "m", "2 + 3?", "--strategy", "reflect:2", "--gold", "5")
    assert shown.out.split("-- ")[1:] == [
        "draft --\n\\boxed{3}\n\n",
        "reflection --\nI see.\n\n",
        "retry --\n\\boxed{5}\n\nanswer: 5\nchanged from: 3\n",
    ]
    assert "replies: 3, sequential calls: 3" in shown.err
    assert "warning" not in shown.err


def test_a_gold_answer_in_the_wrong_form_is_refused(rethink: Rethink, scripted: Scripted) -> None:
    """Guards against a reflection that does not come, because no reply is graded: countdown's gold has numbers."""
    scripted(by_phase(solve="3 + 4 = 7"))
    shown = rethink("answer", "m", "3 4 -> 7", "--strategy", "reflect", "--gold", "7", "--recipe", "demo-think-twice")
    assert_one_message(shown, 'the gold answer must be numbers and a target, such as "3 7 5 -> 26"')


def test_best_by_rating(rethink: Rethink, scripted: Scripted) -> None:
    """Guards against ratings that are printed, or taken for answers."""

    def rated(prompt: Prompt, index: int) -> str:
        if prompt.phase == "solve":
            return f"\\boxed{{{index}}}"
        return f"\\boxed{{{9 if prompt.draft and prompt.draft.index == 2 else 4}}}"

    scripted(rated)
    shown = rethink("answer", "m", "x?", "--strategy", "best:3", "judge.path=self")
    assert shown.out == "\n\n-- draft 1 --\n0\n\n-- draft 2 --\n1\n\n-- draft 3 --\n2\n\nanswer: 2 (draft 3)\n"


@pytest.mark.parametrize("question", ["seed=3", "[bold]x[/bold] [/]", "--", "-5 + 3 = ?", "{question}"])
def test_questions_that_look_like_something_else(rethink: Rethink, scripted: Scripted, question: str) -> None:
    """Guards against a question taken for a setting, an option, markup or a template, and replies as well."""
    policy = scripted(lambda prompt, index: prompt.problem.question)
    shown = rethink("answer", "--strategy", "solve", "m", "--", question)
    assert (shown.code, shown.out.splitlines()[3]) == (0, question)
    assert question in policy.shown[0].messages[-1].content


def test_a_reply_cannot_control_the_terminal(rethink: Rethink, scripted: Scripted) -> None:
    """Guards against escape sequences that clear the screen, set its title or hide text. Line breaks stay."""
    reply = "\x1b[2J\x1b]0;title\x07a\n\x9b1mb \\boxed{\x1b[8m3}\x7f"
    scripted(lambda prompt, index: reply)
    for strategy in ("refine", "merge:2"):
        out = rethink("answer", "m", "x?", "--strategy", strategy).out
        assert [c for c in out if not c.isprintable() and c != "\n"] == []
        assert "answer: \\x1b[8m3" in out
    assert "\n\\x1b[2J\\x1b]0;title\\x07a\n\\x9b1mb \\boxed{\\x1b[8m3}\\x7f\n" in out


TINY = ["--recipe", "demo-think-twice"]


def test_too_long_a_question(rethink: Rethink) -> None:
    """Guards against silence, and a traceback. The question has 7 tokens, with a draft there are more than 13."""
    shown = rethink("answer", "tiny", "3 7 5 -> 26", *TINY, "sampler.max_prompt_tokens=5")
    assert (shown.code, "answer" in shown.out) == (2, False)
    assert "rethink: the question is too long" in shown.err
    shown = rethink("answer", "tiny", "3 7 5 -> 26", *TINY, "sampler.max_prompt_tokens=13")
    assert shown.code == 0
    assert "warning: the refinement was skipped: its prompt is too long" in shown.err
    assert "unchanged" not in shown.out


def test_printed_replies_equal_written_ones(rethink: Rethink, tmp_path: Path) -> None:
    """Guards against a stream that differs from the reply: greedy replies of the tiny model, printed and in the file."""
    asked = ["3 7 5 -> 26", "11 4 6 -> 13"]
    questions(tmp_path / "q.jsonl", asked)
    greedy = [*TINY, "evaluation.sampling={temperature = 0.0, max_tokens = 24}"]
    assert rethink("answer", "tiny", "--file", "q.jsonl", "--out", "a.jsonl", *greedy).code == 0
    for question, record in zip(asked, read(tmp_path / "a.jsonl"), strict=True):
        out = rethink("answer", "tiny", question, *greedy).out
        assert out.startswith(f"\n\n-- draft --\n{record['draft']}\n\n-- refinement --\n{record['reply']}\n\nanswer: ")
        assert record["draft"].count("=") > 1


REFUSED = [
    (["x?", "--strategy", "reflect:2"], "give the right one with --gold"),
    (["x?", "--strategy", "vote", NO_ANSWERS], "vote compares answers"),
    (["x?", "--strategy", "solve,refine"], "takes one strategy"),
    ([""], "the question is empty"),
    (["\udcff?"], "not valid UTF-8"),
    (["x?", "--resume"], "give one question in quotes, or --file"),
    (["What", "is", "it?"], "put the question in quotes right after the model"),
    (["--file", "q.jsonl"], "--file needs --out ANSWERS.jsonl"),
    (
        ["--file", "q.jsonl", "--out", "a.jsonl", "--gold", "5"],
        "takes gold answers (--answer NAME) and images (--image-column NAME) from columns",
    ),
    (["--file", "q.jsonl", "--out", "q.jsonl"], "q.jsonl already exists; resume it with --resume"),
    (["--file", "q.jsonl", "--out", "a.jsonl", "--answer", "right"], "no column 'right'; there are question"),
    (["--file", "q.jsonl", "--out", "a.jsonl", "--strategy", "reflect"], "name the column of right answers"),
]


@pytest.mark.parametrize(("given", "message"), REFUSED, ids=[" ".join(given) for given, _ in REFUSED])
def test_mistakes_end_in_one_message(
    rethink: Rethink, scripted: Scripted, tmp_path: Path, given: Sequence[str], message: str
) -> None:
    """Guards against tracebacks, messages without a remedy, and files that are left or changed."""
    policy = scripted(by_phase())
    file = questions(tmp_path / "q.jsonl", ["x?"])
    before = file.read_bytes()
    assert_one_message(rethink("answer", "m", *given), message)
    assert policy.shown == []
    assert [p.name for p in tmp_path.iterdir()] == ["q.jsonl"]
    assert file.read_bytes() == before


# ------------------------------------------------------------------------------------------------- a file of questions


def questions(file: Path, asked: Sequence[str]) -> Path:
    file.write_text("".join(json.dumps({"question": q}) + "\n" for q in asked))
    return file


def read(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


ASKED = ["3 7 5 -> 26", "3 9 5 -> 22", "11 4 6 -> 13", "2 8 5 -> 11", "7 9 1 -> 62", "6 2 10 -> 22", "12 3 4 -> 0"]
FILE = ["answer", "tiny", "--file", "q.jsonl", *TINY, "evaluation.batch_size=3"]
FILE += ["evaluation.sampling={temperature = 1.0, max_tokens = 24}", "--out", "a.jsonl"]
VOTE = [*FILE, "--strategy", "vote:3+refine", "evaluation.batch_size=9"]


@pytest.fixture
def asked(tmp_path: Path) -> Path:
    return questions(tmp_path / "q.jsonl", ASKED)


def test_a_line_by_hand(rethink: Rethink, scripted: Scripted, tmp_path: Path) -> None:
    """Guards against fields that are exchanged. Tokens of the fake are words and, of what is sampled, an end."""
    rows = [{"key": key, "text": text} for key, text in (("z", "2 + 2?"), ("a", "one too many"), ("m", "1/2?"))]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    drafts = {"z": "\\boxed{3}", "a": "hm", "m": "\\boxed{0.5}"}
    finals = {"z": "Oh: \\boxed{4}", "a": "hm hm", "m": "so \\boxed{1/2}"}
    scripted(lambda prompt, index: (drafts if prompt.phase == "solve" else finals)[prompt.problem.id])
    columns = ["--column", "text", "--id", "key", "prompts.solve={question}", "prompts.refine=again"]
    shown = rethink("answer", "m", "--file", "q.jsonl", "--out", "new/a.jsonl", *columns)
    assert (shown.code, shown.out) == (0, "")
    assert shown.err.splitlines()[-1] == "3 answers, 2 of them changed from the first answer: new/a.jsonl"
    found = read(tmp_path / "new" / "a.jsonl")
    assert [r["id"] for r in found] == ["z", "a", "m"]
    assert len({r["settings"] for r in found}) == 1
    assert found[0] == {
        **{"id": "z", "question": "2 + 2?", "images": [], "strategy": "refine", "settings": found[0]["settings"]},
        **{"answer": "4", "reply": "Oh: \\boxed{4}", "draft": "\\boxed{3}", "draft_answer": "3", "changed": True},
        "stop": "stop",
        "n_prompt_tokens": 3 + 5,  # 2 + 2? and, with the draft, 2 + 2? \boxed{3} again
        **{"n_tokens": 2 + 3, "calls": 2, "notes": {}},
    }
    assert [(r["answer"], r["draft_answer"], r["changed"]) for r in found[1:]] == [
        (None, None, True),
        ("1/2", "0.5", False),
    ]


def failing(monkeypatch: pytest.MonkeyPatch, n: int, n_bytes: int, error: BaseException) -> None:
    """From now on batch n is written as far as so many bytes, and then something happens."""
    calls = iter(range(100))

    def torn(file: Path, records: Sequence[Any]) -> None:
        if next(calls) < n:
            return append(file, records)
        with file.open("ab") as out:
            out.write("".join(to_json(r) + "\n" for r in records).encode()[:n_bytes])
        raise error

    monkeypatch.setattr(jsonl, "append", torn)


@pytest.mark.parametrize(
    "stops", [[(1, -1), (2, 1_000_000)], pytest.param([(0, 0), (1, 400)], marks=pytest.mark.slow)], ids=str
)
def test_resume_gives_the_same_file(
    rethink: Rethink, asked: Path, monkeypatch: pytest.MonkeyPatch, stops: list[tuple[int, int]]
) -> None:
    """Guards against answers that a stop (before, within and after a line) or other batches lose, repeat or change."""
    out = asked.parent / "a.jsonl"
    assert rethink(*VOTE, "evaluation.batch_size=6").code == 0
    assert [r["question"] for r in read(out)] == ASKED
    whole = out.read_bytes()
    for n, n_bytes in stops:
        out.unlink()
        with monkeypatch.context() as patched:
            failing(patched, n, n_bytes, UserError("the disk is full"))
            stopped = rethink(*VOTE)
        assert (stopped.code, stopped.out) == (2, "")
        assert "the results so far are in a.jsonl; to resume, repeat the command with --resume" in stopped.err
        assert len(out.read_bytes()) < len(whole) or n_bytes == 1_000_000
        assert "7 answers, " in rethink(*VOTE, "--resume").err
        assert out.read_bytes() == whole


def test_batches_of_another_size_lose_no_answer(rethink: Rethink, scripted: Scripted, asked: Path) -> None:
    """Six answers in two batches were once removed from the file, and made again, to begin with a batch of 256."""
    given = ["answer", "m", "--file", "q.jsonl", "--out", "a.jsonl", "--strategy", "solve"]
    scripted(by_phase(solve="x"))
    assert rethink(*given).code == 0
    whole = (asked.parent / "a.jsonl").read_bytes()
    (asked.parent / "a.jsonl").write_bytes(b"".join(whole.splitlines(keepends=True)[:6]) + b'{"id": "6"')
    policy = scripted(by_phase(solve="x"))
    assert rethink(*given, "--resume", "evaluation.batch_size=1000").code == 0
    assert [p.problem.id for p in policy.shown] == ["6"]
    assert (asked.parent / "a.jsonl").read_bytes() == whole
    assert_one_message(rethink(*given, "--resume", "sampler.max_prompt_tokens=5"), "settings was")


def test_a_policy_that_breaks_costs_one_batch(rethink: Rethink, scripted: Scripted, asked: Path) -> None:
    """Guards against answers that are asked for twice: 3 of 7 questions are answered when the fourth breaks."""
    solid = by_phase(solve="\\boxed{3}")

    def breaks(prompt: Prompt, index: int) -> str:
        if prompt.problem.id == "3":
            raise UserError("gave up")
        return solid(prompt, index)

    given = [*FILE, "--strategy", "solve"]
    scripted(breaks)
    assert rethink(*given).code == 2
    kept = read(asked.parent / "a.jsonl")
    policy = scripted(solid)
    shown = rethink(*given, "--resume")
    assert [p.problem.id for p in policy.shown] == ["3", "4", "5", "6"]
    assert read(asked.parent / "a.jsonl")[:3] == kept
    assert "7 of 7" in shown.err
    again = rethink(*given, "--resume")
    assert len(policy.shown) == 4
    assert again.err.splitlines()[-1] == "7 answers, 0 of them changed from the first answer: a.jsonl"


def test_another_image_is_another_question(rethink: Rethink, scripted: Scripted, tmp_path: Path) -> None:
    """Guards against answers about one image beside another: the questions once were all that was compared."""
    scripted(by_phase(solve="x"))
    row = {"question": "What color?", "photo": "a.png", "other": {"bytes": png("olive"), "path": None}}
    given = ["answer", "m", "--file", "q.parquet", "--image-column", "photo", "--out", "a.jsonl", "--strategy", "solve"]
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "q.parquet")
    (tmp_path / "a.png").write_bytes(png("maroon"))
    assert rethink(*given).code == 0
    (line,) = read(tmp_path / "a.jsonl")
    assert line["images"] == [image("maroon").name]
    policy = scripted(by_phase())
    assert rethink(*given, "--resume").code == 0
    (tmp_path / "a.png").write_bytes(png("navy"))
    assert_one_message(rethink(*given, "--resume"), "images was")
    assert policy.shown == []


def test_other_files_are_not_changed(rethink: Rethink, scripted: Scripted, asked: Path) -> None:
    """Guards against a wrong --out with --resume that overwrites the file, and answers of two kinds in one file."""
    scripted(by_phase(solve="x", refine="y"))
    assert rethink(*FILE).code == 0
    out = asked.parent / "a.jsonl"
    content = out.read_bytes()
    policy = scripted(by_phase())
    assert_one_message(rethink(*FILE, "--resume", "--strategy", "solve"), "strategy was 'refine'")
    assert_one_message(rethink(*FILE, "--resume", "seed=5"), "settings was")
    questions(asked, ASKED[:6])
    assert_one_message(rethink(*FILE, "--resume"), "has more records than this command would write")
    questions(asked, [*ASKED[:6], "1 2 3 -> 6"])
    assert_one_message(rethink(*FILE, "--resume"), "question was")
    assert out.read_bytes() == content
    assert policy.shown == []


def test_a_model_that_is_not_found_leaves_no_file(
    rethink: Rethink, asked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against an empty file that gets in the way of the corrected command."""

    def missing(recipe: Recipe) -> FakePolicy:
        raise UserError("no such model")

    monkeypatch.setattr(answer, "open_policy", missing)
    assert_one_message(rethink(*FILE), "no such model")
    assert [p.name for p in asked.parent.iterdir()] == ["q.jsonl"]


def test_overlong_questions_are_left_out_and_the_rest_is_answered(rethink: Rethink, asked: Path) -> None:
    """Guards against a long question (the third) that costs the file, or moves the others' answers."""
    long = [*ASKED[:2], " ".join(["3"] * 20), *ASKED[2:]]
    questions(asked, long)
    assert rethink(*FILE, "sampler.max_prompt_tokens=13").code == 0
    found = read(asked.parent / "a.jsonl")
    assert [r["question"] for r in found] == long
    assert [r["reply"] is None for r in found] == [False, False, True, *[False] * 5]
    empty = ("answer", "reply", "stop", "draft", "draft_answer", "changed")
    assert [found[2][key] for key in empty] == [None] * 6
    assert (found[2]["notes"], found[2]["n_tokens"]) == ({"over-long prompts": 1}, 0)
    assert {r["notes"]["over-long prompts"] for r in found if r["reply"]} == {1}
    assert rethink(*FILE, "sampler.max_prompt_tokens=13", "--resume").code == 0
    assert read(asked.parent / "a.jsonl") == found


def test_gold_answers_from_a_column(rethink: Rethink, scripted: Scripted, tmp_path: Path) -> None:
    """Guards against verdicts by another row's answer: of the two, the first is right at once."""
    (tmp_path / "q.jsonl").write_text('{"question": "a?", "right": 3}\n{"question": "b?", "right": 5}\n')
    scripted(by_phase(solve="\\boxed{3}", reflect="hm", retry="\\boxed{5}"))
    given = ["answer", "m", "--file", "q.jsonl", "--out", "a.jsonl", "--strategy", "reflect", "--answer", "right"]
    assert rethink(*given).code == 0
    assert [(r["answer"], r["changed"], r["calls"]) for r in read(tmp_path / "a.jsonl")] == [
        ("3", False, 1),
        ("5", True, 3),
    ]


# ---------------------------------------------------------------------------------------------------------- endpoints

KEY = "sk-Geheim/42+Z"


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", KEY)


def asking(endpoint: FakeEndpoint, *more: str) -> list[str]:
    return ["answer", "--endpoint", endpoint.url, "sum-model", *more, "endpoint.key_env=MY_KEY", "endpoint.retries=0"]


def test_an_endpoint_is_listened_to(rethink: Rethink, endpoint: FakeEndpoint) -> None:
    """Guards against pieces that are doubled or lost. The server counts 3 and 5 tokens for each reply."""

    def script(asked: Asked) -> Any:
        assert asked.headers["authorization"] == f"Bearer {KEY}"
        refining = len(asked.body["messages"]) > 1
        return streamed(*(["No, ", "it is\n", "\\boxed", "{5}"] if refining else ["It is ", "\\boxed{", "3}", "."]))

    endpoint.script = script
    shown = rethink(*asking(endpoint, "2 + 3?"))
    assert (shown.code, shown.out) == (
        0,
        "\n\n-- draft --\nIt is \\boxed{3}.\n\n-- refinement --\nNo, it is\n\\boxed{5}\n\nanswer: 5\nchanged from: 3\n",
    )
    assert "prompt tokens: 6, sampled tokens: 10" in shown.err
    assert [a.body["stream"] for a in endpoint.asked] == [True, True]
    assert "Geheim" not in shown.out + shown.err


def test_candidates_of_an_endpoint_are_not_streamed(rethink: Rethink, endpoint: FakeEndpoint) -> None:
    """Guards against candidates through one another."""
    endpoint.script = lambda asked: completion("so \\boxed{7}")
    shown = rethink(*asking(endpoint, "2 + 5?", "--strategy", "vote:3"))
    assert shown.out == "".join(f"\n\n-- draft {n} --\n7" for n in (1, 2, 3)) + "\n\nanswer: 7 (draft 1)\n"
    assert ["stream" in a.body for a in endpoint.asked] == [False] * 3


def test_the_key_is_in_no_message_and_no_file(rethink: Rethink, tmp_path: Path, endpoint: FakeEndpoint) -> None:
    """Guards against a key that the server repeats; an answer that broke off is not taken for whole."""
    questions(tmp_path / "q.jsonl", ["2 + 3?"])
    endpoint.script = lambda asked: refusal(401, f"bad key {asked.headers['authorization']}")
    one = rethink(*asking(endpoint, "2 + 3?"))
    several = rethink(*asking(endpoint, "--file", "q.jsonl", "--out", "a.jsonl"))
    endpoint.script = lambda asked: Answer(pieces=[chunk("It is "), event({"error": {"message": f"no {KEY}"}})])
    broken = rethink(*asking(endpoint, "2 + 3?"))
    assert (one.code, several.code, broken.code) == (2, 2, 2)
    assert "check MY_KEY" in one.err
    assert "in the middle of a reply" in broken.err
    assert "answer:" not in broken.out
    endpoint.script = lambda asked: completion("\\boxed{5}")
    assert rethink(*asking(endpoint, "--file", "q.jsonl", "--out", "b.jsonl")).code == 0
    written = [p.read_text() for p in tmp_path.iterdir()]
    for text in (one.out, one.err, several.err, broken.out, broken.err, *written):
        assert "Geheim" not in text


def test_no_reply_of_an_endpoint_is_paid_for_twice(rethink: Rethink, tmp_path: Path, endpoint: FakeEndpoint) -> None:
    """Guards against the replies of an unfinished batch, here of 256 drafts, that a stop loses, that another model's
    command takes for its own, and that it deletes without a word."""
    questions(tmp_path / "q.jsonl", [f"{n} + {n}?" for n in range(5)])
    file = ["--file", "q.jsonl", "endpoint.concurrency=1", "--out"]
    endpoint.script = lambda asked: completion(f"\\boxed{{{len(str(asked.body['messages']))}}}")
    assert rethink(*asking(endpoint, *file, "calm.jsonl")).code == 0
    assert len(endpoint.asked) == 10
    script = endpoint.script
    endpoint.script = lambda asked: script(asked) if asked.n < 13 else Answer(503, "down")
    stopped = rethink(*asking(endpoint, *file, "a.jsonl"))
    assert stopped.code == 2
    assert "the results so far are in a.jsonl.partial; to resume, repeat the command with --resume" in stopped.err
    assert_one_message(rethink(*asking(endpoint, *file, "a.jsonl")), "a.jsonl.partial already exists; resume it")
    n, endpoint.script = len(endpoint.asked), script
    assert rethink(*asking(endpoint, *file, "a.jsonl", "--resume")).code == 0
    assert len(endpoint.asked) - n == 10 - 3
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "calm.jsonl").read_bytes()
    assert not (tmp_path / "a.jsonl.partial").exists()
    endpoint.script = lambda asked: script(asked) if asked.n < n + 10 else Answer(503, "down")
    assert rethink(*asking(endpoint, *file, "b.jsonl")).code == 2
    n, endpoint.script = len(endpoint.asked), script
    other = rethink(*asking(endpoint, *file, "b.jsonl", "--resume", "prompts.system=Be short."))
    assert (other.code, other.out) == (2, "")
    assert "rethink: b.jsonl.partial has replies to other settings" in other.err
    assert len(endpoint.asked) == n
    assert rethink(*asking(endpoint, *file, "b.jsonl", "--resume", "endpoint.concurrency=3")).code == 0
    assert (tmp_path / "b.jsonl").read_bytes() == (tmp_path / "calm.jsonl").read_bytes()


def test_too_long_for_an_endpoint(rethink: Rethink, tmp_path: Path, endpoint: FakeEndpoint) -> None:
    """Guards against a server's "too long" that ends a file of questions, or passes for an answer."""
    questions(tmp_path / "q.jsonl", ["1?", "too long", "3?"])

    def script(asked: Asked) -> Any:
        if "too long" in asked.body["messages"][0]["content"]:
            return refusal(400, "This model's maximum context length is 9 tokens")
        return streamed("\\boxed{5}") if "stream" in asked.body else completion("\\boxed{5}")

    endpoint.script = script
    assert rethink(*asking(endpoint, "--file", "q.jsonl", "--out", "a.jsonl")).code == 0
    assert [r["answer"] for r in read(tmp_path / "a.jsonl")] == ["5", None, "5"]
    shown = rethink(*asking(endpoint, "too long"))
    assert (shown.code, "answer:" in shown.out) == (2, False)
    assert "the question is too long and was not answered" in shown.err
