"""One batch ahead in several processes: the run of one process, and an end for all when one of them fails in sampling.

Rounding is as in `test_ranks`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from policies.vllm.test_run import fake as served_fake
from rethink.jsonl import Record
from rethink.training import checkpoint
from support import ranks_off_policy_cases as cases
from support.fake_vllm import FakeVllm
from support.processes import light
from support.ranks_start import Ended, Processes, report, together
from training.fsdp.test_runs import (
    WEIGHTS,
    arguments,
    assert_refused,
    assert_same_records,
    assert_same_run,
    assert_well,
    gap,
    records,
    saved,
    share,
    train,
)

_light = pytest.fixture(scope="module", autouse=True)(light)

N = 8
"""Updates of the whole run, two to a batch."""


@pytest.fixture(scope="module")
def settings(model_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Four batches of five problems; the last two are sampled beside the second update of the batch before, which has a
    KL term."""
    folder = tmp_path_factory.mktemp("problems")
    for name, n, question in (("train", 11, "{} 7 5 -> 26"), ("test", 3, "{} 5 3 -> 21")):
        rows = [{"key": f"{name}{k}", "question": question.format(k), "answer": "26"} for k in range(n)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    held_out = f"{{source = '{folder / 'test.jsonl'}', id = 'key', verifier = 'support.ranks_cases:coin'}}"
    return [
        *(f"model.path={model_folders['qwen3']}", "model.device=cpu", "problems_per_batch=5", "seed=3", f"updates={N}"),
        *("one_step_off_policy=true", "checkpoint_every=2", "keep_checkpoints=9", "distributed.timeout_s=100"),
        *("method={name = 'think_twice'}", "method.n_solve=4", "method.n_refine=3", "method.solve={n_steps = 2}"),
        *("method.refine={n_steps = 1, kl_coef = 0.1}", "prompts.solve={question}", "prompts.refine=again"),
        *("sampling.max_tokens=5", "training.lr=0.001", f"problems.source={folder / 'train.jsonl'}"),
        *("problems.id=key", "problems.verifier=support.ranks_cases:coin"),
        *(f"evaluation.problems={held_out}", "evaluation.every=2", "evaluation.n=2"),
        "evaluation.sampling={temperature = 1.0, max_tokens = 5}",
    ]


@pytest.fixture(scope="module")
def undisturbed(settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process, in which batches were sampled ahead, and learned from."""
    out = train(settings, tmp_path_factory.mktemp("undisturbed") / "run")
    updates = updates_of(records(out))
    assert [r["lag_updates"] for r in updates] == [0, 0, 0, 0, 1, 0, 1, 0]
    assert all(0 < r["reward"] < 1 and r["grad_norm"] > 0 for r in updates)
    assert gap(saved(out, 4), saved(out, N)) > 50 * WEIGHTS
    return out


@pytest.fixture(scope="module")
def stopped(settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of two ranks, one of which was interrupted while both sampled the batch after the second one. The next
    checkpoint would have been a later one."""
    out = tmp_path_factory.mktemp("stopped") / "run"
    ended = fail("interrupts", settings, out, "checkpoint_every=1000")
    assert [e.code for e in ended] == [130, 130], report(ended)
    assert "stopped after 2 problem batches and saved; to resume:" in ended[0].text
    return out


def updates_of(found: Sequence[Record]) -> list[Record]:
    return [r for r in found if r["phase"] != "evaluation"]


def fail(how: str, settings: Sequence[str], out: Path, *more: str) -> list[Ended]:
    """How two ranks ended, when something went wrong beside the last update of the second batch."""
    given = arguments(settings, out, *more)
    return together(2, cases.failing, how, 3, *given, folder=out.with_suffix(".said"))


def ahead_in(out: Path, n: int) -> dict[str, Any] | None:
    """What a checkpoint holds of the next batch."""
    counters: dict[str, Any] = json.loads((out / "checkpoints" / f"{n:06d}" / "counters.json").read_text())
    found: dict[str, Any] | None = counters["sampled_ahead"]
    return found


# ---------------------------------------------------------------------------------------------------- the same run


def test_two_ranks_make_the_run_of_one_process(settings: list[str], undisturbed: Path, tmp_path: Path) -> None:
    """Guards against exchanges of both threads that meet each other's on another rank, samples of other weights than they
    say, and samples of one rank's prompts alone in a checkpoint. On one rank training is always the first to exchange
    something, on the other one sampling."""
    out = tmp_path / "run"
    assert_well(together(2, cases.crossed, *arguments(settings, out), folder=tmp_path / "said"))
    assert_same_run(out, undisturbed, N)
    for n in range(2, N + 1, 2):
        ours, theirs = ahead_in(out, n), ahead_in(undisturbed, n)
        assert (ours is not None) == (theirs is not None) == (n > 2)
        assert ours is None or theirs is None or texts(ours) == texts(theirs)
    logged = updates_of([json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()])
    told = [r["n_bytes_gathered"] for r in logged]
    assert max(told[4], told[6]) < 2000 < min(told[:3]), "samples count when they are drawn, though they went aside"
    assert max(told[:3]) < 7000 < min(told[3], told[5], told[7]), "those of two phases beside training"


def texts(ahead: dict[str, Any]) -> Any:
    return ahead["version"], [
        (call["asked"], [[(s["ids"], s["text"]) for s in group["samples"]] for group in call["groups"]])
        for call in ahead["calls"]
    ]


served = served_fake


def test_ranks_that_share_a_vllm_server_sample_ahead(settings: list[str], served: FakeVllm, tmp_path: Path) -> None:
    """Guards against a server that gets new weights beside sampling, or ranks that do not hear what it drew."""
    more = ("sampler.engine=vllm", f'sampler.urls=["{served.url}"]', "updates=6")
    one = train(settings, tmp_path / "one", *more)
    labels = set[str]()
    served.on_generate = lambda n: labels.add(served.label)
    assert_well(share(2, settings, tmp_path / "two", *more))
    assert_same_run(tmp_path / "two", one, 6)
    assert updates_of(records(one))[4]["lag_updates"] == 1
    assert len(labels) == 7, "all versions were asked, each under its own name"


# ----------------------------------------------------------------------------------------------- stopped and resumed


@pytest.mark.parametrize("n", [1, 2, 3])
def test_a_stopped_run_goes_on_with_any_number_of_ranks(
    n: int, settings: list[str], stopped: Path, undisturbed: Path, tmp_path: Path
) -> None:
    """Guards against an interrupt that ranks act upon in different batches, and samples ahead that are lost, or that only
    as many ranks can read as have drawn them."""
    assert (ahead_in(stopped, 4) or {})["version"] == 3
    out = Path(shutil.copytree(stopped, tmp_path / "run"))
    if n == 1:
        train(settings, out, resume=True)
    else:
        assert_well(share(n, settings, out, "--resume"))
    assert_same_run(out, undisturbed, N)


def test_ranks_go_on_from_what_one_process_sampled(settings: list[str], undisturbed: Path, tmp_path: Path) -> None:
    """Guards against a way that leads from ranks to one process only."""
    out = train(settings, tmp_path / "run", "updates=6")
    assert ahead_in(out, 6) is not None
    assert_well(share(2, settings, out, "--resume"))
    assert_same_run(out, undisturbed, N)


@pytest.mark.parametrize(("where", "n"), [("evaluate_held_out", 2), ("save", 4)])
def test_an_interrupt_between_batches_stops_all_alike(
    where: str, n: int, settings: list[str], undisturbed: Path, tmp_path: Path
) -> None:
    """Guards against a rank that stops, or saves, while the other begins the next batch: one was interrupted when both
    had agreed to go on."""
    out = tmp_path / "run"
    given = arguments(settings, out)
    ended = together(2, cases.interrupted_in, where, *given, folder=tmp_path / "said")
    assert [e.code for e in ended] == [130, 130], report(ended)
    newest = checkpoint.newest(out / "checkpoints", pytest.fail)
    assert newest is not None
    assert int(newest.name) == n
    ours = records(out)
    assert_same_records(ours, records(undisturbed)[: len(ours)])


# ------------------------------------------------------------------------------------------------------------ failures


def test_a_mistake_of_one_rank_is_told_once(settings: list[str], tmp_path: Path) -> None:
    """Guards against a rank that ends alone, and another that waits for it in publishing. What was trained beside it is
    logged, as in one process."""
    ended = fail("refuses", settings, tmp_path / "run")
    assert_refused(ended, "rank 1: no server is left")
    assert [r["update"] for r in updates_of(records(tmp_path / "run"))] == [1, 2, 3, 4]


def test_a_loss_that_is_not_finite_is_told_once(settings: list[str], tmp_path: Path) -> None:
    """Guards against a message from each rank, and ranks that wait for each other's samples."""
    ended = fail("training explodes", settings, tmp_path / "run")
    assert_refused(ended, "stopped: the loss is nan", "in the 'refine' update of problem batch 1 ", "resume from it")


@pytest.mark.parametrize("where", ["sampling", "training"])
def test_an_error_of_one_rank_ends_the_others(where: str, settings: list[str], tmp_path: Path) -> None:
    """Guards against the loss of a traceback, and a rank that waits for one which has failed in either thread."""
    ended = fail("breaks" if where == "sampling" else "training breaks", settings, tmp_path / "run")
    assert [e.code for e in ended] == [2, 1], report(ended)
    assert f"RuntimeError: {where} has run out of memory" in ended[1].text
    assert_lost(ended[0])
    assert [r["update"] for r in updates_of(records(tmp_path / "run"))] == [1, 2, 3], "nothing was published any more"


def test_a_rank_that_dies_ends_the_others(settings: list[str], undisturbed: Path, tmp_path: Path) -> None:
    """Guards against survivors that hang, and a checkpoint that suffers: the run goes on from it."""
    out = tmp_path / "run"
    ended = fail("dies", settings, out)
    assert [e.code for e in ended] == [2, -9], report(ended)
    assert_lost(ended[0])
    assert sorted(p.name for p in (out / "checkpoints").iterdir()) == ["000002"]
    assert_same_run(train(settings, out, resume=True), undisturbed, N)


def test_a_rank_that_hangs_ends_the_others_in_time(settings: list[str], tmp_path: Path) -> None:
    """Guards against a rank whose sampling stands still while its training goes on: the others wait some seconds."""
    out = tmp_path / "run"
    given = arguments(settings, out, "distributed.timeout_s=8")
    processes = Processes(2, cases.failing, "hangs", 3, *given, folder=tmp_path / "said")
    (ended, _) = processes.end([0])
    assert ended.code == 2, ended.text
    assert_lost(ended)
    assert "took longer than distributed.timeout_s" in ended.text
    assert sorted(p.name for p in (out / "checkpoints").iterdir()) == ["000002"]


def assert_lost(ended: Ended) -> None:
    """One message: another rank has ended."""
    messages = [line for line in ended.text.splitlines() if line.startswith("rethink: ")]
    assert len(messages) == 1, ended.text
    assert "rethink: rank 0 got no answer from the others" in messages[0]
    assert "the last checkpoint is untouched, resume from it with --resume" in messages[0]
    assert "Traceback" not in ended.text
