"""Errors that a client gets, in OpenAI's format."""

from __future__ import annotations

from typing import Any


class ApiError(Exception):
    """An answer that is no reply: an HTTP status, and a message that says what to do. `parameter` is the field to blame."""

    def __init__(
        self,
        status: int,
        message: str,
        parameter: str | None = None,
        *,
        code: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.parameter, self.code = status, message, parameter, code
        self.retry_after_s = retry_after_s

    @property
    def kind(self) -> str:
        """The type of the error, by its status."""
        kinds = {401: "authentication_error", 429: "rate_limit_error"}
        return kinds.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")

    @property
    def headers(self) -> dict[str, str]:
        return {} if self.retry_after_s is None else {"Retry-After": str(self.retry_after_s)}

    def as_json(self) -> dict[str, Any]:
        """Return the body of the answer."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.parameter, "code": self.code}}
