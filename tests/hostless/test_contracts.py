"""The contracts of services and environments, and the tables that are made of them."""

from __future__ import annotations

import re

import pytest

from landscape import ROOT, load
from terrace.contracts import contract, filled, findings, fits, kind, rows

generate = load("docs/generate", "docs_generate")
TYPES = {"bool", "dict", "int", "list", "str"}


@pytest.mark.parametrize("name", ["service", "environment"])
def test_keys_are_typed_and_described(name):
    for key, option in rows(contract(name)):
        assert option["type"] in TYPES, key
        assert re.fullmatch(r"[A-Z][^\n]*\.", option["description"]), key
        assert ("elements" in option) or option["type"] != "list", key
        assert not (option.get("required") and "default" in option), key
        if option.get("default") is not None:
            assert fits(option["default"], option), key


def test_every_key_of_a_service_has_a_default_or_has_to_be_given():
    for key, option in rows(contract("service")):
        assert option.get("required") or "default" in option or key.startswith("source."), key


@pytest.mark.parametrize("name", generate.PAGES)
def test_tables_are_current(name):
    """`make docs` writes them anew."""
    text = (ROOT / generate.PAGES[name]).read_text()
    assert generate.page(name, text) == text
    part = text.partition(f"<!-- contract: {name} -->")[2].partition("<!-- end")[0]
    listed = re.findall(r"(?m)^\| `([^`]+)` \| ", part)
    assert listed == [key for key, _ in rows(contract(name))]


def test_a_table_that_is_not_current_is_found():
    text = (ROOT / generate.PAGES["service"]).read_text()
    assert generate.page("service", text.replace("`512M`", "`1G`")) == text
    with pytest.raises(SystemExit):
        generate.page("service", "# No marks\n")


def test_nested_keys_have_their_whole_name():
    names = [key for key, _ in rows(contract("service"))]
    assert {"routes[].strip", "processes.<name>.command", "database.pool", "source.git"} <= set(names)


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ({"type": "int", "or": "auto"}, "a whole number or auto"),
        ({"type": "str", "choices": ["b", "a"]}, "one of a, b"),
        ({"type": "list", "elements": "str"}, "a list of text"),
        ({"type": "list", "elements": "dict"}, "a list of mappings"),
        ({"type": "dict", "elements": "list"}, "a mapping of lists"),
        ({"type": "raw"}, "anything"),
    ],
)
def test_kinds_in_words(option, text):
    assert kind(option) == text


@pytest.mark.parametrize(
    ("kind_", "good", "bad"),
    [
        ("int", [0, -1], [True, 1.0, "1", None]),
        ("bool", [True, False], [0, "yes"]),
        ("float", [1, 1.5], [True, "1.5"]),
        ("str", ["", "x"], [1, True, ["x"]]),
        ("path", ["/x"], [1, {}]),
        ("dict", [{}], [[], "x"]),
        ("list", [[], [1]], [{}, "x", 1]),
        ("raw", [None, 1, "x", []], []),
    ],
)
def test_types(kind_, good, bad):
    assert [value for value in good if not fits(value, {"type": kind_})] == []
    assert [value for value in bad if fits(value, {"type": kind_})] == []


def test_roles_take_numbers_as_text():
    assert fits(60, {"type": "str"}, lenient=True)
    assert not fits(True, {"type": "str"}, lenient=True)
    assert not fits([60], {"type": "str"}, lenient=True)


def test_a_secret_is_not_told():
    option = {"type": "str", "no_log": True}
    assert findings({"key": ["hunter2"]}, {"key": option}) == [("key", "has to be text")]


def test_filling_copies_defaults():
    options = {"a": {"type": "list", "elements": "str", "default": []}}
    filled(None, options)["a"].append("x")
    assert filled(None, options) == {"a": []}


# A list of mappings under each key, whose elements may be given in short.
LISTS = {
    "all": {
        "type": "dict",
        "elements": "list",
        "default": {},
        "options": {
            "parts": {
                "type": "list",
                "elements": "dict",
                "short": "name",
                "default": [],
                "options": {"name": {"type": "str", "default": ""}, "size": {"type": "int", "default": 1}},
            }
        },
    }
}


def test_lists_by_key_are_filled():
    given = {"all": {"x": [{"parts": ["a", {"name": "b", "size": 2}]}, {}]}}
    assert findings(given, LISTS) == []
    parts = [{"name": "a", "size": 1}, {"name": "b", "size": 2}]
    assert filled(given, LISTS) == {"all": {"x": [{"parts": parts}, {"parts": []}]}}
    assert filled({}, LISTS) == {"all": {}}


@pytest.mark.parametrize(
    ("given", "wrong"),
    [
        ([], ("all", "is []; has to be a mapping of lists")),
        ({"x": {}}, ("all.x", "is {}; has to be a list of mappings")),
        ({"x": [1]}, ("all.x[0]", "is 1; has to be a mapping with parts")),
        ({"x": [{"parts": [1]}]}, ("all.x[0].parts[0]", "is 1; has to be text or a mapping with name, size")),
        ({"x": [{"parts": ["a"]}, {"prts": []}]}, ("all.x[1].prts", "unknown key; did you mean 'parts'?")),
        ({"x": [{"parts": [{"size": "1"}]}]}, ("all.x[0].parts[0].size", "is '1'; has to be a whole number")),
    ],
)
def test_lists_by_key_that_are_wrong(given, wrong):
    assert findings({"all": given}, LISTS) == [wrong]


def test_an_option_may_be_that_of_another_contract():
    own = contract("environment")["databases"]["options"]["indexes"]
    other = contract("service")["database"]["options"]["indexes"]
    assert own["options"] == other["options"]
    assert own["description"] != other["description"]
    assert [key for key, _ in rows(contract("environment")) if key.startswith("databases.<name>.indexes")] == [
        "databases.<name>.indexes"
    ]
