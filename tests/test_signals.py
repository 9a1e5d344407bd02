"""Stop signals: SIGTERM and SIGHUP do what Ctrl-C does, and nothing else changes."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator

import pytest

from rethink import signals
from rethink.signals import interrupt_on_sigterm, stop_gracefully

ALL = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(autouse=True)
def python_handlers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The handlers of a new process, and no time in which a signal counts as a repetition."""
    monkeypatch.setattr(signals, "REPEATED_S", -1.0)
    before = {number: signal.getsignal(number) for number in ALL}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", ALL)
def test_the_first_signal_asks_to_stop_and_the_second_ends(number: int) -> None:
    """Guards against SIGTERM, which schedulers send, that loses the batches since the last checkpoint."""
    asked: list[bool] = []
    with interrupt_on_sigterm(), stop_gracefully(lambda: asked.append(True)) as stop:
        send(number)
        assert (asked, stop.signal, stop.exit_code) == ([True], number, 128 + number)
        with pytest.raises(KeyboardInterrupt):
            send(number)


def test_a_repeated_signal_is_one_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchrun and closed terminals send a signal twice: once to the group, once by the parent."""
    monkeypatch.setattr(signals, "REPEATED_S", 60.0)
    with stop_gracefully(lambda: None) as stop:
        send(signal.SIGTERM)
        send(signal.SIGTERM)
        send(signal.SIGHUP)
    assert stop.signal == signal.SIGTERM


@pytest.mark.parametrize("number", ALL)
def test_a_command_ends_as_by_ctrl_c(number: int) -> None:
    """Guards against an evaluation that dies without printing how to resume it. typer turns KeyboardInterrupt into 130."""

    def command() -> None:
        try:
            send(number)
        except KeyboardInterrupt:
            raise SystemExit(130) from None

    assert exit_code_of(command) == 128 + number


def test_an_interrupted_import_is_no_traceback() -> None:
    """Ctrl-C right after the start: pydantic, for example, wraps it in an error of its own."""

    def command() -> None:
        try:
            send(signal.SIGINT)
        except KeyboardInterrupt as err:
            raise RuntimeError("cannot build the schema") from err

    assert exit_code_of(command) == 130


def test_an_error_that_is_its_own_cause_passes() -> None:
    """Guards against a search for the first cause that never ends: libraries build such circles."""
    one, two = ValueError("one"), ValueError("two")
    one.__cause__, two.__cause__ = two, one
    with pytest.raises(ValueError, match="one"), interrupt_on_sigterm():
        raise one


@pytest.mark.parametrize("code", [0, 2, None, "text"])
def test_other_exits_keep_their_code(code: int | str | None) -> None:
    """Guards against an error that looks like a stop."""

    def command() -> None:
        raise SystemExit(code)

    assert exit_code_of(command) == code


def exit_code_of(command: Callable[[], None]) -> object:
    with pytest.raises(SystemExit) as ended, interrupt_on_sigterm():
        command()
    return ended.value.code


def test_a_second_sigterm_ends_the_process() -> None:
    """Guards against a process that cannot be ended because it is busy with cleaning up."""
    with interrupt_on_sigterm():
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL


@pytest.mark.parametrize("number", ALL)
def test_an_ignored_signal_stays_ignored(number: int) -> None:
    """`nohup` ignores SIGHUP; scripts ignore SIGINT in background jobs, which SIGTERM must still end."""
    signal.signal(number, signal.SIG_IGN)
    with interrupt_on_sigterm(), stop_gracefully(lambda: None) as stop:
        send(number)
        assert stop.signal == 0
    if number == signal.SIGINT:
        with interrupt_on_sigterm(), pytest.raises(KeyboardInterrupt):
            send(signal.SIGTERM)


def test_a_handler_of_ctrl_c_also_gets_sigterm() -> None:
    """asyncio handles Ctrl-C itself: it cancels its task, and requests are closed."""
    calls: list[int] = []
    signal.signal(signal.SIGINT, lambda number, frame: calls.append(number))
    with interrupt_on_sigterm():
        send(signal.SIGTERM)
    assert calls == [signal.SIGINT]


def test_former_handlers_come_back() -> None:
    """Guards against a notebook whose stop button no longer works after a training."""
    before = [signal.getsignal(number) for number in ALL]
    with interrupt_on_sigterm(), stop_gracefully(lambda: None):
        assert signal.getsignal(signal.SIGTERM) is not before[1]
        send(signal.SIGINT)
    assert [signal.getsignal(number) for number in ALL] == before


def test_other_threads_change_nothing() -> None:
    """Python sets signal handlers in the main thread only: in another thread, training once ended with ValueError."""
    seen: list[object] = []

    def work() -> None:
        with interrupt_on_sigterm(), stop_gracefully(lambda: None) as stop:
            seen.append((stop.exit_code, signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(130, signal.getsignal(signal.SIGTERM))]
