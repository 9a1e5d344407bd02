"""Keys and passwords: recognized where they do not belong, and removed from texts."""

from __future__ import annotations

import json
from urllib.parse import quote

import pytest

from rethink.credentials import ApiKey, check_url, check_variable, has_key, proxy_passwords
from rethink.errors import UserError

SECRETS = [
    "http://me:pa55word@host/v1",
    "http://pa55word@host/v1",
    "http://me:pa55word/+7@host/v1",
    "https://host/v1?key=pa55word",
    "https://host/v1?api-version=2&api-key=pa55word",
    "https://host/v1?X-Auth-Token=pa55word",
    "https://host/v1?q=sk-pa55word",
    "https://host/v1#access_token=pa55word",
    "https://host/hf_pa55word7/v1",
    "https://host/v1#sk-pa55word",
    "https://host/v1?sk-pa55word",
    "me:pa55word@host:8000",
]


@pytest.mark.parametrize("url", SECRETS)
def test_a_url_with_a_secret_is_refused_without_repeating_it(url: str) -> None:
    """Guards against passwords in config.toml, data cards and pages."""
    with pytest.raises(ValueError, match=r"must not hold a .* name that variable in endpoint\.key_env") as caught:
        check_url(url)
    assert "pa55word" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "http://127.0.0.1:8000/v1",
        "http://[::1]:8000",
        "https://host.openai.azure.com/openai/deployments/gpt-4o-2024-08-06?api-version=2024-10-21",
        "https://gateway.ai.cloudflare.com/v1/0123456789abcdef0123456789abcdef/main/openai",
        "https://host/v1?key=",
        "https://host:443/models/x@001/v1",
        "http://[::1",
    ],
)
def test_other_urls_are_kept(url: str) -> None:
    """Guards against API versions and long paths that are taken for keys."""
    assert check_url(url) == url


@pytest.mark.parametrize(
    "key",
    [
        *("sk-pa55word", "sk_pa55word", "hf_pa55wordpa", "gsk_pa55word", "xai-pa55word", "AIzapa55word"),
        *("pa55word0123456789abcdef", "PA55WORD0123456789ABCDEF", "a.pa55word", "my pa55word", "fw_pa55wordpa55word"),
    ],
)
def test_a_key_in_place_of_its_variable_is_refused_without_repeating_it(key: str) -> None:
    """Guards against a key that is kept in config.toml, also one that could be a variable's name."""
    with pytest.raises(ValueError, match="must be the name of an environment variable") as caught:
        check_variable(key)
    assert key not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["", "OPENAI_API_KEY", "MY_KEY2", "_x", "azure_openai_key_2", "HF_TOKEN", "SKETCH_KEY"]
)
def test_names_of_variables_are_kept(name: str) -> None:
    """Guards against names that are taken for keys."""
    assert check_variable(name) == name


def test_a_variable_that_is_set_is_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against an odd name that a machine's owner has chosen."""
    monkeypatch.setenv("KEY4SERVERNUMBER1234", "x")
    assert check_variable("KEY4SERVERNUMBER1234") == "KEY4SERVERNUMBER1234"


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ('api_key = "pa55word', True),
        ('url = "http://host/v1?key=sk-pa55word1', True),
        ("headers = {Authorization = 'Bearer hf_pa55word'", True),
        ("max_tokens = 1 0", False),
        ('key_env = "OPENAI_API_KEY', False),
        ('path = "/models/Qwen3-4B-Instruct-2507', False),
    ],
)
def test_a_line_of_a_recipe_that_holds_a_key_is_recognized(line: str, found: bool) -> None:
    """Guards against a syntax error's message that repeats a key, and against lines hidden without need."""
    assert has_key(line) == found


def test_passwords_of_proxies_are_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a proxy's password in an error message, however it is spelled."""
    monkeypatch.setenv("HTTPS_PROXY", "http://me:se%40cret@proxy:3128")
    assert set(proxy_passwords()) >= {"se%40cret", "se@cret"}
    assert ApiKey("").scrub("407 from me:se%40cret, se@cret") == "407 from me:[key], [key]"


@pytest.mark.parametrize("key", ["sk\n7-secret", "sk-secret\u2026", "two words-secret"])
def test_a_key_that_no_header_can_hold_is_refused(key: str) -> None:
    """Guards against an encoding error that shows the key."""
    with pytest.raises(UserError, match="HTTP headers cannot hold") as caught:
        ApiKey(key)
    assert "secret" not in str(caught.value) + repr(caught.value.__context__)


def test_a_key_is_removed_in_every_spelling() -> None:
    """Guards against a key that JSON or a URL spells in another way."""
    key = "sk-\"a/b+c'7"
    text = f"{key} {json.dumps(key)[1:-1]} {quote(key, safe='')}"
    assert ApiKey(key).scrub(text) == "[key] [key] [key]"
    assert ApiKey("").scrub(text) == text
    assert key not in repr(ApiKey(key))
