"""The run folder: never overwritten, resumed only with the same settings, whole after any crash."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from rethink.errors import UserError
from rethink.jsonl import append, to_json, write_text
from rethink.policies.fake import FakePolicy
from rethink.prompts import Prompts
from rethink.recipe import add_new_defaults, load_recipe, to_toml
from rethink.run_folder import RunFolder, first_samples, transcript
from rethink.types import Problem, Verdict


def config(*settings: str) -> str:
    return to_toml(load_recipe(None, settings))


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A folder with three finished batches of two updates each, and a sample per update."""
    folder = RunFolder(tmp_path / "deep" / "run")
    folder.create(config())
    for update in range(6):
        append(folder.metrics, [{"batch": update // 2, "update": update + 1}])
        append(folder.samples, [{"batch": update // 2, "reply": "ä"}])
    return folder


def test_a_run_is_not_overwritten(run: RunFolder) -> None:
    """Guards against a second run that mixes its lines with those of the first."""
    before = sorted((p, p.read_bytes()) for p in run.path.rglob("*") if p.is_file())
    with pytest.raises(
        UserError, match="already holds a run or an evaluation; resume it with --resume, or choose another folder"
    ):
        run.create(config("seed=5"))
    assert sorted((p, p.read_bytes()) for p in run.path.rglob("*") if p.is_file()) == before


def everything(folder: Path) -> dict[str, bytes | None]:
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


@pytest.mark.parametrize("added", ["images/one.png", "eval/000000.jsonl", "notes.txt"])
def test_settings_are_discarded_only_alone(tmp_path: Path, added: str) -> None:
    """Guards against a folder of images or answers that has lost its settings: they were removed before the folder, which
    then was not empty."""
    folder = RunFolder(tmp_path / "run")
    before = folder.create(config())
    folder.problems.write_text("{}")
    (folder.path / added).parent.mkdir(exist_ok=True)
    (folder.path / added).write_text("added since")
    made = everything(folder.path)
    folder.discard(before)
    folder.discard()
    assert everything(folder.path) == made
    assert {added, "config.toml", "problems.json", "eval"} <= made.keys()


def test_what_was_there_before_stays_without_the_discarded_settings(tmp_path: Path) -> None:
    """Guards against a corrected command that is refused because of the failed one, and a file of the user's that goes with
    it: a folder is as it was before, or gone if it was made."""
    made, used = RunFolder(tmp_path / "made"), RunFolder(tmp_path / "used")
    (used.path / "eval").mkdir(parents=True)
    (used.path / "eval" / "notes.txt").write_text("mine")
    (used.path / "rows.csv").write_text("mine")
    before = everything(used.path)
    for folder in (made, used):
        names = folder.create(config())
        assert set(names) == ({"eval", "rows.csv"} if folder is used else set())
        folder.problems.write_text("{}")
        folder.discard(names)
    assert everything(used.path) == before
    assert not made.path.exists()


def test_changed_settings_are_named_with_both_values(run: RunFolder) -> None:
    """Guards against a run that is resumed with another method or learning rate."""
    with pytest.raises(UserError) as caught:
        run.check_settings(config("training.lr=0.5", "model.template_options.short=true"), add_new_defaults)
    assert "training.lr was 1e-06, now 0.5" in str(caught.value)
    assert "model.template_options.short was None, now True" in str(caught.value)
    assert (run.path / "config.toml").read_text(encoding="utf-8") == config()


def test_free_settings_may_change(run: RunFolder) -> None:
    """Guards against a run that cannot be made longer; the folder then has the new settings."""
    longer = config("updates=999", "checkpoint_every=3", "keep_checkpoints=5", "n_logged_samples=1", "out=elsewhere")
    run.check_settings(longer, add_new_defaults)
    assert (run.path / "config.toml").read_text(encoding="utf-8") == longer


def test_there_must_be_a_run_to_resume(tmp_path: Path) -> None:
    """Guards against --resume that silently starts a new run in a misspelt folder."""
    with pytest.raises(UserError, match="holds no run to resume; start one without --resume"):
        RunFolder(tmp_path).check_settings(config(), add_new_defaults)


def test_what_is_undefined_is_null(tmp_path: Path) -> None:
    """Guards against NaN in JSON, which only Python reads, at any depth."""
    append(tmp_path / "m", [{"a": math.nan, "b": {"c": [math.inf, 1.5]}, "d": (-math.inf,), "e": None, "f": "NaN"}])
    text = (tmp_path / "m").read_text()
    assert text == '{"a": null, "b": {"c": [null, 1.5]}, "d": [null], "e": null, "f": "NaN"}\n'
    assert json.loads(to_json({"x": math.nan}, indent=1)) == {"x": None}


def test_disk_errors_are_user_errors(tmp_path: Path) -> None:
    """Guards against tracebacks for a full or forbidden disk; /dev/full is a full one."""
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write /dev/full: No space left on device"):
        append(Path("/dev/full"), [{"a": 1}])
    with pytest.raises(UserError, match=r"cannot write .*: it is a folder; name a file"):
        write_text(tmp_path, "text")
    with pytest.raises(UserError, match=r"cannot create the folder .*: Not a directory"):
        RunFolder(tmp_path / "file" / "run").create("")


def test_a_transcript_has_all_that_explains_an_answer() -> None:
    """Guards against records that do not say what was shown, drawn and graded."""
    asked = Problem("id7", "2+3?", "5", lambda reply, gold: Verdict(reply == gold, "compared"))
    policy = FakePolicy(lambda p, i, v: "4" if p.draft is None else "5")
    prompts = Prompts(refine="again", seed=3)
    (group,) = policy.sample(prompts.ask([asked]), 2)
    draft = group[1].with_verdict(asked.grade("4"))
    policy.publish(1)
    (refined,) = policy.sample(prompts.ask_to_refine([draft]), 1)
    record = transcript(refined[0].with_verdict(asked.grade("5")))
    assert record["prompt"] == [["user", draft.prompt.messages[0].content], ["assistant", "4"], ["user", "again"]]
    keys = ("problem", "phase", "index", "reply", "gold", "n_tokens", "version", "stop")
    assert [record[key] for key in keys] == ["id7", "refine", 1, "5", "5", 2, 1, "stop"]
    assert (record["verdict"], record["reason"], record["draft_verdict"]) == ("right", "compared", "wrong")
    assert record["seed"] == f"{refined[0].prompt.seed:016x}"
    assert [record[key] for key in ("question", "draft", "extracted", "draft_extracted")] == ["2+3?", "4", "", ""]
    first = transcript(draft)
    assert (first["draft"], first["draft_verdict"]) == (None, None)


def test_first_samples_skip_empty_groups() -> None:
    """Guards against an IndexError for prompts that were skipped as over-long."""
    asked = [Problem(str(i), "?", "5", lambda reply, gold: Verdict(True)) for i in range(3)]
    a, b, c = FakePolicy(lambda p, i, v: "x").sample(Prompts().ask(asked), 2)
    assert first_samples([a, (), b, c], 2) == [a[0], b[0]]


def test_first_samples_show_each_turn() -> None:
    """Guards against a log that shows only first answers, where an update has more of them than are logged."""
    policy, prompts = FakePolicy(lambda p, i, v: "x"), Prompts()
    first = policy.sample(
        prompts.ask([Problem(str(i), "?", "5", lambda reply, gold: Verdict(True)) for i in range(4)]), 2
    )
    second = policy.sample([prompts.follow_up(group[0], "refine", "again") for group in first[1:]], 1)
    third = policy.sample([prompts.follow_up(group[0], "refine", "again") for group in second[2:]], 1)
    groups = [*first, *second, *third]
    shown = [groups[i][0] for i in (0, 1, 4, 5, 7)]  # two of each turn, of which the third has one
    assert first_samples(groups, 5) == shown
    assert first_samples(groups, 99) == [group[0] for group in groups]


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_a_falling_schedule_fixes_the_number_of_updates(tmp_path: Path, schedule: str) -> None:
    """Lengthening such a run would change learning rates that have been used already."""
    folder = RunFolder(tmp_path / "run")
    short, longer = (config(f"updates={n}", f"training.schedule={schedule}") for n in (4, 6))
    folder.create(short)
    with pytest.raises(UserError, match=r"updates was 4, now 6.*with training.schedule = constant"):
        folder.check_settings(longer, add_new_defaults)
    folder.check_settings(short, add_new_defaults)


def older(folder: RunFolder, *lines: str) -> str:
    """Make the folder one from before these keys, as the text of its config.toml."""
    file = folder.path / "config.toml"
    text = file.read_text(encoding="utf-8")
    for line in lines:
        assert f"\n{line}\n" in text
        text = text.replace(f"\n{line}\n", "\n", 1)
    file.write_text(text, encoding="utf-8")
    return text


NEWER = ("async_level = 0", 'optimizer = "adamw"', '[lora]\nrank = 0\nalpha = 32.0\ntargets = "all-linear"')


def test_an_older_folder_resumes_with_the_default_of_a_new_key(run: RunFolder) -> None:
    """Each new key once made all older run folders useless: "lora.rank was None, now 0". The folder then has the key."""
    assert older(run, *NEWER) != config()
    run.check_settings(config(), add_new_defaults)
    assert (run.path / "config.toml").read_text(encoding="utf-8") == config()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("training.optimizer=adamw8bit", "training.optimizer was 'adamw', now 'adamw8bit'$"),
        ("lora.rank=3", "lora.rank was 0, now 3. A run cannot switch between"),
        # An evaluation that the run did not have is not one with the usual settings.
        ("evaluation.problems.held_out=0", "evaluation.problems.answer was None, now ''; .*; and \\d+ more$"),
    ],
)
def test_a_key_that_came_later_has_to_be_at_its_default(run: RunFolder, setting: str, message: str) -> None:
    """Guards against an older folder that is resumed with any value of a key that it does not have."""
    text = older(run, *NEWER)
    with pytest.raises(UserError, match=message):
        run.check_settings(config(setting), add_new_defaults)
    assert (run.path / "config.toml").read_text(encoding="utf-8") == text


def test_a_newer_key_of_the_method_has_the_default_of_that_method(tmp_path: Path) -> None:
    """Guards against the default of the class of a section, where the method's is another: kl is 0 there, 0.001 here."""
    folder, now = RunFolder(tmp_path / "run"), config("method.name=reflect_retry_reward")
    folder.create(now)
    older(folder, "kl_coef = 0.001", "shuffle = false")
    folder.check_settings(now, add_new_defaults)
    other = config("method.name=reflect_retry_reward", "method.reflect.kl_coef=0.0")
    with pytest.raises(UserError, match=r"method.reflect.kl_coef was 0.001, now 0.0$"):
        folder.check_settings(other, add_new_defaults)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("\nseed = 0\n", "\nseed = 0\nwarmth = 3\n", "unknown key warmth; known keys: out, "),
        ('"adamw"', '"lion"', 'training.optimizer must be "adamw" or "adamw8bit"'),
        ("seed = 0\n", "seed = \n", "Invalid value"),
    ],
)
def test_what_a_folder_asks_for_and_is_no_more_is_refused(run: RunFolder, old: str, new: str, message: str) -> None:
    """Guards against a setting that another version silently drops on resume."""
    file = run.path / "config.toml"
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(UserError) as caught:
        run.check_settings(config(), add_new_defaults)
    shown = str(caught.value)
    assert shown.startswith(f"cannot resume from {file}: it was written by another version of rethink, or edited: ")
    assert message in shown
    assert shown.endswith("Resume with that version or start a new run")
    assert file.read_text(encoding="utf-8") == text.replace(old, new)


@pytest.mark.parametrize("kept", [0.0, 0.5, 0.9])
def test_settings_that_were_cut_short_are_not_filled_in(run: RunFolder, kept: float) -> None:
    """Guards against defaults in place of lost settings: "started with other settings", and a list of all of them."""
    file = run.path / "config.toml"
    lines = file.read_text(encoding="utf-8").splitlines()
    file.write_text("\n".join(lines[: int(kept * len(lines))]), encoding="utf-8")
    with pytest.raises(UserError, match=r"config\.toml: it is empty or its end is missing"):
        run.check_settings(config(), add_new_defaults)
