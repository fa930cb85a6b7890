"""Contracts: what keys there are, their types and defaults, in the form of options of an argument spec.

Those of services and of environments stand in `plugins/contracts`, those of roles in `meta/argument_specs.yml`.
"""

from __future__ import annotations

import copy
import difflib
import functools
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from terrace import yaml_files

ROOT = Path(__file__).resolve().parents[2]
TEXT = {
    "bool": "true or false",
    "dict": "a mapping",
    "float": "a number",
    "int": "a whole number",
    "list": "a list",
    "path": "text",
    "raw": "anything",
    "str": "text",
}

Options = Mapping[str, Mapping[str, Any]]
# Where within what was given, such as `routes[0].path`, and what is wrong there, with its mend.
Finding = tuple[str, str]


@functools.cache
def contract(name: str) -> Options:
    """Return the contract of that name in `plugins/contracts`: its options by key."""
    return {
        key: _resolved(option) for key, option in yaml_files.ours(ROOT / "plugins/contracts" / f"{name}.yml").items()
    }


def _resolved(option: Mapping) -> dict:
    """Return an option with all that one has which it is the `same` as, such as `service.database.indexes`."""
    result = dict(option)
    if "same" in option:
        name, *keys, last = option["same"].split(".")
        options = contract(name)
        for key in keys:
            options = options[key]["options"]
        result = {**options[last], **option}
    if "options" in result:
        result["options"] = {key: _resolved(inner) for key, inner in result["options"].items()}
    return result


def kind(option: Mapping) -> str:
    """Return what an option takes, in words."""
    text = TEXT[option.get("type", "str")]
    if "choices" in option:
        text = "one of " + ", ".join(sorted(map(str, option["choices"])))
    elif option.get("type") == "list" and option.get("elements") in ("str", "path"):
        text = "a list of text"
    elif option.get("type") == "list" and option.get("elements") == "dict":
        text = "a list of mappings"
    elif option.get("type") == "dict" and option.get("elements") == "list":
        text = "a mapping of lists"
    return f"{text} or {option['or']}" if "or" in option else text


def fits(value: Any, option: Mapping, lenient: bool = False) -> bool:
    """Say whether a value is of an option's type.

    Parameters:
        lenient: whether a number also fits where text is wanted, as it does for roles.
    """
    if "or" in option and value == option["or"]:
        return True
    if "choices" in option and value not in option["choices"]:
        return False
    match option.get("type", "str"):
        case "raw":
            return True
        case "dict":
            return isinstance(value, Mapping)
        case "list":
            plain = {"type": option.get("elements", "raw")}
            return isinstance(value, (list, tuple)) and (
                plain["type"] == "dict" or all(fits(part, plain, lenient) for part in value)
            )
        case "bool":
            return isinstance(value, bool)
        case "int":
            return isinstance(value, int) and not isinstance(value, bool)
        case "float":
            return isinstance(value, (int, float)) and not isinstance(value, bool)
        case _:
            also = (int, float) if lenient else ()
            return isinstance(value, (str, *also)) and not isinstance(value, bool)


def shown(value: Any) -> str:
    """Return a value as it is told to people, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def guess(name: str, known: Iterable[str]) -> str | None:
    """Return what a misspelt name was probably meant to be."""
    return next(iter(difflib.get_close_matches(name, list(known), n=1, cutoff=0.7)), None)


def findings(value: Mapping, options: Options, place: str = "", lenient: bool = False) -> list[Finding]:
    """Return what is wrong with a mapping's keys and types, nested ones too.

    Parameters:
        place: what stands before the keys that are told, such as `health.`.
        lenient: see `fits`.
    """
    found = []
    for key in value:
        if key not in options:
            close = guess(str(key), options)
            mend = f"did you mean '{close}'?" if close else f"known are {', '.join(options)}"
            found.append((f"{place}{key}", f"unknown key; {mend}"))
    for key, option in options.items():
        if key not in value or (value[key] is None and not option.get("required") and option.get("default") is None):
            if option.get("required"):
                found.append((f"{place}{key}", f"is missing; give {kind(option)}"))
        else:
            found += finding(value[key], option, f"{place}{key}", lenient)
    return found


def finding(value: Any, option: Mapping, place: str, lenient: bool = False) -> list[Finding]:
    """Return what is wrong with the value of one option; a value that nobody may see is not told."""
    if not fits(value, option, lenient):
        given = "has to be" if option.get("no_log") else f"is {shown(value)}; has to be"
        quote = "; put it in quotes" if isinstance(value, (int, float)) and kind(option) == "text" else ""
        return [(place, f"{given} {kind(option)}{quote}")]
    if "options" not in option:
        return []
    if option.get("elements") == "list":
        inner = {**option, "type": "list", "elements": "dict"}
        return [each for key, part in value.items() for each in finding(part, inner, f"{place}.{key}", lenient)]
    if option["type"] == "list":
        parts = [(f"{place}[{number}]", _long(part, option)) for number, part in enumerate(value)]
    elif "elements" in option:
        parts = [(f"{place}.{key}", part) for key, part in value.items()]
    else:
        parts = [(place, value)]
    found = []
    for where, part in parts:
        if isinstance(part, Mapping):
            found += findings(part, option["options"], f"{where}.", lenient)
        else:
            text = "text or a mapping" if "short" in option else "a mapping"
            found.append((where, f"is {shown(part)}; has to be {text} with {', '.join(option['options'])}"))
    return found


def _long(part: Any, option: Mapping) -> Any:
    """Return an element of a list as a mapping, where it is given in short: as the text of one key."""
    return {option["short"]: part} if "short" in option and isinstance(part, str) else part


def filled(value: Mapping | None, options: Options) -> dict:
    """Return a mapping with the defaults of its contract filled in, nested ones too."""
    result = {}
    for key, option in options.items():
        if key in (value or {}):
            given = value[key]
        elif "default" in option:
            given = copy.deepcopy(option["default"])
        else:
            continue
        if "options" in option and given is not None:
            if option["type"] == "list":
                given = [filled(_long(part, option), option["options"]) for part in given]
            elif option.get("elements") == "list":
                given = {name: [filled(each, option["options"]) for each in part] for name, part in given.items()}
            elif "elements" in option:
                given = {name: filled(part, option["options"]) for name, part in given.items()}
            else:
                given = filled(given, option["options"])
        result[key] = given
    return result


def rows(options: Options, place: str = "") -> Iterator[tuple[str, Mapping]]:
    """Return every key of a contract with its whole name and its option, nested ones after the one they are in.

    What is within an option that is the same as another one is told there.
    """
    for key, option in options.items():
        yield f"{place}{key}", option
        if "options" in option and "same" not in option:
            inner = {"list": "[]", "dict": ".<name>"}[option["type"]] if "elements" in option else ""
            inner += "[]" if option.get("elements") == "list" else ""
            yield from rows(option["options"], f"{place}{key}{inner}.")
