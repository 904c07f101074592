# SPDX-License-Identifier: LGPL-2.1-or-later
"""Reading unit files as systemd's config_parse() does; tests/golden has more, the real systemd has the last word."""

from __future__ import annotations

import pytest

from confext_generator import unitfile


def reload_lines(data: bytes, *, dropin: bool = False, shell_prefix: bool = True) -> list[bytes]:
    assignments = unitfile.parse(data, dropin=dropin, shell_prefix=shell_prefix)
    return [value for key, value in assignments if key == b"ExecReload"]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"[Service]\nExecReload=/a", [b"/a"]),
        (b"[Service]\n  ExecReload = /a b  \n", [b"/a b"]),
        (b"[Service]\nExecReload=/a\r\nExecReload=/b\rExecReload=/c\0ExecReload=/d", [b"/a", b"/b", b"/c", b"/d"]),
        (b"[Service]\nExecReload=/a \\\n\rb\n", [b"/a  b"]),
        (b"[Service]\nExecReload=/a \\\n\n\rb\n", [b"/a"]),
        (b"[Service]\nExecReload=/a \\\n# no\n ; no\n b\n", [b"/a   b"]),
        (b"[Service]\nExecReload=/a \\\n\nExecReload=/b\n", [b"/a", b"/b"]),
        (b"[Service]\nExecReload=/a \\\\\nb\n", [b"/a \\\\"]),
        (b"[Service]\nExecReload=/a \\", [b"/a"]),
        (b"\xef\xbb\xbf[Service]\nExecReload=/a\n", [b"/a"]),
        (b"[Service]\n\xef\xbb\xbfExecReload=/a\n\xef\xbb\xbfExecReload=/b\n", [b"/a"]),
        (b"[Unit]\nExecReload=/a\n[X-Y]\nExecReload=/b\n[Other]\nExecReload=/c\n", []),
        (b"ExecReload=/a\n", []),
        (b"[Service]\nExecReload=\n", [b""]),
        (b"[Service]\n#ExecReload=/a\n;ExecReload=/b\nExecReload\n=/c\n", []),
        (b"[Service]\nExecReload=/a\n[Service\nExecReload=/b\n", [b"/a"]),
        (b"[Service]\nExecReload=/a\n['Service']\nExecReload=/b\n", [b"/a"]),
        (b"[Service]\nExecReload=/a\n[\nExecReload=/b\n", [b"/a"]),
        (b"[Service]\nExecReload=/a\nX=\xff\nExecReload=/b\n", [b"/a"]),
        (b"[Service]\n# \xff\nExecReload=/a\n", [b"/a"]),
        (b"[Service]\n\x0bExecReload=/a\nExecReload=/b \x0b\n", [b"/b \x0b"]),
    ],
)
def test_parse(data: bytes, expected: list[bytes]) -> None:
    assert reload_lines(data) == expected


def test_lines_have_a_limit() -> None:
    head = b"[Service]\nExecReload=/kept\nExecReload=/"
    fits = b"x" * (unitfile.LINE_MAX - len(b"ExecReload=/") - 1)
    assert reload_lines(head + fits + b"\nExecReload=/next\n") == [b"/kept", b"/" + fits, b"/next"]
    assert reload_lines(head + fits + b"x\nExecReload=/next\n") == [b"/kept"]
    assert reload_lines(head + fits[:-9] + b" \\\n" + b"y" * 20 + b"\nExecReload=/next\n") == [b"/kept"]


@pytest.mark.parametrize(
    ("value", "fatal"),
    [
        (b"/bin/true", False),
        (b"true", False),
        (b"relative/path", True),
        (b"-relative/path", False),
        (b"/dir/", True),
        (b"-/dir/", False),
        (b"@/bin/sh", True),
        (b"@/bin/sh sh", False),
        (b"-@/bin/sh", False),
        (b"+-@:/bin/sh x", False),
        (b"++/bin/sh", True),
        (b"!!/bin/sh", False),
        (b"!!!/bin/sh", True),
        (b"+!/bin/sh", True),
        (b"--/bin/sh", False),
        (b"/bin/sh 'x", True),
        (b"-/bin/sh 'x", False),
        (b"'x", False),
        (b"''", True),
        (b";", False),
        (b"; /a/", True),
        (b"/a ; b/c", True),
        (b"/a ; b", False),
        (b"/a;b c", False),
        (b"/a \\; b/c", False),
        (b'"/a b" c', False),
        (b"/a\\\\b", True),
        (b"/a\x01", True),
        (b"|echo x/", False),
        (b"|/dir/", False),
        (b"..", True),
    ],
)
def test_commands_at_which_systemd_stops(value: bytes, fatal: bool) -> None:
    assert unitfile.read_command(value, shell_prefix=True)[1] is fatal


@pytest.mark.parametrize(
    ("value", "taken"),
    [
        (b"/bin/true", True),
        (b"-relative/path", False),
        (b"-/dir/", False),
        (b"-@/bin/sh", False),
        (b"-/bin/sh 'x", False),
        (b"'x", False),
        (b";", False),
        (b"-", False),
        (b"/a ; -b/c", True),
        (b"/a ; b/c", True),
        (b"-b/c ; /a", False),
        (b"/a ; 'x", True),
        (b"|", True),
    ],
)
def test_commands_that_systemd_takes(value: bytes, taken: bool) -> None:
    assert unitfile.read_command(value, shell_prefix=True)[0] is taken


def test_command_lines_without_a_command_are_left_out() -> None:
    data = b"[Service]\nExecReload=-b/c\nExecReload=\nExecReload='x\n"
    assert reload_lines(data) == reload_lines(data, dropin=True) == [b""]
    assert reload_lines(b"[Service]\nExecReload=/a ; b/c\nExecReload=/d\n", dropin=True) == [b"/a ; b/c"]


def test_shell_prefix_is_new() -> None:
    assert unitfile.read_command(b"|/bin/sh", shell_prefix=False) == (False, True)
    data = b"[Service]\nExecReload=|/bin/sh\nExecReload=/a\n"
    assert reload_lines(data, dropin=True, shell_prefix=False) == []
    assert reload_lines(data, dropin=True, shell_prefix=True) == [b"|/bin/sh", b"/a"]


def test_255_takes_commands_that_end_in_dots() -> None:
    for value in (b"/bin/.", b"/bin/.."):
        assert unitfile.read_command(value, shell_prefix=False) == (False, True)
        assert unitfile.read_command(value, shell_prefix=False, dot_paths=True) == (True, False)
    assert unitfile.read_command(b"/bin/", shell_prefix=False, dot_paths=True) == (False, True)
