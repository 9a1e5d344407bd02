"""What a method of one's own must give: updates, from an iterable."""

from __future__ import annotations

from typing import Any

import pytest

from rethink.errors import UserError
from rethink.methods.run_method import run_method
from rethink.objectives import Imitate, Update

UPDATE = Update("imitate", (Imitate((), (), 1.0),), 1)


class Gives:
    """A method whose `updates` returns a given thing."""

    def __init__(self, found: Any) -> None:
        self.found = found

    def updates(self, actors: Any, problems: Any) -> Any:
        return self.found


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (None, "Gives.updates returned None: it must `yield` updates"),
        (UPDATE, "Gives.updates returned a Update: it must `yield` updates"),
        ([{"loss": 1}], "Gives.updates gave a dict: it must `yield Update(...)`"),
        ([UPDATE, None], "gave a NoneType"),
    ],
)
def test_a_method_that_gives_no_updates_is_named(found: Any, message: str) -> None:
    """Guards against a traceback from the middle of the trainer."""
    actors: Any = None
    with pytest.raises(UserError) as raised:
        list(run_method(Gives(found), actors, []))
    assert message in str(raised.value)


def test_updates_pass() -> None:
    """Guards against refusing a list, or nothing at all for one batch."""
    actors: Any = None
    assert list(run_method(Gives([UPDATE]), actors, [])) == [UPDATE]
    assert list(run_method(Gives([]), actors, [])) == []
