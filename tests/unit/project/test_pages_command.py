# SPDX-License-Identifier: LGPL-2.1-or-later
"""unit-confext(1) says what the command does: the same verbs, options, codes and JSON, both ways."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path

import pytest

import confext_helpers.command.main
import confext_helpers.command.verbs.status
from confext_generator.complaints import MESSAGES
from confext_generator.constants import BUGS
from confext_helpers import command
from confext_helpers.builder.sourcetree import Allow
from confext_helpers.command import data
from confext_helpers.command.exitcodes import Exit
from confext_helpers.command.options import OPTIONS, VERBS, Option
from confext_helpers.errors import unexpected
from confext_helpers.image import policy, trust, verdict
from confext_helpers.image.findings import MEANINGS
from confext_helpers.service.entries import Verdict
from confext_helpers.view import origin
from confext_helpers.view import status as status_view
from lab import jsonshape
from unit.project.manpages import CHECKOUT, codes, command_page, generator_environment, one_line, plain


def test_verbs() -> None:
    told = [plain(term) for term in command_page().terms("VERBS")]
    assert told == [f"{verb.name} {verb.operands}".replace("…", "...") for verb in VERBS]


def _as_term(option: Option) -> str:
    """An option as the page writes it."""
    value = f"=`*{option.value}*" if option.value else "`"
    return ", ".join(f"`{name}`" for name in option.names).removesuffix("`") + value


def test_options() -> None:
    told = command_page().terms("OPTIONS")
    assert list(told) == [_as_term(option) for option in OPTIONS]
    for option in OPTIONS:
        text = told[_as_term(option)]
        verbs = re.match(r"With ((?:`\w+`(?:, | and )?)+): ", text)
        assert tuple(codes(verbs[1]) if verbs else ()) == option.verbs, option.names
        assert ("May be given several times." in text) == option.several, option.names
        assert set(option.choices) <= set(codes(text)), option.names
        if option.choices:
            assert re.search(rf"`{option.default}`[^;]*the default", text), option.names


def test_no_other_options_of_the_command() -> None:
    """In the text and in the examples, too."""
    known = {name for option in OPTIONS for name in option.names}
    blocks = re.split(r"^```\n", command_page().text, flags=re.M)
    told = {code.partition("=")[0] for code in codes("".join(blocks[0::2])) if code.startswith("-")}
    examples = re.findall(r"^unit-confext .+", "".join(blocks[1::2]), re.M)
    told |= set(re.findall(r"(?<= )--?[a-z-]+", "\n".join(examples)))
    assert told == known
    verbs = {verb.name for verb in VERBS}
    assert examples
    assert {line.split()[1] for line in examples} <= verbs


def test_what_can_be_chosen() -> None:
    told = command_page().terms("OPTIONS")
    allow = told["`--allow=`*WHAT*"]
    assert set(codes(allow)) - {"build", "etc/", "noexec"} == set(Allow)
    assert f"`{policy.CONFEXT}`" in told["`--image-policy=`*POLICY*"]


def test_findings() -> None:
    assert command_page().words("FINDINGS") == {code: f"{meaning}." for code, meaning in MEANINGS.items()}


def test_verdicts_and_states() -> None:
    assert list(command_page().words("VERDICTS")) == list(Verdict)
    states = {state: f"It {status_view._MEANINGS[state]}." for state in status_view.State}
    assert command_page().words("STATES") == states
    last = command_page().sections["STATES"].rpartition("The signature of a layer is")[2]
    assert codes(last) == list(confext_helpers.command.verbs.status.Signature)


def _interrupted() -> int:
    """The exit status of main() that is none of Exit."""
    numbers = re.findall(r"return (\d+)$", inspect.getsource(confext_helpers.command.main.main), re.M)
    assert len(numbers) == 1
    return int(numbers[0])


def test_exit_statuses_of_the_command() -> None:
    told = command_page().words("EXIT STATUS")
    assert list(map(int, told)) == [*sorted(Exit), _interrupted()]
    # Which verb ends with which: what stands in the modules.
    for status in (Exit.DIFFERS, Exit.REFUSED, Exit.RELOAD_FAILED):
        sources = Path(command.__file__).parent.rglob("*.py")
        using = {path.stem for path in sources if f"Exit.{status.name}" in path.read_text()}
        assert using == {code for code in codes(told[str(int(status))]) if code in {verb.name for verb in VERBS}}


def test_environment_of_the_command() -> None:
    told = command_page().words("ENVIRONMENT")
    paths = [*Path(command.__file__).parent.rglob("*.py"), *(CHECKOUT / "helpers/confext_helpers").rglob("*.py")]
    text = "\n".join(path.read_text() for path in paths)
    read = set(re.findall(r"environ(?:\.get\(|\[)\"([A-Z_]+)\"", text))
    assert "get_terminal_size().lines" in text
    # What the generator reads, `list` and `status` read too.
    assert set(told) == read | {"LINES"} | (generator_environment() - {"SYSTEMD_LOG_LEVEL"})


# No complaints about an entry, or about a unit that is left alone, so that they have no place for a code.
_WITHOUT_PLACE = {
    "systemd-unknown", "systemd-too-old", "unexpected", "temporary", "order", "taken-back", "own-versions",
    "dropin-silent", "dropin-unwritten", "directory-hidden", "directory-missing", "directory-silent",
}  # fmt: skip


def test_codes() -> None:
    assert set(command_page().words("CODES")) == set(MESSAGES) - _WITHOUT_PLACE


def test_where_faults_are_reported() -> None:
    assert "BUGS in unit-confext(1)" in BUGS
    assert '"unexpected" and a type' in one_line(command_page().sections["BUGS"])
    assert str(unexpected(TypeError("x"))).startswith("unexpected TypeError: x; ")


def test_files_of_the_command() -> None:
    assert list(command_page().words("FILES")) == list(trust.DIRECTORIES)


# Words in what is told about the JSON of a verb that are values and no keys.
VALUES: dict[str, set[str]] = {
    "status": {"swap", "start"},
    "which": {str(kind) for kind in origin.Kind if kind is not origin.Kind.UNKNOWN},
    "cat": {"utf-8", "base64"},
    "diff": {"added", "changed", "removed", "status"},
    "inspect": {"--image-policy="},
    "verify": {str(one) for one in verdict.Protection},
    "build": {"--dry-run"},
}
# What is the same for all verbs is told before them.
_SHARED = (data.Layer, data.Signer)


@pytest.mark.parametrize("verb", jsonshape.VERBS)
def test_json(verb: str) -> None:
    """The page names every key of the verb's types, and no other."""
    kinds = {one.__name__: one for kind in jsonshape.VERBS[verb] for one in jsonshape.parts(kind)}
    keys = {key for kind in kinds.values() if kind not in _SHARED for key in jsonshape.keys(kind)}
    told = set(codes(command_page().words("JSON")[verb]))
    values = VALUES.get(verb, set())
    assert keys <= told
    assert told - keys <= values <= told


def test_json_of_layers_and_signers() -> None:
    told = command_page().sections["JSON"].partition("`list`")[0]
    layer, signer = re.findall(r"^A (?:layer|signer) is .*?\n\n", told, re.M | re.S)
    others = ("image", "directory", "status")
    assert [code for code in codes(layer) if code not in others] == [*jsonshape.keys(data.Layer)]
    assert codes(signer) == [*jsonshape.keys(data.Signer)]


def test_json_examples() -> None:
    """There is one of each verb, and it is of that verb's type."""
    example = r"^```\nunit-confext (\w+) [^\n]*--json=short\n(\[.*?)^```"
    found = re.findall(example, command_page().sections["JSON"], re.M | re.S)
    assert [verb for verb, _ in found] == [verb.name for verb in VERBS]
    for verb, text in found:
        jsonshape.check(verb, json.loads(text))


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ({"path": "/a", "resolved": "/a", "size": 1, "encoding": "utf-8", "content": ""}, ""),
        ({"path": "/a", "resolved": "", "size": 1, "encoding": "utf-8", "content": ""}, "'' instead of null"),
        ({"path": "/a", "resolved": "/a", "size": -1, "encoding": "utf-8", "content": ""}, "-1 instead of null"),
        ({"path": "/a", "resolved": "/a", "size": None, "encoding": "utf-8", "content": ""}, "None and no int"),
        ({"path": "/a", "resolved": "/a", "size": True, "encoding": "utf-8", "content": ""}, "True and no int"),
        ({"path": "/a", "resolved": "/a", "size": 1, "encoding": "utf-8"}, ".content is there, or is not"),
        ([], "is no object"),
    ],
)
def test_what_is_not_of_a_type_is_seen(value: object, problem: str) -> None:
    found = jsonshape.problems(value, data.Content)
    assert len(found) == bool(problem)
    assert not problem or problem in found[0]


def test_json_is_told_for_each_verb() -> None:
    assert list(command_page().words("JSON")) == [verb.name for verb in VERBS]
