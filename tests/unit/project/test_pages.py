# SPDX-License-Identifier: LGPL-2.1-or-later
"""The man pages say what the code does: the same options, settings, messages and names, both ways.

unit-confext(1) has a module of its own, test_pages_command.py.
"""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path

import pytest

from confext_generator import cli, constants, entrynames, unitdirs
from confext_generator.report import Complaint, Reporter
from confext_helpers.checks import section
from confext_helpers.checks.commandline import SPECIFIERS
from confext_helpers.errors import ConfextError
from confext_helpers.hook import deadline, main, messages
from confext_helpers.hook.messages import Id
from confext_helpers.service import belonging
from confext_helpers.service.layers import Layer, LayerChange
from confext_helpers.service.notes import Notes
from confext_helpers.stage.process import LOADER
from confext_helpers.swap.change import FILES_MAX
from confext_helpers.swap.treediff import Difference, Files
from confext_helpers.system.journal import Message
from confext_helpers.transaction.steps import Step
from unit.project.manpages import (
    CHECKOUT,
    DOCS,
    codes,
    directory_page,
    generator_environment,
    generator_page,
    hook_page,
    one_line,
    page,
    plain,
)

PAGES = sorted(DOCS.glob("*.[1-8].md"))
UNIT = "demo.service"


# ---- All pages ----


def _all(*patterns: str) -> str:
    paths = [path for pattern in patterns for path in sorted(CHECKOUT.glob(pattern)) if path.is_file()]
    return "\n".join(path.read_text() for path in paths)


def _names(text: str) -> set[str]:
    """This project's man pages that a text mentions, as NAME(SECTION)."""
    return set(re.findall(r"\bunit[-.]confext[\w.@-]*\(\d\)", text.replace("**", "")))


THERE = {re.sub(r"^(.+)\.(\d)\.md$", r"\1(\2)", path.name) for path in PAGES}


def test_pages_were_found() -> None:
    names = {"unit-confext(1)", "unit.confext.d(5)", "unit-confext-generator(8)", "unit-confext-restack(8)"}
    assert names == THERE


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_form(path: Path) -> None:
    """What both go-md2man and pandoc make a good page of."""
    name, section = path.name.removesuffix(".md").rsplit(".", 1)
    text = path.read_text()
    assert text.startswith(f"% {name.upper()}({section})\n\n# NAME\n\n{name}")
    found = page(path.name.removesuffix(".md"))
    assert re.fullmatch(rf"\n{re.escape(name)}(?:, [\w@.-]+)* - .+\n\n", found.sections["NAME"])
    assert list(found.sections)[:3] == ["NAME", "SYNOPSIS", "DESCRIPTION"]
    assert list(found.sections)[-1] == "SEE ALSO"
    # The other pages are named in it, and no other ones of this project.
    assert _names(found.sections["SEE ALSO"]) == THERE - {f"{name}({section})"}

    blocks = re.split(r"^```\n", text, flags=re.M)
    prose, code = "".join(blocks[0::2]), "".join(blocks[1::2])
    # To groff a request, even in an example, in old versions of go-md2man.
    assert not re.search(r"^[.']", code, re.M)
    # pandoc makes dashes of them.
    assert not re.search(r"--", re.sub(r"`[^`]+`", "", prose))
    # A second paragraph of a definition loses its place in go-md2man.
    assert not re.search(r"^:   .*\n(?:    .*\n)*\n    ", prose, re.M)
    assert not re.search(r"^: {0,2}\S|\t", text, re.M)


def test_nobody_sends_readers_to_a_page_that_is_not_there() -> None:
    text = _all("README.md", "docs/*.md", "helpers/**/*.py", "helpers/*.in", "helpers/completion/*/*", "units/**/*")
    assert _names(text) <= THERE


def test_nobody_in_the_generator_does() -> None:
    assert _names(_all("generator/**/*.py", "generator/*.in")) <= THERE


# ---- unit-confext-generator(8) ----


def test_environment_of_the_generator() -> None:
    assert set(generator_page().words("ENVIRONMENT")) == generator_environment()


def _usage_options(usage: str) -> list[str]:
    """The options of a help text, as `-h, --help` or `--root=DIR`."""
    found = re.findall(r"^  (-\S+(?:, -\S+)?)  +\S", usage, re.M)
    assert found
    return found


def test_options_of_the_generator() -> None:
    told = [plain(term) for term in generator_page().terms("OPTIONS")]
    assert told == _usage_options(cli.USAGE)
    synopsis = plain(generator_page().sections["SYNOPSIS"]).replace("/usr/lib/systemd/system-generators/", "")
    forms = re.findall(rf"^(?:Usage:)? +({cli.PROGRAM} .+)$", cli.USAGE, re.M)
    assert [line for line in synopsis.splitlines() if line] == forms


def test_exit_statuses_of_the_generator() -> None:
    assert list(map(int, generator_page().words("EXIT STATUS"))) == [0, cli.EXIT_FAILURE, cli.EXIT_USAGE]


def test_settings_of_the_drop_in() -> None:
    """All that the generator writes in any of the golden trees, in that order."""
    dropins = CHECKOUT.glob("tests/golden/*/expected/**/zz-unit-confext.conf")
    written = {key for path in dropins for key in re.findall(r"^(\w+=)", path.read_text(errors="replace"), re.M)}
    told = generator_page().words("THE DROP-IN")
    assert set(told) == written
    with_all = next(CHECKOUT.glob("tests/golden/05-*/expected/foo.service.d/zz-unit-confext.conf")).read_text()
    order = list(dict.fromkeys(re.findall(r"^(\w+=)", with_all, re.M)))
    assert [key for key in told if key in order] == order


# ---- unit.confext.d(5) ----


def test_directories() -> None:
    synopsis = plain(directory_page().sections["SYNOPSIS"]).split()
    assert synopsis == [
        f"{path.decode()}/UNIT.service{unitdirs.CONFEXT_SUFFIX.decode()}/"
        for path, counts in unitdirs.search_path(None)
        if counts
    ]


SHAPES = {
    "*NAME*`.raw`": entrynames.IMAGE,
    "*NAME*`.raw.v/`": entrynames.IMAGE | entrynames.VERSIONS,
    "*NAME*`/`": entrynames.DIRECTORY,
    "*NAME*`.v/`": entrynames.VERSIONS,
}


def test_entries() -> None:
    entries = directory_page().terms("ENTRIES")
    assert [term for term in entries if "NAME" in term] == list(SHAPES)
    for term, shape in SHAPES.items():
        assert entrynames.shape_of(plain(term).rstrip("/").encode()) == shape


def test_ignored_names() -> None:
    """The ends and beginnings of names, in groups as they are in the code; and they are what the code goes by."""
    ignored = [codes(term) for term in directory_page().terms("ENTRIES") if "NAME" not in term]
    assert ignored == [
        [suffix.decode() for suffix in constants.SIDECAR_SUFFIXES],
        [suffix.decode() for suffix in entrynames._TEMPORARY_SUFFIXES],
        [f".{extension.decode()}" for extension in entrynames._TEMPORARY_EXTENSIONS],
        ["."],
    ]
    assert all(entrynames.is_temporary(f"x.raw{suffix}".encode()) for suffix in ignored[1])
    assert all(entrynames.is_temporary(f"x.raw{extension}x".encode()) for extension in ignored[2])
    assert not entrynames.is_temporary(b"x.raw")


# ---- unit-confext-restack(8) ----


def test_options_of_the_hook() -> None:
    told = hook_page().terms("OPTIONS")
    assert [plain(term) for term in told] == _usage_options(main.USAGE)
    for option in (code for term in told for code in codes(term)):
        if option not in ("-h", "--help"):
            assert getattr(main.parse_options([option, "a"]), option.removeprefix("--"))


def test_exit_statuses_of_the_hook() -> None:
    assert list(hook_page().words("EXIT STATUS")) == ["0", "1", str(main.EXIT_USAGE)]


def test_settings_of_the_section(tmp_path: Path) -> None:
    told = set(hook_page().words("THE X-CONFEXT SECTION"))
    known = set(re.findall(r'setting\.key == "(\w+)"', inspect.getsource(section)))
    assert told == {f"{key}=" for key in known}
    # The code takes them without a word, and nothing that is like them.
    unit = tmp_path / UNIT
    unit.write_text(f"[{section.SECTION}]\n" + "".join(f"{key}\n" for key in sorted(told)))
    assert section.read_settings([str(unit)], {}, version=257).warnings == ()
    unit.write_text(f"[{section.SECTION}]\n" + "".join(f"No{key}\n" for key in sorted(told)))
    assert len(section.read_settings([str(unit)], {}, version=257).warnings) == len(told)


def test_default_of_the_timeout() -> None:
    text = hook_page().words("THE X-CONFEXT SECTION")["CheckTimeoutSec="]
    default = re.search(r"The default is `([^`]+)`; `([^`]+)` and `([^`]+)` mean no limit", text)
    assert default is not None
    assert section.parse_timeout(default[1]) == section.DEFAULT_TIMEOUT_USEC
    assert {section.parse_timeout(word) for word in default.groups()[1:]} == {section.INFINITY_USEC}


def test_default_of_the_deadline() -> None:
    text = hook_page().words("THE X-CONFEXT SECTION")["TimeoutSec="]
    default = re.search(r"The default is `([^`]+)`\.", text)
    assert default is not None
    assert section.parse_timeout(default[1]) == section.DEFAULT_HOOK_TIMEOUT_USEC == deadline.DEFAULT_SEC * 1e6


def test_specifiers() -> None:
    """Those of systemd.unit(5) that cannot be used, because what they stand for cannot be told."""
    text = hook_page().words("THE X-CONFEXT SECTION")["Check="]
    told = {code.removeprefix("%") for code in codes(text) if code.startswith("%")}
    source = inspect.getsource(section.specifiers_for) + inspect.getsource(section._name_specifiers)
    source += inspect.getsource(section._fragment_specifiers) + inspect.getsource(section._host_specifiers)
    possible = set(re.findall(r'"(\w)"[:,]', source)) | set(section._OS_RELEASE)
    assert told == SPECIFIERS - possible


def test_checks_that_come_with_it() -> None:
    told = {
        unit: [code.removeprefix("Check=") for code in codes(text)]
        for unit, text in hook_page().words("CHECKS THAT COME WITH IT").items()
    }
    there = {
        path.parent.name.removesuffix(".d"): re.findall(r"^Check=(.+)$", path.read_text(), re.M)
        for path in sorted((CHECKOUT / "units").glob("*.service.d/*.conf"))
    }
    assert told == there


def test_units() -> None:
    names = {path.name.removesuffix(".in") for path in (CHECKOUT / "units").glob("*.in")}
    synopsis = plain(hook_page().sections["SYNOPSIS"])
    assert {line.replace("@UNIT.", "@.") for line in synopsis.split() if line.endswith(".service")} == names
    assert names <= set(re.findall(r"[\w@.-]+", hook_page().sections["NAME"]))


def test_notes() -> None:
    source = inspect.getsource(Notes)
    kinds = {*re.findall(r'self\._(?:read|write|remove)\("(\w+)"', source), *re.findall(r"\{unit\}\.(\w+)", source)}
    told = {plain(term) for term in hook_page().terms("FILES")}
    assert told == {f"/run/unit-confext/UNIT.{kind}" for kind in kinds} | {LOADER}


def _files(count: int) -> Files:
    files = Files(FILES_MAX)
    for number in range(count):
        files.add(f"demo/{number}")
    return files


SITE = Layer("10-site", f"/etc/systemd/system/{UNIT}.confext.d/10-site.raw.v", "/x/10-site_2.raw", "2", "")
TLS = Layer("20-tls", f"/etc/systemd/system/{UNIT}.confext.d/20-tls.raw", "/x/20-tls.raw", "", "")
NO_FILES = Difference(Files(), Files(), Files())
NO_LAYERS = LayerChange((), (), (), ())


def every_message() -> list[Message]:
    """Each message that the hook can say, with as much in it as can be."""
    image = f"/etc/systemd/system/{UNIT}.confext.d/10-site.raw"
    broken = ConfextError(
        "the new /etc cannot be built: Input/output error", unit=UNIT, path=image, hint="replace it and reload again"
    )
    failed = ConfextError("the check 'x' exited with status 1", unit=UNIT, hint="mend it", check="x")
    unknown = f"the unknown key Chekc= in [X-Confext] is ignored (/etc/systemd/system/{UNIT}.d/50-check.conf:2)"
    way = "its layer leads into '/data/user', which others than root can write"
    way_hint = "chown root:root, chmod go-w, or remove it"
    few = Difference(_files(1), _files(2), _files(0))
    return [
        messages.restacked(UNIT, LayerChange((SITE, TLS), (TLS,), (SITE,), ()), few, dict.fromkeys(Step, 1)),
        messages.unchanged(UNIT),
        messages.no_process(UNIT),
        messages.superseded(UNIT),
        messages.left_alone(UNIT),
        messages.refused(broken, Step.STAGE),
        messages.refused(failed, Step.CHECKS),
        messages.cut_off(UNIT),
        messages.completed(UNIT),
        messages.reload_failed(UNIT, "exit-code"),
        messages.failed(ConfextError("there is no manager", unit=UNIT)),
        messages.not_started(ConfextError(way, unit=UNIT, path="/data/user/10-a.raw", hint=way_hint)),
        messages.section(UNIT, unknown),
        messages.detach_point_kept(UNIT, "/run/.unit-confext-5f0c1c7a9b1e2d3f"),
        messages.strangers(UNIT, {417: belonging.ANOTHER_ROOT}),
    ]


def test_messages() -> None:
    told = hook_page().words("MESSAGES")
    assert list(told) == list(Id)
    said = every_message()
    assert {message.id for message in said} == set(Id)
    for one in Id:
        # Its name and level come first, and what it says is there to the letter.
        levels = {message.priority.name.lower() for message in said if message.id is one}
        assert len(levels) == 1
        assert told[one].startswith(f"{one.name}, at level {levels.pop()}: ")
        texts = [code for code in codes(told[one]) if code.startswith(f"{UNIT}: ")]
        known = [message.text for message in said if message.id is one]
        assert all(text in known for text in texts)
        assert texts or one is Id.FAILED
    only = {text for definition in told.values() for text in codes(definition) if text.startswith(f"{UNIT}: ")}
    assert {messages.unchanged(UNIT).text, messages.no_process(UNIT).text} < only
    nothing = messages.restacked(UNIT, NO_LAYERS, NO_FILES, {}).text
    assert nothing == f"{UNIT}: /etc re-stacked: no layer changed; no file differs"
    assert {"no layer changed", "no file differs"} < set(codes(told[Id.RESTACKED]))


def test_every_function_for_a_message_is_tried() -> None:
    tried = set(re.findall(r"messages\.(\w+)\(", inspect.getsource(every_message)))
    made = inspect.getmembers(messages, lambda item: inspect.isfunction(item) and item.__module__ == messages.__name__)
    assert tried == {name for name, _ in made if not name.startswith("_")}


def test_fields() -> None:
    many = Difference(_files(FILES_MAX + 1), _files(FILES_MAX + 1), _files(FILES_MAX + 1))
    whole = messages.restacked(UNIT, NO_LAYERS, many, dict.fromkeys(Step, 1))
    told = hook_page().words("FIELDS")
    made: dict[str, set[str]] = {}
    for message in [*every_message(), whole]:
        for field in message.fields:
            made.setdefault(f"{field}=", set()).add(message.id.name)
    assert set(told) == set(made)
    for field, names in made.items():
        assert {told[field].partition(":")[0]} == names, field
    # Nothing else of the hook writes one, and nothing of the command, where the word is one of os-release(5).
    rooms = ("checks", "hook", "service", "stage", "swap", "system", "view")
    text = _all(*(f"helpers/confext_helpers/{room}/*.py" for room in rooms), "units/*")
    assert {f"{word}=" for word in re.findall(r"(?<=[\"@])CONFEXT_[A-Z_]*[A-Z]\b", text)} <= set(told)

    assert f"at most {FILES_MAX} of each kind" in told["CONFEXT_FILES_ADDED="]
    assert len(json.loads(whole.fields["CONFEXT_FILES_ADDED"])) == FILES_MAX
    assert [code for code in codes(told["CONFEXT_STEP="])] == list(Step)
    intro = hook_page().sections["FIELDS"].partition("`CONFEXT_LAYERS=`")[0]
    assert tuple(codes(intro)[:-1]) == Layer._fields


def test_steps_are_told_in_order() -> None:
    assert re.findall(r"^\d\. `(\w+)`: ", hook_page().sections["DESCRIPTION"], re.M) == list(Step)


def test_catalog() -> None:
    """journalctl -x explains each message, by fields that it has."""
    text = (CHECKOUT / "units/unit-confext.catalog").read_text()
    assert re.findall(r"^-- ([0-9a-f]{32})$", text, re.M) == list(Id)
    told = hook_page().words("FIELDS")
    assert {f"{field}=" for field in re.findall(r"@(CONFEXT_\w+)@", text)} <= set(told)
    assert set(re.findall(r"^Documentation: man:(.+)$", text, re.M)) <= THERE


def test_messages_of_the_generator() -> None:
    said: list[str] = []
    complaint = Complaint("refused", "entry-name", b"a.service", b"/x")
    Reporter(emit=said.append).warn(complaint)
    assert said == [f"unit-confext-generator: a.service: /x: {complaint.text}"]
    assert "`unit-confext-generator:`, the unit, the path, what is wrong and what to do" in one_line(
        generator_page().sections["MESSAGES"]
    )
