"""`rethink eval` against a server that fails in all the usual ways, and where its key may never be seen."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rethink.evaluation.answers import read_answers
from support.command_line import Rethink, assert_one_message
from support.fake_endpoint import Answer, Asked, FakeEndpoint, completion, refusal
from support.images import png
from support.report_runs import embedded

KEY = "sk-Geheim/42+Z"
N = 7


@pytest.fixture(autouse=True)
def _sums(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, slept: list[float], endpoint: FakeEndpoint) -> None:
    """A file sums.jsonl, a key, no waits, and a server that knows sums."""
    rows = [{"question": f"What is {n} + {n}?", "answer": str(2 * n)} for n in range(N)]
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setenv("MY_KEY", KEY)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    endpoint.script = knows


def knows(asked: Asked) -> Answer:
    """Even sums are right at once and stay right. Drafts of odd sums are wrong and get fixed, except for 5."""
    messages = asked.body["messages"]
    n = int(re.findall(r"\d+", messages[0]["content"])[0])
    refining = len(messages) > 1
    right = n % 2 == 0 or (refining and n != 5)
    reply = completion(f"So it is \\boxed{{{2 * n + (not right)}}}.")
    reply.body["usage"] = {"prompt_tokens": 20 + 30 * refining, "completion_tokens": 7}
    return reply


def asking(endpoint: FakeEndpoint, *more: str) -> list[str]:
    return ["eval", "sum-model", "--endpoint", endpoint.url, "--on", "sums.jsonl", "endpoint.key_env=MY_KEY", *more]


def summary(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "summary.json").read_text(), parse_constant=pytest.fail)


def test_an_evaluation_by_hand(rethink: Rethink, tmp_path: Path, endpoint: FakeEndpoint) -> None:
    """Guards against an endpoint that is evaluated otherwise than a model: 0, 2, 4, 6 are right, 1 and 3 get fixed."""
    shown = rethink(*asking(endpoint, "--out", "e", "evaluation.sampling.max_tokens=99"))
    assert shown.code == 0
    numbers = summary(tmp_path / "e")["suites"]["sums.jsonl"]["strategies"]["refine"]
    assert numbers["solve"]["accuracy"]["value"] == pytest.approx(4 / 7)
    assert numbers["refined"]["accuracy"]["value"] == pytest.approx(6 / 7)
    assert (numbers["fix"]["value"], numbers["damage"]["value"]) == (pytest.approx(2 / 3), 0)
    assert numbers["transitions"] == {"right_right": 4, "right_wrong": 0, "wrong_right": 2, "wrong_wrong": 1}
    assert (numbers["solve"]["prompt_tokens"]["value"], numbers["refined"]["prompt_tokens"]["value"]) == (20, 50)
    assert numbers["refined"]["tokens"]["value"] == 7
    assert len(endpoint.asked) == 2 * N
    for asked in endpoint.asked:
        assert (asked.body["model"], asked.body["temperature"], asked.body["max_tokens"]) == ("sum-model", 0, 99)
        assert asked.headers["authorization"] == f"Bearer {KEY}"
    refined = [a.body["messages"] for a in endpoint.asked if len(a.body["messages"]) == 3]
    assert all(m[1]["content"].startswith("So it is") and "review" in m[2]["content"] for m in refined)


def test_the_page_of_an_evaluation_has_its_images(rethink: Rethink, tmp_path: Path, endpoint: FakeEndpoint) -> None:
    """Guards against images that an evaluation sends, but neither keeps nor shows."""
    endpoint.script = lambda asked: completion(r"\boxed{1}")
    urls: list[str] = []
    rows: list[dict[str, str]] = []
    for color in ("red", "blue", "red"):
        urls.append("data:image/png;base64," + base64.b64encode(png(color)).decode())
        rows.append({"question": f"How {color}, from 0 to 1? {len(rows)}", "answer": "1", "image": urls[-1]})
    (tmp_path / "seen.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    shown = rethink(
        "eval", "see", "--endpoint", endpoint.url, "--on", "seen.jsonl", "--out", "e", "--strategy", "solve"
    )
    assert shown.code == 0, shown.err
    sent = [asked.body["messages"][0]["content"][0]["image_url"]["url"] for asked in endpoint.asked]
    assert sorted(sent) == sorted(urls)
    assert rethink("report", "e", "--out", "page.html").code == 0
    page = (tmp_path / "page.html").read_text()
    replies = embedded(page, "replies-0")
    assert replies["rows"]["images"] == [[0], [1], [0]]
    names = [f"{hashlib.sha256(png(color)).hexdigest()[:24]}.png" for color in ("red", "blue")]
    assert replies["images"] == names
    assert re.findall(r'id="image-([^"]+)" data-type="image/png"', page) == names


def faulty(endpoint: FakeEndpoint, faults: list[Answer]) -> Callable[[Asked], Answer]:
    """Each request fails once before it is answered, the faults by turns."""
    seen: set[str] = set()

    def script(asked: Asked) -> Answer:
        body = json.dumps(asked.body, sort_keys=True)
        if body not in seen:
            seen.add(body)
            return faults[asked.n % len(faults)]
        return knows(asked)

    return script


def test_failures_that_pass_leave_no_trace(rethink: Rethink, tmp_path: Path, endpoint: FakeEndpoint) -> None:
    """Guards against answers that are lost, doubled or exchanged by 429s, 500s, cut connections and broken bodies."""
    assert rethink(*asking(endpoint, "--out", "calm", "evaluation.n=3", "evaluation.sampling.temperature=1")).code == 0
    calm = len(endpoint.asked)
    endpoint.script = faulty(
        endpoint,
        [
            refusal(429, f"slow down, {KEY}", headers={"Retry-After": "0"}),
            Answer(500, "oops"),
            Answer(cut="before"),
            Answer(200, completion("half").body, cut="middle"),
            Answer(200, "<html>"),
        ],
    )
    settings = ["evaluation.n=3", "evaluation.sampling.temperature=1"]
    settings += ["evaluation.batch_size=6", "endpoint.concurrency=5"]
    assert rethink(*asking(endpoint, "--out", "rough", *settings)).code == 0
    # Samples of one prompt differ in their seeds, so all requests differ.
    assert len(endpoint.asked) == 3 * calm
    ours, theirs = (read_answers(tmp_path / name / "answers.jsonl") for name in ("calm", "rough"))
    assert ours == theirs
    assert len(ours) == 3 * N


def test_an_endpoint_that_gives_up_costs_no_answer(rethink: Rethink, tmp_path: Path, endpoint: FakeEndpoint) -> None:
    """Guards against paid answers that are lost, and a message that does not say how to resume."""
    settings = ["evaluation.batch_size=2", "endpoint.retries=1", "endpoint.concurrency=1"]
    assert rethink(*asking(endpoint, "--out", "calm", *settings)).code == 0
    n, endpoint.script = len(endpoint.asked), lambda asked: knows(asked) if asked.n < n + 9 else Answer(503, "down")
    stopped = rethink(*asking(endpoint, *settings, "--out", "a b"))
    assert (stopped.code, stopped.out) == (2, "")
    assert "to resume, repeat the command with --out 'a b' --resume" in stopped.err
    assert re.search(r"rethink: gave up on http://127.0.0.1:\d+/v1 after 2 attempts: ", stopped.err)
    assert len(read_answers(tmp_path / "a b" / "answers.jsonl")) == 4  # 9 answers: two batches of 4 and one
    n, endpoint.script = len(endpoint.asked), knows
    assert rethink(*asking(endpoint, *settings, "--out", "a b", "--resume")).code == 0
    assert len(endpoint.asked) - n == 14 - 9
    assert not (tmp_path / "a b" / "replies.partial.jsonl").exists()
    ours, theirs = (tmp_path / name / "answers.jsonl" for name in ("calm", "a b"))
    assert ours.read_bytes() == theirs.read_bytes()


def test_overlong_prompts_are_counted(rethink: Rethink, tmp_path: Path, endpoint: FakeEndpoint) -> None:
    """Guards against a server's "too long" that ends an evaluation: problem 2, and the refinement of 3, are left out."""

    def script(asked: Asked) -> Answer:
        first, refining = asked.body["messages"][0]["content"], len(asked.body["messages"]) > 1
        if "2 + 2" in first or ("3 + 3" in first and refining):
            return refusal(400, "This model's maximum context length is 9 tokens")
        return knows(asked)

    endpoint.script = script
    shown = rethink(*asking(endpoint, "--out", "e"))
    assert shown.code == 0
    numbers = summary(tmp_path / "e")["suites"]["sums.jsonl"]["strategies"]["refine"]
    assert (numbers["n_skipped"], numbers["n_not_refined"], numbers["n_problems"]) == (1, 1, 7)
    assert numbers["solve"]["accuracy"]["n"] == 6
    assert numbers["refined"]["accuracy"]["n"] == 5
    assert shown.out.splitlines()[-1].split() == ["sums.jsonl", "1", "1", "0", "0"]
    assert shown.err.count("a prompt is too long for the endpoint") == 1


def test_replies_of_an_unfinished_batch_are_kept(rethink: Rethink, tmp_path: Path, endpoint: FakeEndpoint) -> None:
    """Guards against 200 paid replies that are lost with the 201st, and the loss of all after a damaged line."""
    settings = ["evaluation.n=3", "evaluation.sampling.temperature=1", "endpoint.retries=0", "endpoint.concurrency=1"]
    assert rethink(*asking(endpoint, *settings, "--out", "calm")).code == 0
    n_calm = len(endpoint.asked)
    endpoint.script = lambda asked: knows(asked) if asked.n < n_calm + 11 else Answer(503, "down")
    stopped = rethink(*asking(endpoint, *settings, "--out", "e"))
    assert stopped.code == 2
    assert "--out e --resume" in stopped.err
    with (tmp_path / "e" / "replies.partial.jsonl").open("ab") as file:
        file.write(b'{"key": "00')  # as a kill leaves it
    n_before, endpoint.script = len(endpoint.asked), knows
    assert rethink(*asking(endpoint, *settings, "--out", "e", "--resume")).code == 0
    assert len(endpoint.asked) - n_before == n_calm - 9  # the replies to three problems were kept, two of another not
    ours, theirs = (tmp_path / name / "answers.jsonl" for name in ("calm", "e"))
    assert ours.read_bytes() == theirs.read_bytes()


def test_replies_of_a_judge_are_kept(rethink: Rethink, tmp_path: Path, endpoint: FakeEndpoint) -> None:
    """Guards against the ratings of an unfinished batch that are paid for twice: 14 drafts, and 5 of 14 ratings."""
    settings = ["--strategy", "best:2", "endpoint.concurrency=1", "judge.path=a-judge", "judge.endpoint.concurrency=1"]
    settings += [f"judge.endpoint.url={endpoint.url}", "judge.endpoint.key_env=MY_KEY", "judge.endpoint.retries=0"]
    settings += ["evaluation.sampling.temperature=1"]

    def rates(asked: Asked) -> Answer:
        return completion(r"\boxed{7}") if asked.body["model"] == "a-judge" else knows(asked)

    endpoint.script = rates
    assert rethink(*asking(endpoint, *settings, "--out", "calm")).code == 0
    n_calm = len(endpoint.asked)
    endpoint.script = lambda asked: rates(asked) if asked.n < n_calm + 19 else Answer(503, "down")
    assert rethink(*asking(endpoint, *settings, "--out", "e")).code == 2
    n_before, endpoint.script = len(endpoint.asked), rates
    assert rethink(*asking(endpoint, *settings, "--out", "e", "--resume")).code == 0
    assert len(endpoint.asked) - n_before == n_calm - 19
    ours, theirs = (tmp_path / name / "answers.jsonl" for name in ("calm", "e"))
    assert ours.read_bytes() == theirs.read_bytes()


REFUSED = [
    refusal(400, "the prompt triggered the content management policy", code="content_filter"),
    Answer(body={"choices": []}),
    Answer(500, "this prompt crashes the model"),
    Answer(cut="before"),
]


@pytest.mark.parametrize("fault", REFUSED)
def test_one_prompt_that_always_fails_costs_one_answer(
    rethink: Rethink, tmp_path: Path, endpoint: FakeEndpoint, fault: Answer
) -> None:
    """Guards against an evaluation that one prompt ends, again after each --resume, and a failure that counts as wrong."""
    endpoint.script = lambda asked: fault if "2 + 2" in asked.body["messages"][0]["content"] else knows(asked)
    settings = ["evaluation.strategy=solve", "evaluation.batch_size=2", "endpoint.retries=1", "endpoint.concurrency=1"]
    shown = rethink(*asking(endpoint, *settings, "--out", "e"))
    assert shown.code == 0
    assert shown.err.count("is not graded (reported once): the endpoint ") == 1
    numbers = summary(tmp_path / "e")["suites"]["sums.jsonl"]["strategies"]["solve"]
    assert numbers["accuracy"]["n"] == N - 1
    assert numbers["accuracy"]["value"] == pytest.approx(3 / 6)
    failed = [a.steps[0] for a in read_answers(tmp_path / "e" / "answers.jsonl") if a.steps[0].right is None]
    assert [(step.text, step.stop, "2 + 2" in step.prompt[0][1]) for step in failed] == [("", "failed", True)]
    assert "this prompt" in failed[0].reason
    n_asked = len(endpoint.asked)
    assert rethink(*asking(endpoint, *settings, "--out", "e", "--resume")).code == 0
    assert len(endpoint.asked) == n_asked


def test_max_tokens_over_the_servers_context_is_an_error(
    rethink: Rethink, tmp_path: Path, endpoint: FakeEndpoint
) -> None:
    """Guards against "over-long" for every problem, and a good end, where only a setting is wrong."""
    words = "This model's maximum context length is 99 tokens and your request has 9 input tokens (999 > 99 - 9)."
    endpoint.script = lambda asked: refusal(400, f"'max_tokens' is too large: 999. {words}")
    for name, rows in (("many", N), ("few", 2)):
        shown = rethink(*asking(endpoint, "--out", name, f"evaluation.problems.limit={rows}"))
        assert (shown.code, shown.out) == (2, "")
        assert words in shown.err
        assert "see sampling.max_tokens (in evaluations evaluation.sampling.max_tokens)" in shown.err
        assert not (tmp_path / name).exists(), "in the way of the corrected command"


def test_a_model_that_is_not_served_is_named(rethink: Rethink, endpoint: FakeEndpoint) -> None:
    """Guards against a search for the right name of a model."""
    endpoint.script = lambda asked: refusal(404, "The model does not exist.")
    endpoint.models = ["some/other", "Qwen/sum-model-3B"]
    shown = rethink(*asking(endpoint))
    assert (
        "it does not serve 'sum-model' (did you mean Qwen/sum-model-3B?), but some/other, Qwen/sum-model-3B"
        in shown.err
    )
    endpoint.models = []
    assert "check the model's name, 'sum-model', and the URL" in rethink(*asking(endpoint)).err


def test_a_corrected_command_may_use_a_folder_with_other_files(
    rethink: Rethink, tmp_path: Path, endpoint: FakeEndpoint
) -> None:
    """Guards against settings of a failed command that stay where there are notes, and then refuse all others."""
    (tmp_path / "e").mkdir()
    (tmp_path / "e" / "notes.txt").write_text("mine")
    knows, endpoint.script = endpoint.script, lambda asked: refusal(404, "The model does not exist.")
    assert rethink(*asking(endpoint, "--out", "e")).code == 2
    assert [file.name for file in (tmp_path / "e").iterdir()] == ["notes.txt"]
    endpoint.script = knows
    assert rethink(*asking(endpoint, "--out", "e", "seed=3")).code == 0


@pytest.mark.parametrize("part", ["me:{key}@127.0.0.1", "127.0.0.1/v1?api-key={key}"])
@pytest.mark.parametrize("setting", ["endpoint.url", "judge.endpoint.url", "teacher.endpoint.url"])
def test_a_key_in_a_url_is_refused(rethink: Rethink, tmp_path: Path, setting: str, part: str) -> None:
    """Guards against a key or a password in config.toml, in messages, data cards and pages."""
    shown = rethink("eval", "m", "--on", "sums.jsonl", "--out", "e", f"{setting}=http://{part.format(key=KEY)}")
    assert_one_message(shown, f"{setting} must not hold a")
    assert "Geheim" not in shown.err
    assert not (tmp_path / "e").exists()


def test_the_key_is_nowhere(rethink: Rethink, tmp_path: Path, endpoint: FakeEndpoint) -> None:
    """Guards against a key in config.toml, answers, messages or tracebacks, also where the server repeats it."""
    assert rethink(*asking(endpoint, "--out", "good")).code == 0
    endpoint.script = lambda asked: refusal(401, f"bad key {asked.headers['authorization']}")
    denied = rethink(*asking(endpoint, "--out", "denied"))
    assert (denied.code, denied.out) == (2, "")
    assert "check MY_KEY" in denied.err
    assert "stopped; the results" not in denied.err
    assert not (tmp_path / "denied").exists(), "in the way of the corrected command"
    endpoint.script = lambda asked: refusal(500, f"{asked.headers}")
    failed = rethink(*asking(endpoint, "--out", "failed", "endpoint.retries=1"))
    assert failed.code == 2
    for text in (denied.err, failed.err, *(p.read_text() for p in tmp_path.rglob("*") if p.is_file())):
        assert "Geheim" not in text
    assert 'key_env = "MY_KEY"' in (tmp_path / "good" / "config.toml").read_text()


@pytest.mark.parametrize("key", [KEY, "hf_GeheimGeheimGeheim"])
def test_a_key_in_place_of_its_variable_is_refused(
    rethink: Rethink, tmp_path: Path, endpoint: FakeEndpoint, key: str
) -> None:
    """Guards against a key as endpoint.key_env that is written to config.toml, or repeated."""
    found = rethink(*asking(endpoint), f"endpoint.key_env={key}")
    assert_one_message(found, "endpoint.key_env must be the name of an environment variable")
    assert "Geheim" not in found.err
    assert not (tmp_path / "runs").exists()


def test_without_a_key_the_variable_is_named(
    rethink: Rethink, endpoint: FakeEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against "unauthorised" without the remedy."""
    endpoint.script = lambda asked: refusal(401, "who are you?")
    monkeypatch.delenv("MY_KEY")
    assert "no key was given: set MY_KEY" in rethink(*asking(endpoint)).err
    assert "authorization" not in endpoint.asked[0].headers
