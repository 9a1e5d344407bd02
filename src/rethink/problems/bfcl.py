"""The simple form of the Berkeley Function Calling Leaderboard (BFCL): calls of Python functions, with several acceptable
values for each parameter.

BFCL keeps questions and possible answers in two files, which `join` makes one of. A row then has `question` (turns of
messages), `function` (schemas, whose types are BFCL's own: "dict", "float", "tuple") and `ground_truth`, a list of
{function: {parameter: [acceptable values]}}; the categories simple, multiple and parallel, live ones included, have this
form. The type of an object's values is not checked; each of its keys again has a list of acceptable values. "" among
acceptable values means that the parameter or key may be left out, unless the schema requires it.

We grade as BFCL's AST checker (version 4) does: exact names, required parameters present, no unknown ones, an integer in
place of a float but not the reverse, no truth value as a number. Texts are compared in lower case, without blanks and
any of , . / - _ * ^ and with double quotes for single ones. An acceptable value that is not of the type in the schema (a
variable's name, null) has to be met exactly. We differ in that

- an integer also counts as a float within a list, and texts are compared alike at every depth;
- parallel calls are paired with the possible answers in the best way, not greedily;
- a list without acceptable values (two rows of live simple, which nothing satisfies there) has to be empty;
- replies are JSON, not Python, in which [] does not stand for a parameter left out.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rethink.errors import UserError
from rethink.problems import calls
from rethink.problems.answer_format import AnswerFormat, Columns, Row
from rethink.problems.calls import Call
from rethink.types import Verdict

TYPES = {"string", "any", "integer", "float", "number", "boolean", "dict", "object"}
LISTS = {"array", "tuple"}
TEXTS = {"string", "any"}
OBJECTS = {"dict", "object"}
FLOATS = {"float", "number"} | OBJECTS
_STANDARD = str.maketrans({**dict.fromkeys(" ,./-_*^", ""), "'": '"'})


def join(questions: str | Path, answers: str | Path, joined: str | Path) -> int:
    """Write the rows of a file of questions, each with its `ground_truth` from the file of possible answers, as JSONL;
    how many there are. Raises UserError where the ids of the files differ."""
    rows, truths = _by_id(Path(questions)), _by_id(Path(answers))
    alone = sorted(rows.keys() ^ truths.keys())
    if alone:
        raise UserError(f"{alone[0]!r} is in one of {questions} and {answers} only; take the files of one category")
    with Path(joined).open("w", encoding="utf-8") as file:
        for key, row in rows.items():
            row["ground_truth"] = truths[key].get("ground_truth")
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return len(rows)


def _by_id(file: Path) -> dict[str, dict[str, Any]]:
    if not file.is_file():
        raise UserError(f"no file {file}")
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


def read(row: Row, columns: Columns, seed: int) -> tuple[str, str]:
    """The schemas, one per line, and the request; the acceptable calls as canonical JSON, with types. A row without
    schemas whose question begins with them, as `rethink prepare` writes it, is asked as it is."""
    if not row.has(columns.tools) and row.has(columns.question) and row.text(columns.question).startswith(calls.LISTED):
        return row.text(columns.question), _prepared(row, columns.answer)
    tools = calls.functions(row, columns)
    named = {tool.get("name"): tool for tool in tools}
    request, answers = _request(row, columns.question), calls.json_column(row, columns.answer)
    try:
        if not isinstance(answers, list):
            raise ValueError("not a list")
        gold = calls.canonical([_wanted(answer, named) for answer in answers])
    except (ValueError, TypeError, AttributeError) as err:  # the latter two: a schema that is not made of objects
        raise UserError(f"{row.where}: the column {columns.answer!r} is no list of possible answers ({err})") from err
    return calls.ask(tools, request), gold


def _prepared(row: Row, name: str) -> str:
    """The acceptable calls as `read` gave them once."""
    found = calls.json_column(row, name)
    try:
        for want in found:
            _check_keys(want, {"name", "parameters"})
            for parameter in want["parameters"].values():
                _check_keys(parameter, {"type", "accepted", "optional"})
        return calls.canonical(found)
    except (ValueError, TypeError, AttributeError) as err:
        raise UserError(f"{row.where}: the column {name!r} is no list of prepared answers ({err})") from err


def _check_keys(table: Any, keys: set[str]) -> None:
    if table.keys() != keys:
        raise ValueError("other keys than there should be")


def _request(row: Row, names: str) -> str:
    """The text of a question: of messages, or of turns of them, the contents."""
    value = row.value(names)
    if isinstance(value, str):
        return row.text(names)
    contents: list[Any] = []
    for turn in value if isinstance(value, list) else []:
        for message in turn if isinstance(turn, list) else [turn]:
            contents.append(message.get("content") if isinstance(message, dict) else None)
    if not contents or not all(isinstance(content, str) for content in contents):
        raise UserError(f"{row.where}: the column {names!r} is neither text nor a list of messages")
    return "\n\n".join(map(str.strip, contents))


def _wanted(answer: Any, tools: dict[Any, dict[str, Any]]) -> dict[str, Any]:
    """One acceptable call. Raises ValueError where no call could be right by the function's schema."""
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
            parameters[parameter] = _parameter(parameter, known[parameter], values, parameter in required)
    return {"name": name, "parameters": parameters}


def _parameter(name: str, schema: dict[str, Any], accepted: list[Any], required: bool) -> dict[str, Any]:
    """The acceptable values and their type, of a list that of its elements. "" stays as a value for a text alone."""
    if not accepted and schema.get("type") in LISTS:
        accepted = [[]]
    values = accepted if schema.get("type") in TEXTS else _not_empty(accepted)
    optional = "" in accepted and not required
    if not values and not optional:
        raise ValueError(f"no value for {name!r}")
    while schema.get("type") in LISTS:
        schema = schema.get("items") or {"type": "any"}
    if schema.get("type") not in TYPES:
        raise ValueError(f"{name!r} is of the unknown type {schema.get('type')!r}")
    return {"type": schema["type"], "accepted": values, "optional": optional}


def verify(reply: str, gold: str) -> Verdict:
    """Right if the reply is nothing but calls that BFCL accepts."""
    return calls.grade(reply, gold, _compare)


def lenient(reply: str, gold: str) -> Verdict:
    """As `verify`, with calls also found in running text."""
    return calls.grade(reply, gold, _compare, lenient=True)


def _compare(found: list[Call], gold: str) -> str:
    wanted = json.loads(gold)
    if len(found) != len(wanted):
        return "another number of calls is right"
    if len(wanted) == 1:
        return _wrong(found[0], wanted[0])
    fits = []
    for want in wanted:
        fits.append([not _wrong(call, want) for call in found])
    return "" if _can_be_paired(fits) else "not all of the calls are right"


def _can_be_paired(fits: list[list[bool]]) -> bool:
    """Whether each row can have a column of its own that fits (augmenting paths)."""
    owners: dict[int, int] = {}

    def place(row: int, seen: set[int]) -> bool:
        for column, fit in enumerate(fits[row]):
            if fit and column not in seen:
                seen.add(column)
                if column not in owners or place(owners[column], seen):
                    owners[column] = row
                    return True
        return False

    return all(place(row, set()) for row in range(len(fits)))


def _wrong(call: Call, wanted: dict[str, Any]) -> str:
    given, parameters = call["arguments"], wanted["parameters"]
    if call["name"] != wanted["name"]:
        return "another function is right"
    if given.keys() - parameters.keys():
        return "a parameter is given that should not be"
    if any(name not in given and not parameter["optional"] for name, parameter in parameters.items()):
        return "a parameter is missing"
    for name, value in given.items():
        if not _is_accepted(value, parameters[name]):
            return "a value is wrong"
    return ""


def _is_accepted(value: Any, parameter: dict[str, Any]) -> bool:
    return any(_matches(value, accepted, parameter["type"]) for accepted in parameter["accepted"])


def _matches(value: Any, accepted: Any, kind: str) -> bool:
    """Whether a value is the acceptable one, in which objects have lists of acceptable values."""
    if isinstance(accepted, list):
        same_size = isinstance(value, list) and len(value) == len(accepted)
        return same_size and all(_matches(x, y, kind) for x, y in zip(value, accepted, strict=True))
    if not isinstance(accepted, dict):
        return _same(value, accepted, kind)
    if not isinstance(value, dict) or value.keys() - accepted.keys():
        return False
    return all(_fits(value, key, _choices(choices)) for key, choices in accepted.items())


def _fits(value: dict[str, Any], key: str, choices: list[Any]) -> bool:
    """Whether an object has one of the choices under that key, or may do without it."""
    if key not in value:
        return "" in choices
    return any(_same(value[key], choice, "dict") for choice in choices)


def _choices(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _same(value: Any, wanted: Any, kind: str) -> bool:
    """Whether two values are equal, by the type in the schema ("dict" within objects, of which it says nothing)."""
    if isinstance(wanted, dict):
        same_keys = isinstance(value, dict) and value.keys() == wanted.keys()
        return same_keys and all(_same(value[key], x, kind) for key, x in wanted.items())
    if isinstance(wanted, list):
        same_size = isinstance(value, list) and len(value) == len(wanted)
        return same_size and all(_same(x, y, kind) for x, y in zip(value, wanted, strict=True))
    if isinstance(wanted, str):
        plain = isinstance(value, str) and kind in TEXTS | OBJECTS
        return standard(value) == standard(wanted) if plain else value == wanted
    if isinstance(wanted, bool) or wanted is None or isinstance(value, bool):
        return value is wanted
    return value == wanted and (type(value) is type(wanted) or kind in FLOATS)


def standard(text: str) -> str:
    """The text as BFCL compares it."""
    return text.translate(_STANDARD).lower()


def gold_reply(gold: str) -> str:
    """A reply with the first acceptable value of each parameter and key, "" only where there is no other."""
    found = json.loads(gold)
    return calls.canonical([{"name": want["name"], "arguments": _first(want["parameters"])} for want in found])


def _first(parameters: dict[str, Any]) -> dict[str, Any]:
    arguments = {}
    for name, parameter in parameters.items():
        values = _not_empty(parameter["accepted"])
        if values:
            arguments[name] = _stated(values[0])
        elif not parameter["optional"]:
            arguments[name] = ""
    return arguments


def _stated(accepted: Any) -> Any:
    if isinstance(accepted, list):
        return [_stated(value) for value in accepted]
    if isinstance(accepted, dict):
        found = {}
        for key, choices in accepted.items():
            values = _not_empty(_choices(choices))
            if values:
                found[key] = values[0]
        return found
    return accepted


def _not_empty(values: list[Any]) -> list[Any]:
    """Without "", which says that something may be left out."""
    return [value for value in values if value != ""]


def equal_answers(a: str, b: str) -> bool:
    """Whether two replies' calls, as `calls.answer` has them, are equal as `verify` compares values: "New York" is
    "new york". Without a schema every text counts as one, a variable's name too, and 5 as 5.0."""
    ours, theirs = json.loads(a), json.loads(b)
    if len(ours) != len(theirs):
        return False
    fits = []
    for y in theirs:
        fits.append([x["name"] == y["name"] and _same(x["arguments"], y["arguments"], "dict") for x in ours])
    return _can_be_paired(fits)


FORMAT = AnswerFormat(
    calls.SOLVE, read, verify, lenient, gold_reply, extract_answer=calls.answer, equal_answers=equal_answers
)
