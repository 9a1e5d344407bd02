"""Berkeley Function Calling Leaderboard (BFCL): function calls with several acceptable values for each parameter.

BFCL keeps questions and possible answers in two files; `join_files` joins them. A row then has `question` (turns of
messages), `function` (schemas with BFCL's types: "dict", "float", "tuple") and `ground_truth`, a list of {function:
{parameter: [acceptable values]}}. The categories simple, multiple and parallel, live ones included, have these columns. The
types of an object's values are not checked; each of its keys has a list of acceptable values too. "" among acceptable
values means that the parameter or key may be left out, unless the schema requires it.

We grade as BFCL's AST checker (version 4) does: names are exact, required parameters present, unknown ones absent; an
integer may replace a float but not the reverse, and a boolean is not a number. Texts are compared in lower case, with
double quotes for single ones, and without spaces and , . / - _ * ^. An acceptable value that does not have the schema's
type (a variable's name, null) must match exactly. We differ in four points:

- An integer also counts as a float within a list, and texts are compared in the same way at every depth.
- Parallel calls are paired with the possible answers by an optimal matching, not greedily.
- A list without acceptable values must be empty. (Nothing satisfies BFCL's checker in two such rows of live simple.)
- Replies are JSON, not Python, and [] does not stand for a parameter that is left out.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rethink.errors import UserError
from rethink.grading.extract import json_value
from rethink.problems import calls
from rethink.problems.answer_format import AnswerFormat
from rethink.problems.calls import Call
from rethink.problems.rows import Columns, Row
from rethink.types import Verdict

TYPES = {"string", "any", "integer", "float", "number", "boolean", "dict", "object"}
LISTS = {"array", "tuple"}
TEXTS = {"string", "any"}
OBJECTS = {"dict", "object"}
FLOATS = {"float", "number"} | OBJECTS
_STANDARDIZE = str.maketrans({**dict.fromkeys(" ,./-_*^", ""), "'": '"'})


def join_files(questions: str | Path, answers: str | Path, joined: str | Path) -> int:
    """Join a file of questions and a file of possible answers into one JSONL file, and return its number of rows.

    Raise UserError if the ids of the two files differ.
    """
    rows, truths = _by_id(Path(questions)), _by_id(Path(answers))
    unmatched = sorted(rows.keys() ^ truths.keys())
    if unmatched:
        raise UserError(
            f"{unmatched[0]!r} is in only one of {questions} and {answers}; join files of the same category"
        )
    with Path(joined).open("w", encoding="utf-8") as file:
        for key, row in rows.items():
            row["ground_truth"] = truths[key].get("ground_truth")
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return len(rows)


def _by_id(file: Path) -> dict[str, dict[str, Any]]:
    if not file.is_file():
        raise UserError(f"there is no file {file}")
    found: dict[str, dict[str, Any]] = {}
    for n, line in enumerate(file.read_text(encoding="utf-8").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            key = row["id"]
        except (ValueError, KeyError, TypeError) as err:
            raise UserError(f"{file}, row {n}: not a JSON object with an id ({err})") from err
        if key in found:
            raise UserError(f"{file}, row {n}: the id {key!r} occurs twice")
        found[key] = row
    return found


def read_row(row: Row, columns: Columns, seed: int) -> tuple[str, str]:
    """Return the question (schemas, one per line, and the request) and the acceptable calls as canonical JSON, with types.

    `rethink prepare` writes questions that already begin with the schemas; these are returned unchanged.
    """
    if not row.has(columns.tools) and row.has(columns.question) and row.text(columns.question).startswith(calls.HEADER):
        return row.text(columns.question), FORMAT.gold_in(row, columns.answer)
    tools = calls.read_functions(row, columns)
    by_name = {tool.get("name"): tool for tool in tools}
    request, answers = _request(row, columns.question), calls.json_column(row, columns.answer)
    try:
        if not isinstance(answers, list):
            raise ValueError("not a list")
        gold = calls.canonical([_acceptable_call(answer, by_name) for answer in answers])
    except (ValueError, TypeError, AttributeError) as err:  # the last two: a malformed schema
        raise UserError(
            f"{row.location}: the column {columns.answer!r} is not a list of possible answers ({err})"
        ) from err
    return calls.question_text(tools, request), gold


def parse_gold(text: str) -> str:
    """Return acceptable calls as `read_row` returns and `rethink prepare` writes them. Raise ValueError for others."""
    try:
        found = json_value(text)
        for want in found:
            _check_keys(want, {"name", "parameters"})
            for parameter in want["parameters"].values():
                _check_keys(parameter, {"type", "accepted", "optional"})
        return calls.canonical(found)
    except (ValueError, TypeError, AttributeError) as err:
        raise ValueError(f"is not a list of prepared answers, as `rethink prepare` writes them ({err})") from err


def _check_keys(table: Any, keys: set[str]) -> None:
    if table.keys() != keys:
        raise ValueError(f"keys are not {', '.join(sorted(keys))}")


def _request(row: Row, names: str) -> str:
    """Return the text of a question, or the contents of its messages or turns of messages."""
    value = row.value(names)
    if isinstance(value, str):
        return row.text(names)
    contents: list[Any] = []
    for turn in value if isinstance(value, list) else []:
        for message in turn if isinstance(turn, list) else [turn]:
            contents.append(message.get("content") if isinstance(message, dict) else None)
    if not contents or not all(isinstance(content, str) for content in contents):
        raise UserError(f"{row.location}: the column {names!r} is neither text nor a list of messages")
    return "\n\n".join(map(str.strip, contents))


def _acceptable_call(answer: Any, tools: dict[Any, dict[str, Any]]) -> dict[str, Any]:
    """Return one acceptable call. Raise ValueError if no call can be right by the function's schema."""
    if not isinstance(answer, dict) or len(answer) != 1:
        raise ValueError("a possible answer is one {function: {parameter: [values]}}")
    ((name, accepted),) = answer.items()
    if name not in tools:
        raise ValueError(f"there is no function {name!r}")
    schema = tools[name].get("parameters") or {}
    known, required = schema.get("properties") or {}, schema.get("required") or []
    if not isinstance(accepted, dict) or not all(isinstance(values, list) for values in accepted.values()):
        raise ValueError(f"the parameters of {name!r} need lists of acceptable values")
    for parameter in required:
        if parameter not in accepted:
            raise ValueError(f"no value for {parameter!r}, which {name!r} requires")
    for parameter, values in accepted.items():
        if parameter not in known and "" not in values:
            raise ValueError(f"{name!r} has no parameter {parameter!r}")
    parameters = {}
    for parameter, values in accepted.items():
        if parameter in known:
            parameters[parameter] = _acceptable_parameter(parameter, known[parameter], values, parameter in required)
    return {"name": name, "parameters": parameters}


def _acceptable_parameter(name: str, schema: dict[str, Any], accepted: list[Any], required: bool) -> dict[str, Any]:
    """Return acceptable values and their type; for a list, the type of its elements. Only texts keep "" as a value."""
    if not accepted and schema.get("type") in LISTS:
        accepted = [[]]
    values = accepted if schema.get("type") in TEXTS else _without_empty(accepted)
    optional = "" in accepted and not required
    if not values and not optional:
        raise ValueError(f"no value for {name!r}")
    while schema.get("type") in LISTS:
        schema = schema.get("items") or {"type": "any"}
    if schema.get("type") not in TYPES:
        raise ValueError(f"{name!r} has the unknown type {schema.get('type')!r}")
    return {"type": schema["type"], "accepted": values, "optional": optional}


def verify(reply: str, gold: str) -> Verdict:
    """Return right if the reply is nothing but calls that BFCL accepts."""
    return calls.grade_calls(reply, gold, _compare)


def verify_lenient(reply: str, gold: str) -> Verdict:
    """Grade as `verify` does, but also find calls in running text."""
    return calls.grade_calls(reply, gold, _compare, lenient=True)


def _compare(found: list[Call], gold: str) -> str:
    wanted = json.loads(gold)
    if len(found) != len(wanted):
        return "wrong number of calls"
    if len(wanted) == 1:
        return _mismatch(found[0], wanted[0])
    fits = []
    for want in wanted:
        fits.append([not _mismatch(call, want) for call in found])
    return "" if _can_match_all(fits) else "not all calls are right"


def _can_match_all(fits: list[list[bool]]) -> bool:
    """Return whether every row can be matched to a different column that fits it (augmenting paths)."""
    owners: dict[int, int] = {}

    def match(row: int, seen: set[int]) -> bool:
        for column, fit in enumerate(fits[row]):
            if fit and column not in seen:
                seen.add(column)
                if column not in owners or match(owners[column], seen):
                    owners[column] = row
                    return True
        return False

    return all(match(row, set()) for row in range(len(fits)))


def _mismatch(call: Call, wanted: dict[str, Any]) -> str:
    """Return why a call is not the wanted one, or "" if it is."""
    given, parameters = call["arguments"], wanted["parameters"]
    if call["name"] != wanted["name"]:
        return "wrong function"
    if given.keys() - parameters.keys():
        return "a parameter does not belong there"
    if any(name not in given and not parameter["optional"] for name, parameter in parameters.items()):
        return "a parameter is missing"
    for name, value in given.items():
        if not _is_accepted(value, parameters[name]):
            return "a value is wrong"
    return ""


def _is_accepted(value: Any, parameter: dict[str, Any]) -> bool:
    return any(_matches(value, accepted, parameter["type"]) for accepted in parameter["accepted"])


def _matches(value: Any, accepted: Any, kind: str) -> bool:
    """Return whether a value is the acceptable one, whose objects hold lists of acceptable values."""
    if isinstance(accepted, list):
        same_size = isinstance(value, list) and len(value) == len(accepted)
        return same_size and all(_matches(x, y, kind) for x, y in zip(value, accepted, strict=True))
    if not isinstance(accepted, dict):
        return _equal(value, accepted, kind)
    if not isinstance(value, dict) or value.keys() - accepted.keys():
        return False
    return all(_key_fits(value, key, _choices(choices)) for key, choices in accepted.items())


def _key_fits(value: dict[str, Any], key: str, choices: list[Any]) -> bool:
    """Return whether an object has one of the choices under that key, or may lack the key."""
    if key not in value:
        return "" in choices
    return any(_equal(value[key], choice, "dict") for choice in choices)


def _choices(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _equal(value: Any, wanted: Any, kind: str) -> bool:
    """Return whether two values are equal, given the type in the schema; "dict" within objects, where it gives none."""
    if isinstance(wanted, dict):
        same_keys = isinstance(value, dict) and value.keys() == wanted.keys()
        return same_keys and all(_equal(value[key], x, kind) for key, x in wanted.items())
    if isinstance(wanted, list):
        same_size = isinstance(value, list) and len(value) == len(wanted)
        return same_size and all(_equal(x, y, kind) for x, y in zip(value, wanted, strict=True))
    if isinstance(wanted, str):
        is_text = isinstance(value, str) and kind in TEXTS | OBJECTS
        return standardize(value) == standardize(wanted) if is_text else value == wanted
    if isinstance(wanted, bool) or wanted is None or isinstance(value, bool):
        return value is wanted
    return value == wanted and (type(value) is type(wanted) or kind in FLOATS)


def standardize(text: str) -> str:
    """Return the text as BFCL compares it."""
    return text.translate(_STANDARDIZE).lower()


def gold_reply(gold: str) -> str:
    """Return a reply with the first acceptable value of each parameter and key, "" only if there is no other."""
    found = json.loads(gold)
    return calls.canonical(
        [{"name": want["name"], "arguments": _first_arguments(want["parameters"])} for want in found]
    )


def _first_arguments(parameters: dict[str, Any]) -> dict[str, Any]:
    arguments = {}
    for name, parameter in parameters.items():
        values = _without_empty(parameter["accepted"])
        if values:
            arguments[name] = _first_choice(values[0])
        elif not parameter["optional"]:
            arguments[name] = ""
    return arguments


def _first_choice(accepted: Any) -> Any:
    if isinstance(accepted, list):
        return [_first_choice(value) for value in accepted]
    if isinstance(accepted, dict):
        found = {}
        for key, choices in accepted.items():
            values = _without_empty(_choices(choices))
            if values:
                found[key] = values[0]
        return found
    return accepted


def _without_empty(values: list[Any]) -> list[Any]:
    """Return the values except "", which means that something may be left out."""
    return [value for value in values if value != ""]


def equal_answers(a: str, b: str) -> bool:
    """Return whether two replies' calls, from `calls.extract_answer`, are equal as `verify` compares values.

    "New York" equals "new york". There is no schema here, so texts are always compared loosely, and 5 equals 5.0.
    """
    ours, theirs = json.loads(a), json.loads(b)
    if len(ours) != len(theirs):
        return False
    fits = []
    for y in theirs:
        fits.append([x["name"] == y["name"] and _equal(x["arguments"], y["arguments"], "dict") for x in ours])
    return _can_match_all(fits)


FORMAT = AnswerFormat(
    calls.SOLVE,
    read_row,
    verify,
    verify_lenient,
    gold_reply,
    parse_gold,
    extract_answer=calls.extract_answer,
    equal_answers=equal_answers,
    read_refinement=calls.read_refinement,
)
