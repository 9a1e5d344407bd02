"""What goes to the terminal."""

from __future__ import annotations

import warnings

import pytest

from rethink.commands.console import PACKAGE, warnings_as_notes


def test_warnings_of_the_package_have_no_line_of_code(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against a line of Python under a note for users, and against warnings of libraries that are lost."""
    others: list[str] = []
    monkeypatch.setattr(warnings, "showwarning", lambda message, *more, **named: others.append(str(message)))
    with warnings.catch_warnings(), warnings_as_notes():
        warnings.simplefilter("always")
        warnings.warn_explicit("this model is slow", UserWarning, str(PACKAGE / "build.py"), 36)
        warnings.warn_explicit("theirs", UserWarning, "/torch/module.py", 3)
    assert capsys.readouterr().err == "warning: this model is slow\n"
    assert others == ["theirs"]
