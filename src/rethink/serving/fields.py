"""Read the fields of a request's JSON; everything else than what they should hold is one ApiError that names the field."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any, NoReturn

from rethink.serving.api_error import ApiError

SURROGATE = re.compile("[\ud800-\udfff]")


def parse_object(body: bytes) -> dict[str, Any]:
    """Return the JSON object in a body, without fields that are null. Raise ApiError if it holds no object."""
    try:
        found = json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as err:
        raise ApiError(400, f"the body is not valid JSON: {type(err).__name__}") from err
    if not isinstance(found, dict):
        raise ApiError(400, "the body must be a JSON object")
    return {name: value for name, value in found.items() if value is not None}


def integer(fields: Mapping[str, Any], name: str, default: int, least: int, most: int) -> int:
    """Return a whole number from `least` to `most`."""
    value = fields.get(name, default)
    if isinstance(value, float) and math.isfinite(value) and value == int(value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ApiError(400, f"{name} must be a whole number from {least} to {most}", name)
    return value


def number(fields: Mapping[str, Any], name: str, default: float, least: float, most: float) -> float:
    """Return a number from `least` to `most`."""
    value = fields.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise ApiError(400, f"{name} must be a number from {least:g} to {most:g}", name)
    return float(value)


def boolean(fields: Mapping[str, Any], name: str) -> bool:
    """Return true or false; false if the field is missing."""
    value = fields.get(name, False)
    if not isinstance(value, bool):
        raise ApiError(400, f"{name} must be true or false", name)
    return value


def text(value: Any, name: str) -> str:
    """Return the value, which must be a text that can be encoded."""
    if not isinstance(value, str):
        raise ApiError(400, f"{name} must be a string", name)
    if SURROGATE.search(value):
        raise ApiError(400, f"{name} holds half of a character (an unpaired surrogate)", name)
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
