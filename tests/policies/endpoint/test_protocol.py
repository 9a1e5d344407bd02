"""URLs and parameters, without a server."""

from __future__ import annotations

import pytest

from rethink.credentials import ApiKey
from rethink.errors import UserError
from rethink.policies.endpoint.protocol import is_loopback, parse_url


@pytest.mark.parametrize(
    ("given", "full"),
    [
        ("http://host:8000", "http://host:8000/v1/chat/completions"),
        (" http://host:8000/ ", "http://host:8000/v1/chat/completions"),
        ("https://host/v1", "https://host/v1/chat/completions"),
        ("https://host/v1beta/openai/", "https://host/v1beta/openai/chat/completions"),
        ("https://host/v1/chat/completions", "https://host/v1/chat/completions"),
        ("https://host/x/chat/completions/?version=2", "https://host/x/chat/completions?version=2"),
    ],
)
def test_urls_are_completed(given: str, full: str) -> None:
    """Guards against a path that is added twice or not at all."""
    base, query = parse_url(given, ApiKey(""))
    assert f"{base}/chat/completions" == full.partition("?")[0]
    assert query == dict(pair.split("=") for pair in full.partition("?")[2].split("&") if pair)


@pytest.mark.parametrize("given", ["", "host:8000", "localhost:8000/v1", "ftp://host/v1", "http://", "http://[::1"])
def test_bad_urls_are_refused(given: str) -> None:
    """Guards against a failure that appears only after the last retry."""
    with pytest.raises(UserError, match=r"write it like http://host:8000/v1"):
        parse_url(given, ApiKey(""))


def test_loopback_is_known_by_name_and_by_address() -> None:
    """Guards against a proxy between this machine and itself, and against none for other machines."""
    assert all(is_loopback(h) for h in ("localhost", "a.localhost", "127.0.0.1", "127.3.5.7", "::1", "0.0.0.0"))
    assert not any(is_loopback(h) for h in ("localhost.org", "10.0.0.1", "notlocalhost", "128.0.0.1", "::2"))
