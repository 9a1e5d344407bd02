"""Secrets: recognize them where they do not belong, and remove them from texts."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from rethink.errors import UserError

KEY_PREFIXES = re.compile(
    r"sk[-_]|hf_|gsk_|csk[-_]|tgp_|xai-|nvapi[-_]|pplx-|AIza|ya29\.|gh[opsu]_|github_pat_|glpat-|AKIA|eyJ"
)
"""How keys of known providers begin."""

SECRET_NAMES = re.compile(r"key|token|secret|passw|pwd|auth|credential|^(sig|signature|code|jwt)$", re.IGNORECASE)
"""Names of query parameters that hold secrets: key, api-key, access_token, ..."""

USE_KEY_ENV = (
    "it would be stored with the results. Remove it, put the key into an environment variable, and name that variable in "
    "endpoint.key_env (for sampler.urls it is VLLM_API_KEY)"
)


def check_url(url: str) -> str:
    """Return the URL unchanged. Raise ValueError, without repeating it, if it holds a password or a key."""
    try:
        parts = urlsplit(url.strip() if "://" in url else f"//{url.strip()}")
        # A slash in a password ends the host too early, in a port that is no number.
        has_user = parts.username is not None or ("@" in url and not re.fullmatch(r"[^:]*(:\d*)?|\[.*", parts.netloc))
        query = parse_qsl(parts.query, keep_blank_values=True) + parse_qsl(parts.fragment, keep_blank_values=True)
    except ValueError:  # not a URL; its user names the setting
        return url
    if has_user:
        raise ValueError(f"must not hold a user name or password: {USE_KEY_ENV}")
    if any(is_key(text) and KEY_PREFIXES.match(text) for text in (parts.query, parts.fragment)):
        raise ValueError(f"must not hold a key (after its path): {USE_KEY_ENV}")
    for name, value in query:
        if (value and SECRET_NAMES.search(name)) or KEY_PREFIXES.match(value):
            shown = name if re.fullmatch(r"[\w-]{1,30}", name) and not is_key(name) else "a query parameter"
            raise ValueError(f"must not hold a key ({shown}): {USE_KEY_ENV}")
    for part in unquote(parts.path).split("/"):
        if KEY_PREFIXES.match(part) and is_key(part):
            raise ValueError(f"must not hold a key (in its path): {USE_KEY_ENV}")
    return url


def check_variable(name: str) -> str:
    """Return the name unchanged. Raise ValueError, without repeating it, if it is a key instead of a variable's name."""
    if name and name not in os.environ and (not name.isidentifier() or is_key(name)):
        raise ValueError(
            "must be the name of an environment variable, not the key itself: put the key into a variable, such as "
            "OPENAI_API_KEY, and give its name (a key that has been on a command line should be replaced)"
        )
    return name


def is_key(text: str) -> bool:
    """Return whether a text looks like a key: it begins like one, or has a long part with digits that is no word."""
    if len(text) >= 8 and KEY_PREFIXES.match(text):
        return True
    return any(len(part) >= 16 and re.search(r"\d", part) for part in re.split(r"[_.-]", text))


def has_key(line: str) -> bool:
    """Return whether a line of a settings file holds a key, or sets something whose name says so."""
    name, equals, value = line.partition("=")
    words = re.split(r"[\s\"',=\[\]{}]+", line)
    named = bool(equals and value.strip() and re.search(r"api.?key|secret|passw|auth", name, re.IGNORECASE))
    return named or any(KEY_PREFIXES.match(word) and is_key(word) for word in words)


@dataclass(frozen=True)
class ApiKey:
    """An API key. It goes into a request header and is shown nowhere."""

    value: str = field(repr=False)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[!-~]*", self.value):
            raise UserError("the endpoint's key has a character that HTTP headers cannot hold; is it set correctly?")

    @property
    def is_secret(self) -> bool:
        """False for none, and for a stand-in such as EMPTY."""
        return len(self.value) >= 8

    def scrub(self, text: str) -> str:
        """Return the text with the key and proxies' passwords replaced by "[key]", also in JSON and URL spellings."""
        return scrub(text, [self.value, *proxy_passwords()])


def scrub(text: str, secrets: Iterable[str]) -> str:
    """Return the text with each secret replaced by "[key]", also in its JSON and URL spellings."""
    for secret in secrets:
        for form in {secret, json.dumps(secret)[1:-1], quote(secret, safe="")} - {""}:
            text = text.replace(form, "[key]")
    return text


def proxy_passwords() -> list[str]:
    """Return the passwords in the environment's proxy variables, as they are written there."""
    found: list[str] = []
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        value = os.environ.get(name) or os.environ.get(name.lower()) or ""
        user, at, _ = value.rpartition("://")[2].rpartition("@")
        password = user.partition(":")[2]
        if at and len(password) >= 4:  # a shorter one would garble every message
            found += [password, unquote(password)]
    return found
