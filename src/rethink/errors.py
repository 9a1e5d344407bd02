"""Errors that a user can fix: one message that says what to do, exit code 2, no traceback."""


class UserError(ValueError):
    """Bad input, or a bad environment. The message says what to do about it."""


def install_extra(extra: str) -> str:
    """Return how to install an extra of this package, for messages.

    >>> install_extra("peft")
    "pip install 'rethink-rl[peft]' (in a clone: pip install '.[peft]')"
    """
    return f"pip install 'rethink-rl[{extra}]' (in a clone: pip install '.[{extra}]')"
