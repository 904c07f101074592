# SPDX-License-Identifier: LGPL-2.1-or-later
"""Command lines: what they mean, and where and why they are refused.

That this is what systemd makes of them is for tests/real/test_commandline.py to say.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from confext_helpers.checks.commandline import Command, CommandLineError, parse_commands

SPECIFIERS = {"n": "web@a.service", "i": "", "p": "/srv"}


def parse(text: str, version: int = 257) -> list[Command]:
    return parse_commands(text, SPECIFIERS, version=version)


@pytest.mark.parametrize(
    ("text", "argv"),
    [
        ("nginx -t", ["nginx", "-t"]),
        ("/bin/a  b\tc ", ["/bin/a", "b", "c"]),
        ("""a "b c" 'd "e' f"g h"i ''""", ["a", "b c", 'd "e', "fg hi", ""]),
        (r"a \n\t\s\\\"\'\a\b\f\r\v", ["a", "\n\t \\\"'\a\b\f\r\v"]),
        (r"a \x41\101\u00e9\U0001f512\xc3\xa9 'b\x20c'", ["a", "AAé🔒é", "b c"]),
        (r"grep \d \400 \x00 \u12 \U00110000 'a\d'", ["grep", r"\d", r"\400", r"\x00", r"\u12", r"\U00110000", r"a\d"]),
        ("a foo\\ ", ["a", "foo\\ "]),
        ("a b\\", ["a", "b\\"]),
        (r"a \; b\; ;c ';'", ["a", ";", r"b\;", ";c", ";"]),
        ("a %n=%i. %% % 100%", ["a", "web@a.service=.", "%", "%", "100%"]),
        (r"a \x25n", ["a", "web@a.service"]),
        ("%p/bin/a", ["/srv/bin/a"]),
        ("a $B ${C} $$", ["a", "$B", "${C}", "$$"]),
        ("//bin/./a", ["//bin/./a"]),
    ],
)
def test_arguments(text: str, argv: list[str]) -> None:
    (command,) = parse(text)
    assert list(command.argv) == argv
    assert command.flags == ()


@pytest.mark.parametrize(
    ("text", "path"),
    [("//bin/./a", "/bin/a"), ("/../bin/a", "/bin/a"), ("/bin/../a", "/bin/../a"), ("a", "a"), ('"/a b"', "/a b")],
)
def test_path_is_simplified(text: str, path: str) -> None:
    assert [command.path for command in parse(text)] == [path]


@pytest.mark.parametrize(
    ("text", "version", "expected"),
    [
        ("-/a", 257, Command("/a", ("/a",), ("ignore-failure",))),
        ("@/a b c", 257, Command("/a", ("b", "c"), ())),
        (":+/a", 257, Command("/a", ("/a",), ("privileged", "no-env-expand"))),
        ("!/a", 257, Command("/a", ("/a",), ("no-setuid",))),
        ("!-!/a", 257, Command("/a", ("/a",), ("ignore-failure", "ambient"))),
        ("!!/a", 258, Command("/a", ("/a",), ())),
        ("--a", 257, Command("-a", ("-a",), ("ignore-failure",))),
        ("+!a", 257, Command("!a", ("!a",), ("privileged",))),
        ("!!!a", 257, Command("!a", ("!a",), ("ambient",))),
        (r"\x2d/a", 257, Command("/a", ("/a",), ("ignore-failure",))),
        ("|a", 257, Command("|a", ("|a",), ())),
        ("|a b", 258, Command("/bin/sh", ("sh", "a", "b"), ("via-shell",))),
        ('-|@"a %n" %n', 258, Command("/bin/sh", ("-sh", "a %n", "web@a.service"), ("ignore-failure", "via-shell"))),
        ("|", 258, Command("/bin/sh", ("sh",), ("via-shell",))),
        ("[ -e /x ]", 257, Command("[", ("[", "-e", "/x", "]"), ())),
    ],
)
def test_prefixes(text: str, version: int, expected: Command) -> None:
    assert parse(text, version) == [expected]


@pytest.mark.parametrize(
    ("text", "paths"),
    [("", []), (" ; ;", []), ("a ; -b ;", ["a", "b"]), ('";" a', ["a"]), ("a; b", ["a;"]), ("; a ;; b", ["a"])],
)
def test_several_commands(text: str, paths: list[str]) -> None:
    assert [command.path for command in parse(text)] == paths


CHARACTER = "the path of the command has a character that systemd does not allow there"


@pytest.mark.parametrize(
    ("text", "version", "column", "problem"),
    [
        ('a "b', 257, 3, "a quote is not closed"),
        ("a b'c\\'", 257, 4, "a quote is not closed"),
        ("-", 257, 1, "there is no command"),
        ("a ; ''", 257, 5, "there is no command"),
        ("-@:", 257, 1, "there is no command"),
        ("%i", 257, 1, "there is no command"),
        ("a ; -/b/", 257, 5, "the path of the command is that of a directory"),
        ("..", 257, 1, "the path of the command is that of a directory"),
        ("bin/a", 257, 1, "the path of the command is neither absolute nor a file name alone"),
        (r"a\nb", 257, 1, CHARACTER),
        ("'a\"b'", 257, 1, CHARACTER),
        (r"\;", 257, 1, CHARACTER),
        ("[ a ]", 262, 1, CHARACTER),
        ("a" * 256, 257, 1, "the path of the command is too long"),
        ("/a" * 2048, 257, 1, "the path of the command is too long"),
        ("a ; @/b", 257, 5, 'the prefix "@" asks for an argument, which the program sees as its name'),
        ("é %n x%k", 257, 7, "%k is no specifier, write %% for a percent sign"),
        ("a %T", 257, 3, "%T cannot be used here"),
        (r"a 'b\x41'%c", 257, 10, "%c cannot be used here"),
        (r"a b\x25c", 257, 4, "%c cannot be used here"),
        ("-%c", 257, 2, "%c cannot be used here"),
        (r"a \xff", 257, 3, "this is not UTF-8, which D-Bus asks for"),
        (r"a \ud800", 257, 3, "this is not UTF-8, which D-Bus asks for"),
        (r"a \ufffe", 257, 3, "this is not UTF-8, which D-Bus asks for"),
        ("a \0", 257, 3, "this is not UTF-8, which D-Bus asks for"),
        ("a \ud800", 257, 3, "this is not UTF-8, which D-Bus asks for"),
    ],
)
def test_refused_command_lines(text: str, version: int, column: int, problem: str) -> None:
    with pytest.raises(CommandLineError) as raised:
        parse(text, version)
    assert (raised.value.column, raised.value.problem) == (column, problem)
    assert str(raised.value) == f"column {column}: {problem}"


_ODD = st.lists(st.sampled_from(list("a/;:%\\\"' \t-@+!|n.x0u\n\0\ud800é")) | st.characters(), max_size=20).map("".join)


@given(_ODD, st.sampled_from([257, 262]))
def test_anything_is_parsed_or_refused_in_the_text(text: str, version: int) -> None:
    try:
        parse(text, version)
    except CommandLineError as error:
        assert 1 <= error.column <= len(text)


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cn"]), max_size=10), max_size=6))
def test_what_is_quoted_is_data(arguments: list[str]) -> None:
    quoted = [argument.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%") for argument in arguments]
    text = " ".join(["/bin/a", *(f'"{argument}"' for argument in quoted)])
    assert parse(text) == [Command("/bin/a", ("/bin/a", *arguments), ())]
