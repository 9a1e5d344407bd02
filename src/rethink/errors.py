"""Mistakes that a user can mend: one message with the remedy, exit code 2, no traceback."""


class UserError(ValueError):
    """Bad input or a bad environment; the text says what to do about it."""
