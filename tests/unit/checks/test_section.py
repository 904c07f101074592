# SPDX-License-Identifier: LGPL-2.1-or-later
"""`[X-Confext]`: which settings are found, what they mean, and how a mistake in them is told."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from confext_generator import unitfile
from confext_helpers.checks import section
from confext_helpers.checks.commandline import Command
from confext_helpers.checks.section import INFINITY_USEC, CheckSettings, parse_timeout, read_settings, specifiers_for
from confext_helpers.errors import ConfextError

HELPERS = Path(section.__file__).parents[2]
GENERATOR = HELPERS.parent / "generator"


def read(directory: Path, *contents: str | bytes) -> CheckSettings:
    """Read files `0.conf`, `1.conf` and so on with these contents."""
    paths = []
    for number, content in enumerate(contents):
        path = directory / f"{number}.conf"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        paths.append(str(path))
    return read_settings(["", *paths, str(directory / "gone")], {"n": "a.service"}, version=257)


def programs(found: CheckSettings) -> list[str]:
    return [" ".join(command.argv) for command in found.commands]


def test_nothing(tmp_path: Path) -> None:
    assert read(tmp_path) == CheckSettings((), 30_000_000, ())
    assert read(tmp_path, "[Service]\nCheck=a\n# [X-Confext]\n") == CheckSettings((), 30_000_000, ())


def test_all(tmp_path: Path) -> None:
    fragment = "[X-Confext]\nCheck=/bin/a -x %n\nCheckTimeoutSec = 1min 20s\n[Service]\nCheck=no\n[X-Confext]\nCheck=-b"
    commands = (Command("/bin/a", ("/bin/a", "-x", "a.service"), ()), Command("b", ("b",), ("ignore-failure",)))
    assert read(tmp_path, fragment) == CheckSettings(commands, 80_000_000, ())


def test_drop_ins_add_and_reset(tmp_path: Path) -> None:
    fragment = "[X-Confext]\nCheck=a\nCheckTimeoutSec=5\n"
    assert programs(read(tmp_path, fragment, "[X-Confext]\nCheck=b\n")) == ["a", "b"]
    found = read(tmp_path, fragment, "[X-Confext]\nCheck=\nCheck=b ; c\nCheckTimeoutSec=\n")
    assert (programs(found), found.timeout_usec) == (["b", "c"], 30_000_000)


def test_broken_check_that_is_reset(tmp_path: Path) -> None:
    assert programs(read(tmp_path, "[X-Confext]\nCheck='\n", "[X-Confext]\nCheck=\nCheck=b\n")) == ["b"]


@pytest.mark.parametrize(
    "content",
    [
        b"[X-Confext]\nCheck=a \\\n# no\n  ; no\n  b\n",
        b"[X-Confext]\r\nCheck=a b\r\n",
        b"[X-Confext]\rCheck=a b\r",
        b"[X-Confext]\n\r\0Check=a b\0",
        b"\xef\xbb\xbf[X-Confext]\nCheck=a b",
        b"  [X-Confext]\t\n\tCheck =  a b \n",
        b"[X-Confext]\nCheck=a b\\",
        b"[X-Confext]\nX-Other=\nCheck=a b\n[Service]\n[broken\n",
        b"[X-Confext]\n#\xff\nCheck=a b\n[Service]\n\xff\nA=b\n",
    ],
)
def test_lines(tmp_path: Path, content: bytes) -> None:
    found = read(tmp_path, content)
    assert (programs(found), found.warnings) == (["a b"], ())


def test_warnings(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        "[X-Confext]\nCheck=a\nChek=b\nX-Mine=c\n[Service]\nFoo=\n",
        "[X-Confext]\n\nCheckTimeoutSec=soon\nCheckTimeoutSec=7\nCheckTimeoutSec=-1\nCheck \\\n a\n=b\na\x01=\n",
    )
    assert found.timeout_usec == 7_000_000
    assert programs(found) == ["a"]
    assert found.warnings == (
        f"the unknown key Chek= in [X-Confext] is ignored ({tmp_path}/0.conf:3)",
        f"CheckTimeoutSec=soon, which is no time span, in [X-Confext] is ignored ({tmp_path}/1.conf:3)",
        f"CheckTimeoutSec=-1, which is no time span, in [X-Confext] is ignored ({tmp_path}/1.conf:5)",
        f'a line that is no "KEY=VALUE" in [X-Confext] is ignored ({tmp_path}/1.conf:6)',
        f'a line that is no "KEY=VALUE" in [X-Confext] is ignored ({tmp_path}/1.conf:8)',
        f"the unknown key 'a\\x01'= in [X-Confext] is ignored ({tmp_path}/1.conf:9)",
    )


@pytest.mark.parametrize(
    ("content", "place", "problem"),
    [
        ("[X-Confext]\nCheck=a\nCheck = 'b\n", "3:9", "Check= cannot be parsed: a quote is not closed"),
        ("[X-Confext]\r\nCheck=é %c\r\n", "2:9", "Check= cannot be parsed: %c cannot be used here"),
        ("[X-Confext]\nCheck=a \\\n# c\n  b %c\n", "4:5", "Check= cannot be parsed: %c cannot be used here"),
        ("[X-Confext]\nCheck=\\\n  a/b\n", "3:3",
         "Check= cannot be parsed: the path of the command is neither absolute nor a file name alone"),
        ("[X-Confext\nCheck=a\n", "1:1", "its checks cannot be read: a section header is broken"),
        ("[Service]\nA=\\\nb\n[x\n[X-Confext]\nCheck=a\n", "4:1",
         "its checks cannot be read: a section header is broken"),
        (b"[X-Confext]\nA=\xff\nCheck=a\n", "2:1", "its checks cannot be read: a line is not UTF-8"),
        ("[X-Confext]\nCheck=" + "a" * (1 << 20), "2:1", "its checks cannot be read: a line is too long"),
    ],
)  # fmt: skip
def test_refusals(tmp_path: Path, content: str | bytes, place: str, problem: str) -> None:
    with pytest.raises(ConfextError) as raised:
        read(tmp_path, content)
    expected = f"{problem} ({tmp_path}/0.conf:{place}); correct it and reload again"
    assert str(raised.value) == expected


def test_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfextError) as raised:
        read_settings([str(tmp_path)], {}, version=257)
    problem = "its checks cannot be read: Is a directory"
    assert str(raised.value) == f"{problem} ({tmp_path})"


@pytest.mark.parametrize(("check", "imported"), [("Check=\nCheckTimeoutSec=1\n", "False"), ("Check=a\n", "True")])
def test_pyparsing_is_imported_for_a_check_alone(tmp_path: Path, check: str, imported: str) -> None:
    file = tmp_path / "a.service"
    file.write_text("[X-Confext]\n" + check)
    code = (
        f"import sys; sys.path[:0] = {[str(HELPERS), str(GENERATOR)]!r}\n"
        "from confext_helpers.checks.section import read_settings\n"
        f"read_settings([{str(file)!r}], {{}}, version=257)\n"
        "print('pyparsing' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == imported


@pytest.mark.parametrize(
    ("text", "usec"),
    [
        ("30", 30_000_000), ("1min 20s", 80_000_000), ("500ms", 500_000), ("infinity", INFINITY_USEC), (".5", 500_000),
        ("1h30", 3_630_000_000), ("1.5min", 90_000_000), ("+5 s", 5_000_000), ("1 2", 3_000_000), ("2M", 5259600000000),
        ("3us 4\u00b5s 5\u03bcs", 12), ("0", INFINITY_USEC), ("1.0000019", 1_000_001), ("1y", 31557600000000),
        ("2weeks1d", 15 * 86400 * 1_000_000), ("12.3 .5", 12_800_000),
    ],
)  # fmt: skip
def test_time_spans(text: str, usec: int) -> None:
    assert parse_timeout(text) == usec


@pytest.mark.parametrize("text", ["", "-1", "- 1", "s", "5.", "5.s", ".", "1.2.3", "5x", "5 x", "infinity s", "9e9",
                                  "99999999999999", "9" * 5000, "1,5", "٣"])  # fmt: skip
def test_no_time_spans(text: str) -> None:
    with pytest.raises(ValueError):
        parse_timeout(text)


def test_architecture(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """%a is what the kernel says, in systemd's words; where systemd has none, it cannot be used."""
    for machine, expected in {"x86_64": "x86-64", "armv5tel": "arm", "mips64": "mips64", "vax": None}.items():
        uname = os.uname_result(("Linux", "host", "6.12", "#1", machine))
        monkeypatch.setattr(os, "uname", lambda uname=uname: uname)
        assert specifiers_for("a.service", "", root=str(tmp_path)).get("a") == expected


@pytest.fixture
def root(tmp_path: Path) -> str:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/machine-id").write_text("0123456789abcdef0123456789abcdef\n")
    (tmp_path / "etc/machine-info").write_text('# PRETTY_HOSTNAME=no\nPRETTY_HOSTNAME="Lab\'s machine"\n')
    release = """ID=debian\nVERSION_ID="13"\nVARIANT_ID='a'\nBUILD_ID=a$b\nIMAGE_ID=a b\n"""
    (tmp_path / "etc/os-release").write_text(release)
    return str(tmp_path)


def test_specifiers_of_names(root: str) -> None:
    found = specifiers_for(r"a-b\x2dc@d-e\x20.service", "", root=root)
    assert {letter: found[letter] for letter in "nNpPiIjJfd"} == {
        "n": r"a-b\x2dc@d-e\x20.service", "N": r"a-b\x2dc@d-e\x20", "p": r"a-b\x2dc", "P": "a/b-c", "i": r"d-e\x20",
        "I": "d/e ", "j": r"b\x2dc", "J": "b-c", "f": "/d/e ", "d": r"/run/credentials/a-b\x2dc@d-e\x20.service",
    }  # fmt: skip
    assert "y" not in found


def test_specifiers_without_a_meaning_are_left_out(root: str) -> None:
    found = specifiers_for(r"a-@-b\q.service", "/nonexistent", root=root)
    assert {"I", "f", "y", "Y", "c", "r", "R", "s", "T", "V"} & found.keys() == set()
    assert found["J"] == ""


def test_specifiers_of_the_host(root: str) -> None:
    found = specifiers_for("a.service", f"{root}/etc/../etc/os-release", root=root)
    assert found["y"] == f"{root}/etc/os-release"
    assert found["Y"] == f"{root}/etc"
    assert {letter: found[letter] for letter in "moqwWAhuUgGtSCLED"} == {
        "m": "0123456789abcdef0123456789abcdef", "o": "debian", "q": "Lab's machine", "w": "13", "W": "a", "A": "",
        "h": "/root", "u": "root", "U": "0", "g": "root", "G": "0", "t": "/run", "S": "/var/lib", "C": "/var/cache",
        "L": "/var/log", "E": "/etc", "D": "/usr/share",
    }  # fmt: skip
    assert (found["B"], found["M"]) == ("a$b", "a b")


def test_deadline_of_the_hook(tmp_path: Path) -> None:
    """The last one that can be read counts, also where the checks cannot be."""
    fragment = tmp_path / "a.service"
    fragment.write_text("[Service]\nTimeoutSec=7\n[X-Confext]\nTimeoutSec=1min 5s\nTimeoutSec=infinity\nCheck='\n")
    assert section.read_hook_timeout([str(fragment), str(tmp_path / "gone")]) == 65_000_000
    dropin = tmp_path / "1.conf"
    dropin.write_text("[X-Confext]\nTimeoutSec=\nTimeoutSec=0\n")
    paths = [str(fragment), str(dropin)]
    assert section.read_hook_timeout(paths) == section.DEFAULT_HOOK_TIMEOUT_USEC
    fragment.write_text("[X-Confext]\nTimeoutSec=2\nTimeoutSec=infinity\n")
    found = section.read_settings([str(fragment)], {}, version=257)
    assert found.hook_timeout_usec == 2_000_000
    assert found.warnings == (
        f"TimeoutSec=infinity, which is no finite time span, in [X-Confext] is ignored ({fragment}:3)",
    )


def test_longest_line(tmp_path: Path) -> None:
    """As long as systemd takes one that is joined from several; one byte more, and it reads no further."""
    first = "X-A=" + "a" * (unitfile.LINE_MAX // 2)
    rest = unitfile.LINE_MAX - len(first) - 1
    assert read(tmp_path, f"[X-Confext]\n{first}\\\n{'b' * rest}\nCheck=a\n").commands
    with pytest.raises(ConfextError, match=r"0\.conf:2:1"):
        read(tmp_path, f"[X-Confext]\n{first}\\\n{'b' * (rest + 1)}\nCheck=a\n")
