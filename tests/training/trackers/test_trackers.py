"""Experiment trackers: what they wrote is read back with their own readers."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest

from rethink.errors import UserError
from rethink.jsonl import Record
from rethink.training.loop import train
from rethink.training.run import open_run
from rethink.training.trackers import Trackers, check_trackers, open_trackers
from rethink.training.trackers.mlflow import REFUSED
from rethink.training.trackers.tracker import N_ROWS, Start, numbers_of, table_of
from support.evaluations import answer
from support.runs import THINK_TWICE, Make, make, problems, records

__all__ = ["make", "problems"]

Curve = list[tuple[int, float]]


def record(step: int, phase: str = "solve") -> Record:
    return {"batch": step, "update": step, "phase": phase, "reward": step / 8, "alarms": [], "name": "x", "gap": None}


class Fake:
    """Keeps what it gets, and fails from a step on."""

    def __init__(self, start: Start, fails_from: int) -> None:
        self.start, self.fails_from, self.known_as = start, fails_from, "theirs"
        self.steps: list[int] = []
        self.n_closed = 0

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        if step >= self.fails_from:
            raise ConnectionError("no network")
        self.steps.append(step)

    def log_table(self, step: int, rows: Sequence[Sequence[str]]) -> None:
        self.rows = rows

    def close(self) -> None:
        self.n_closed += 1


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], list[Fake]]:
    def use(fails_from: int) -> list[Fake]:
        made: list[Fake] = []

        def open_tracker(start: Start) -> Fake:
            made.append(Fake(start, fails_from))
            return made[-1]

        monkeypatch.setattr(open_trackers, "_module", lambda _: SimpleNamespace(open_tracker=open_tracker))
        return made

    return use


def test_a_tracker_that_fails_is_off_after_one_warning(tmp_path: Path, fakes: Callable[[int], list[Fake]]) -> None:
    """Guards against a network that stops training, and against a warning per update."""
    warnings: list[str] = []
    (tmp_path / "run").mkdir()
    made = fakes(2)
    trackers = Trackers(["wandb"], tmp_path / "run", {}, warnings.append)
    for step in (1, 2, 3):
        trackers.log(record(step))
    assert [(fake.steps, fake.n_closed) for fake in made] == [([1], 1)]
    assert warnings == ["the tracker wandb failed and is off for the rest of this run (ConnectionError: no network)"]


def test_a_resumed_run_sends_nothing_twice(tmp_path: Path, fakes: Callable[[int], list[Fake]]) -> None:
    """Guards against two points at one update, and against a second run in the tracker."""
    made = fakes(99)
    first = Trackers(["wandb"], tmp_path, {"seed": 1}, pytest.fail)
    for step in (1, 2, 3):
        first.log(record(step))
    first.log(record(3, "evaluation"), [answer(f"p{n}", True, False) for n in range(N_ROWS + 5)])
    again = Trackers(["wandb"], tmp_path, {"seed": 1}, pytest.fail)  # killed, resumed from a checkpoint after update 1
    for step in (2, 3, 4):
        again.log(record(step))
    assert [fake.steps for fake in made] == [[1, 2, 3, 3], [4]]
    assert [fake.start.known_as for fake in made] == ["", "theirs"]
    assert made[0].start.id == made[1].start.id
    assert len(made[0].rows) == N_ROWS
    assert made[0].rows[0] == ("p0", "question p0", "g", "right", "right", "wrong", "wrong")


@pytest.mark.parametrize("text", ["{}", "[]", "{", '{"id": 1, "known_as": {}, "last": {}}', '{"id": "a", "last": []}'])
def test_a_damaged_file_is_another_run(text: str, tmp_path: Path, fakes: Callable[[int], list[Fake]]) -> None:
    """Guards against a file of ids that stops training."""
    made = fakes(99)
    (tmp_path / "trackers.json").write_text(text)
    Trackers(["wandb"], tmp_path, {}, pytest.fail).log(record(1))
    assert made[0].steps == [1]
    assert len(made[0].start.id) == 8
    assert json.loads((tmp_path / "trackers.json").read_text())["last"] == {"wandb update": 1}


def test_mlflow_gets_names_that_it_allows() -> None:
    """Guards against a metric name, such as one with a comma, for which MLflow refuses the whole update."""
    found = [REFUSED.sub("_", name) for name in ("train/pass@1", "rsa:8,4 (x)", "train/solve/a-b.c_d", "é+")]
    assert found == ["train/pass_1", "rsa:8_4 _x_", "train/solve/a-b.c_d", "é_"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_run_that_begins_again_has_another_curve(tmp_path: Path) -> None:
    """Guards against two points at one update in TensorBoard."""
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    for reward in (0.25, 0.5):
        (tmp_path / "trackers.json").unlink(missing_ok=True)
        trackers = Trackers(["tensorboard"], tmp_path, {}, pytest.fail)
        trackers.log({**record(1), "reward": reward})
        trackers.close()
        assert read_tensorboard(tmp_path, "train/solve/reward") == [(1, reward)]


def test_numbers_are_named_as_in_the_metrics() -> None:
    """Guards against text, lists, null and NaN among the numbers, and against curves that mix phases."""
    assert numbers_of({**record(2), "loss": float("nan"), "ok": True}) == {"train/solve/reward": 0.25}
    assert table_of([]) == []


def test_unknown_and_missing_trackers_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a run that finds out after an hour that a package is missing."""
    with pytest.raises(UserError, match="there is no 'neptune'; there are tensorboard, wandb"):
        check_trackers(["neptune"])
    monkeypatch.setattr(open_trackers, "find_spec", lambda _: None)
    with pytest.raises(
        UserError, match=r"wandb is not installed: pip install .* \(in a clone: pip install '\.\[wandb\]'\)"
    ):
        check_trackers(["wandb"])


def read_tensorboard(folder: Path, name: str) -> Curve:
    known_as = json.loads((folder / "trackers.json").read_text())["known_as"]["tensorboard"]
    reader = import_module("tensorboard.backend.event_processing.event_accumulator").EventAccumulator(
        str(folder / "tensorboard" / known_as)
    )
    return [(event.step, event.value) for event in reader.Reload().Scalars(name)]


def read_mlflow(folder: Path, name: str) -> Curve:
    known_as = json.loads((folder / "trackers.json").read_text())["known_as"]["mlflow"]
    client = import_module("mlflow").MlflowClient()
    return sorted((metric.step, metric.value) for metric in client.get_metric_history(known_as, name))


def read_trackio(folder: Path, name: str) -> Curve:
    known_as = json.loads((folder / "trackers.json").read_text())["known_as"]["trackio"]
    logs = import_module("trackio.sqlite_storage").SQLiteStorage.get_logs("rethink", known_as)
    return sorted((log["step"], log[name]) for log in logs if name in log)


def read_wandb(folder: Path, name: str) -> Curve:
    """From the files of offline runs. They are logs of LevelDB's format: blocks of 32 KiB with records of a checksum, a
    length and a type (whole, first, middle, last).
    """
    messages = import_module("wandb.proto.wandb_internal_pb2")
    found: Curve = []
    for file in sorted((folder / "wandb").glob("offline-run-*/*.wandb")):
        data, place, part = file.read_bytes(), 7, b""
        while place + 7 <= len(data):
            if 2**15 - place % 2**15 < 7:
                place += 2**15 - place % 2**15
                continue
            _, length, kind = struct.unpack("<IHB", data[place : place + 7])
            part = (b"" if kind in (1, 2) else part) + data[place + 7 : place + 7 + length]
            place += 7 + length
            message = messages.Record()
            if kind in (1, 4):
                message.ParseFromString(part)
            if message.WhichOneof("record_type") == "history":
                items = {item.key or "/".join(item.nested_key): item.value_json for item in message.history.item}
                if name in items:
                    found.append((int(items.get("_step", message.history.step.num)), float(items[name])))
    return sorted(found)


READERS = {"tensorboard": read_tensorboard, "wandb": read_wandb, "trackio": read_trackio, "mlflow": read_mlflow}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # those of the trackers
@pytest.mark.parametrize("name", READERS)
def test_a_tracker_has_what_it_was_sent(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against values, names or steps that a tracker does not keep, and a resumed run that begins another one."""
    pytest.importorskip(name, reason=f"{name} is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    folder = tmp_path / "run"
    folder.mkdir()
    for steps in ([1, 2, 3], [2, 3, 4]):
        trackers = Trackers([name], folder, {"seed": 1, "model": {"path": "tiny"}}, pytest.fail)
        for step in steps:
            trackers.log(record(step))
            if step == 3:
                trackers.log({**record(step, "evaluation"), "refined": {"value": 0.5}}, [answer("p|1", True, False)])
        trackers.close()
    assert READERS[name](folder, "train/solve/reward") == [(1, 0.125), (2, 0.25), (3, 0.375), (4, 0.5)]
    assert READERS[name](folder, "eval/refined") == [(3, 0.5)]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_run_that_was_resumed_has_one_curve(make: Make) -> None:
    """Guards against a run that does not send its records. TensorBoard keeps numbers as float32."""
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    more = [*THINK_TWICE, 'trackers=["tensorboard"]', "checkpoint_every=2"]
    list(train(open_run(make(*more, "updates=4"))))
    run = open_run(make(*more, "updates=6"), resume=True)
    list(train(run))
    for phase in ("solve", "refine"):
        wanted = [(r["update"], r["reward"]) for r in records(run.folder.path) if r["phase"] == phase]
        found = read_tensorboard(run.folder.path, f"train/{phase}/reward")
        assert [step for step, _ in found] == [step for step, _ in wanted] != []
        assert [value for _, value in found] == pytest.approx([value for _, value in wanted], rel=1e-6)
