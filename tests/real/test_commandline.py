# SPDX-License-Identifier: LGPL-2.1-or-later
"""Command lines mean what systemd makes of them, and what it does not accept is refused.

The judge is the real systemd. Each text that hypothesis comes up with is written into a unit of its own, once as a
setting of systemd and once as one of ours; then systemd is reloaded once, and says what it has made of all of them.
Our side runs in the machine as well, with the pyparsing that its Debian has.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from lab.machine import Machine

DIRECTORY = "/run/systemd/system"

# Runs in the machine: reads unit names and the systemd version, prints for each unit what systemd and we say.
_SCRIPT = """
import json, sys
sys.path[:0] = ["/run/host/share/helpers", "/run/host/share/generator"]
from jeepney import DBusAddress, MessageType, new_method_call
from jeepney.io.blocking import open_dbus_connection
from confext_helpers.errors import ConfextError
from confext_helpers.checks.section import read_settings, specifiers_for

BUS, MANAGER = "org.freedesktop.systemd1", "org.freedesktop.systemd1.Manager"
connection = open_dbus_connection(bus="SYSTEM")


def call(path, interface, method, signature, *body):
    address = DBusAddress(path, bus_name=BUS, interface=interface)
    reply = connection.send_and_get_reply(new_method_call(address, method, signature, body))
    return None if reply.header.message_type is MessageType.error else reply.body[0]


def get(path, kind, name):
    value = call(path, "org.freedesktop.DBus.Properties", "Get", "ss", f"{BUS}.{kind}", name)
    return value and value[1]


def ours(unit, fragment, version):
    specifiers = specifiers_for(unit, fragment)
    try:
        found = read_settings([fragment], specifiers, version=version)
        return [[[c.path, c.argv, c.flags] for c in found.commands], found.warnings]
    except ConfextError as error:
        return str(error)


version, units = json.load(sys.stdin)
result = {}
for unit in units:
    path = call("/org/freedesktop/systemd1", MANAGER, "LoadUnit", "s", unit)
    fragment = get(path, "Unit", "FragmentPath")
    theirs = get(path, "Service", "ExecStartEx")
    result[unit] = [theirs, ours(unit, fragment, version)]
json.dump(result, sys.stdout)
"""

# What systemd says about a setting that it has accepted.
_ACCEPTED = ("Ignoring unknown escape sequences:", "The !! modifier for ")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a text.

    Attributes:
        theirs: what systemd has loaded, None if D-Bus could not carry it.
        complaints: what systemd logged about it.
        ours: what we made of it, or the error.
    """

    theirs: list[Any] | None
    complaints: tuple[str, ...]
    ours: list[Any] | str


Judge = Callable[[dict[str, str]], dict[str, Verdict]]


@pytest.fixture(scope="module")
def judge(bare_machine: Machine) -> Iterator[Judge]:
    """Makes each of some units, by name and content, and asks what has become of it."""

    def ask(units: dict[str, str]) -> dict[str, Verdict]:
        for unit, content in units.items():
            bare_machine.path(f"{DIRECTORY}/{unit}").write_bytes(content.encode())
        bare_machine.systemctl("daemon-reload")
        given = json.dumps([bare_machine.version, list(units)])
        answers = json.loads(bare_machine.run("python3", "-c", _SCRIPT, input=given).stdout)
        complaints: dict[str, list[str]] = {unit: [] for unit in units}
        fields = ["-o", "json", "--output-fields=MESSAGE,CONFIG_FILE", "--cursor-file=/run/commandline.cursor"]
        for line in bare_machine.journal(*fields, "-p", "warning", "_PID=1").splitlines():
            entry = json.loads(line)
            unit = entry.get("CONFIG_FILE", "").rpartition("/")[2]
            # A message with odd bytes in it is a list of numbers.
            message = entry["MESSAGE"]
            text = message if isinstance(message, str) else bytes(message or []).decode(errors="replace")
            if unit in complaints and not any(accepted in text for accepted in _ACCEPTED):
                complaints[unit].append(text)
        return {
            unit: Verdict(theirs and [entry[:3] for entry in theirs], tuple(complaints[unit]), ours)
            for unit, (theirs, ours) in answers.items()
        }

    bare_machine.path(DIRECTORY).mkdir(parents=True, exist_ok=True)
    yield ask


def gather(strategy: st.SearchStrategy[str], count: int) -> list[str]:
    """Up to `count` different examples.

    Those with a `\\n` are left out, quotes in the middle of it or not: journald loses a complaint that quotes the line
    end which that stands for.
    """
    found: dict[str, None] = {}

    @settings(
        max_examples=count, deadline=None, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(strategy)
    def collect(text: str) -> None:
        if not re.search(r"""\\["']*n""", text):
            found[text] = None

    collect()
    return list(found)


def command_unit(text: str) -> str:
    # The empty lines end what a backslash at the end of the text continues.
    return f"[Service]\nType=oneshot\nExecStart={text}\n\n[X-Confext]\nCheck={text}\n\n"


def compare(verdicts: dict[str, Verdict], texts: dict[str, str], *, at_least: int) -> None:
    """Compare both sides, and see that at least so many texts were accepted, and as many refused."""
    wrong = []
    accepted = refused = 0
    for unit, verdict in verdicts.items():
        if verdict.theirs is None or verdict.complaints:
            refused += 1
            right = isinstance(verdict.ours, str)
        else:
            accepted += 1
            right = verdict.ours == [verdict.theirs, []]
        if not right:
            wrong.append(f"{texts[unit]!r}: {verdict}")
    assert not wrong, "\n".join(wrong)
    assert accepted >= at_least
    assert refused >= at_least


# ---- Command lines ----

_TEXTS = [
    " ", "  ", "\t", "'", '"', "\\", ";", " ; ", "\\;", " \\; ", '";"', " ';' ", "-", "@", ":", "+", "!", "!!", "|",
    "/", "//", "/./", "/../", "..", ".", "/bin/echo", "/usr/bin/true", "echo", "bin/echo", "a", "b c", '"b c"',
    "'b \"c'",
    "%", "%%", "%n", "%i", "%I", "%p", "%k", "% ", "%é", "$A", "${A}", "$$", "\\v", "\\t", "\\s", "\\x41", "\\x2d",
    "\\x20", "\\x25", "\\x3b", "\\x00", "\\xff", "\\xc3\\xa9", "\\xg0", "\\101", "\\400", "\\000", "\\8", "\\u00e9",
    "\\u12", "\\ufffe", "\\U0001f512", "\\U00110000", "\\Ufffffffe", "\\U0000fdd0", "\\d", "\\'", '\\"', "\\\\", "é",
    "\U0001f512", "#", "=", "*", "?", "[", "]", "\x01", "\x7f", " \\\n", "\\\n# no\n", " \\\n; no\n  ", "''", '""', "~",
]  # fmt: skip
_ANY = st.lists(st.sampled_from(_TEXTS) | st.characters(codec="utf-8", exclude_characters="\0\r\n"), max_size=8)
_PREFIXES = st.text("-@:+!|", max_size=4)
_PATHS = st.sampled_from(["/bin/echo", "echo", "/usr//bin/./true", "/../bin/true", '"/bin/a b"', "/bin/%p", "'echo'"])
_WORDS = st.lists(st.sampled_from(_TEXTS), max_size=4).map("".join)
_LIKELY = st.tuples(_PREFIXES, _PATHS, st.lists(_WORDS, max_size=4)).map(lambda t: " ".join([t[0] + t[1], *t[2]]))
_QUOTED = st.lists(st.sampled_from(["echo", '"a b"', "'c;d'", "\\;", ";", "\\x41", "%n", "-e", "'\\''"]), max_size=6)
_LINES = _LIKELY | _ANY.map("".join) | _QUOTED.map(" ".join) | _QUOTED.map(lambda parts: " ".join(["/x", *parts]))

EXAMPLES = [
    "", ";", "; ;", "a ; b ; c", "a; b", "a ;b", "a \\;b", 'a ";" b', '";" a', "a ;", "@/bin/a b c", "@/bin/a", "@",
    "-", "--a", "-@:!a b", "!!a", "!!!a", "!-!a", "+!a", "!+a", "++a", "|a b", "|", "@|", "@| a", "|@-%n %n",
    '|"echo %n" x',
    "-/a/", "-a/b ; c", "/a/..", "/", "..", "/..", "/a/../b", '"-a"', "\\x2da", '"a', "a 'b", "a\\ ", "a \\", '"a\\"',
    "a\\\n  b", "a \\\n# c\n b", "a \\\n; c\n b", "a \"b\"'c'd", "a b\"c d\"e", "%n", "/%n/%p %i%%%", "a %", "a %z",
    "a % b", "a 100%", "a \\x25n", "a %%n", "a \\u00e9\\xc3\\xa9", "a \\xc3", "a \\ufffe", "a \\ufdd0", "a \\x7f\\n",
    "a\\vb", "a*", "[ a ]", "/bin/[ x ]", "a?", "é", "/bin/é", "\\xc3\\xa9", "/" + "a" * 255, "/" + "a" * 256,
    "a" * 256, "/a" * 2047, "/a" * 2048, "a \\U0010ffff", "a \\U0010fffd", "a\tb", "a \x0b b", "a \\N", "a $A ${B} $$",
    "a %s", "a \\377", "a \\0", "a ''", "'' a", "a ; ''", "a ; -'' ; b",
]  # fmt: skip


@pytest.mark.real
def test_command_lines(judge: Judge) -> None:
    lines = dict.fromkeys([*EXAMPLES, *gather(_LINES, 300)])
    # Specifiers that are left out for a reason are refused, whatever systemd makes of them.
    # A backslash that is escaped itself does not continue a line, so that the next one is another setting.
    lines = {line: None for line in lines if "%s" not in line and not re.search(r"(?<!\\)(?:\\\\)+\n", line)}
    texts = {f"command-{number}@i-j.service": line for number, line in enumerate(lines)}
    compare(judge({unit: command_unit(line) for unit, line in texts.items()}), texts, at_least=80)


# ---- Specifiers ----

SPECIFIER_UNITS = [
    "plain.service", "a-b-c.service", "a@b-c.service", r"a\x2db-c\x2dd@e\x20f-g.service", "a.b.service",
    "a@b@c.service",
    "dash-.service", "a@-.service", "a@b--c.service", "a@-b.service", "--.service",
]  # fmt: skip


@pytest.mark.real
def test_specifiers(judge: Judge) -> None:
    """What is resolved is resolved as systemd does."""
    letters = "aAbBCdDEfgGhHiIjJlLmMnNopPqStuUvwWyY%"
    units = {}
    for unit in SPECIFIER_UNITS:
        # In lines of their own, since not every name has a meaning for all of them.
        lines = [f"/bin/echo {letter}=%{letter}" for letter in letters]
        if unit.endswith("-.service") and "@" not in unit:
            # This makes PID 1 of systemd 257 abort: unit_name_unescape() asserts that it is not given NULL.
            lines.remove("/bin/echo J=%J")
        units[unit] = "[Service]\nType=oneshot\n" + "".join(f"ExecStart=-{line}\n" for line in lines)
        units[unit] += "[X-Confext]\n" + "".join(f"Check=-{line}\n" for line in lines if "%f" not in line)
    for unit, verdict in judge(units).items():
        assert isinstance(verdict.ours, list), (unit, verdict.ours)
        assert verdict.theirs is not None
        assert verdict.ours[0] == [entry for entry in verdict.theirs if not entry[1][1].startswith("f=")], unit
        assert verdict.complaints == () or "'f=%f'" in verdict.complaints[0]


@pytest.mark.real
def test_path_specifier(judge: Judge) -> None:
    texts = {f"path-{unit}": "/bin/echo %f" for unit in SPECIFIER_UNITS}
    texts |= {unit: "/bin/echo %f" for unit in SPECIFIER_UNITS}
    compare(judge({unit: command_unit(text) for unit, text in texts.items()}), texts, at_least=3)
