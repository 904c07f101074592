# SPDX-License-Identifier: LGPL-2.1-or-later
"""unit-confext(1) says what the command does: the same verbs, options, codes and JSON, both ways."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

import confext_helpers.command.main
import confext_helpers.command.verbs.build
import confext_helpers.command.verbs.cat
import confext_helpers.command.verbs.diff
import confext_helpers.command.verbs.inspect
import confext_helpers.command.verbs.list
import confext_helpers.command.verbs.status
import confext_helpers.command.verbs.verify
import confext_helpers.command.verbs.which
from confext_generator.complaints import MESSAGES
from confext_generator.constants import BUGS
from confext_helpers import command
from confext_helpers.builder.sourcetree import Allow, Offence
from confext_helpers.command.exitcodes import Exit
from confext_helpers.command.options import OPTIONS, VERBS, Option
from confext_helpers.errors import unexpected
from confext_helpers.image import policy, trust, verdict
from confext_helpers.image.findings import MEANINGS
from confext_helpers.service.entries import Verdict
from confext_helpers.view import origin
from confext_helpers.view import status as status_view
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


# What makes up the JSON of each verb: every function that has a part of it.
_OF_LAYER = (confext_helpers.command.verbs.status.layer_as_data, confext_helpers.command.verbs.status.signature_of)
_VERIFY = confext_helpers.command.verbs.verify
_INSPECT = confext_helpers.command.verbs.inspect
_WHICH = confext_helpers.command.verbs.which
_DIFF = confext_helpers.command.verbs.diff
JSON: dict[str, tuple[Callable[..., object], ...]] = {
    "list": (confext_helpers.command.verbs.list.as_data,),
    "status": (confext_helpers.command.verbs.status.as_data, *_OF_LAYER, _VERIFY.signers_as_data),
    "which": (_WHICH._look, _WHICH._as_data, _WHICH._link, *_OF_LAYER),
    "cat": (confext_helpers.command.verbs.cat._as_data,),
    "diff": (_DIFF.run, _DIFF._as_data, _DIFF._layer, _DIFF._side),
    "inspect": (
        _INSPECT.inspect, _INSPECT._table, _INSPECT._verity, _INSPECT._contents, _VERIFY.signers_as_data,
        _VERIFY.findings_as_data,
    ),
    "verify": (_VERIFY._show, _VERIFY.signers_as_data, _VERIFY.findings_as_data),
    "build": (confext_helpers.command.verbs.build._facts, confext_helpers.command.verbs.build.run),
}  # fmt: skip
# Words in code there that are values and not keys.
VALUES: dict[str, set[str]] = {
    "status": {"swap", "start", "image", "directory"},
    "which": set(origin.Kind),
    "cat": {"utf-8", "base64"},
    "diff": {"added", "changed", "removed"},
    "inspect": {"--image-policy="},
    "verify": set(verdict.Protection),
    "build": {"--dry-run"},
}


def _keys(function: Callable[..., object]) -> set[str]:
    """The keys of all dictionaries that a function writes down."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    found: set[str] = set()
    for node in ast.walk(tree):
        keys: list[ast.expr | None] = []
        if isinstance(node, ast.Dict):
            keys = list(node.keys)
        elif isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store):
            keys = [node.slice]
        found |= {key.value for key in keys if isinstance(key, ast.Constant) and isinstance(key.value, str)}
    return found


@pytest.mark.parametrize("verb", [verb.name for verb in VERBS])
def test_json(verb: str) -> None:
    keys = set().union(*map(_keys, JSON[verb]))
    if verb == "inspect":
        keys |= set(_INSPECT._EMPTY)
    if verb == "build":
        keys |= set(Offence._fields)
    page = command_page().words("JSON")
    values = VALUES.get(verb, set())
    told = set(codes(page[verb]))
    # What is the same for another verb need not be said again.
    others = {other for other in page if f"as with `{other}`" in page[verb]}
    known = told | {code for other in others for code in codes(page[other])}
    assert told - others - keys <= values <= told
    assert keys <= known


def test_json_is_told_for_each_verb() -> None:
    assert list(command_page().words("JSON")) == [verb.name for verb in VERBS]
