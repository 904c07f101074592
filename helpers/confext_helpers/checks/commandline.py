# SPDX-License-Identifier: LGPL-2.1-or-later
"""The grammar of systemd's command lines, systemd.service(5), "Command lines".

A Check= is written as an ExecStartPre= is, and handed to systemd over D-Bus as the ExecStartEx= of the stage. So all
that config_parse_exec() of systemd's load-fragment.c does has to be done here, to the letter: words, quotes and C
escapes, then prefixes and specifiers in what those have become. `$VARIABLES` are left alone, since systemd expands
them when it executes the command.

There is one difference, and it is deliberate. systemd logs a command line that it cannot accept and goes on without
it, or without the rest of the line. A check must not be skipped for a typing error, so here everything that systemd
would log as ignored is an error, as is what D-Bus cannot carry. An escape sequence that nobody knows is none: systemd
takes it as it stands, and `grep "\\d"` counts on that.

The text is gone over twice, since systemd does, and what comes out of the first pass (a prefix written as `\\x2d`, say)
means in the second what it would mean if it stood there. Every character remembers where it came from, so that an error
of either pass has a column.

pyparsing takes longer to import than all the rest of the hook. Import this module where there is something to parse.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn

import pyparsing as pp

from confext_generator import words

SHELL_PREFIX_SYSTEMD = 258  # knows "|", and has forgotten what "!!" meant
STRICT_PATH_SYSTEMD = 261  # takes no "*", "?" or "[" in the path of a command

# The specifiers of systemd.unit(5). One that is none of them is a mistake for sure.
SPECIFIERS = frozenset("aAbBcCdDEfgGhHiIjJlLmMnNopPqrRsStTuUvVwWyY")

_PATH_MAX = 4096
_NAME_MAX = 255
_SHELL = "/bin/sh"


class CommandLineError(Exception):
    """A text that is not what it should be.

    Args:
        problem: what is wrong, without a full stop.
        column: where, the first character being 1.
    """

    def __init__(self, problem: str, column: int) -> None:
        super().__init__(f"column {column}: {problem}")
        self.problem = problem
        self.column = column


@dataclass(frozen=True, slots=True)
class Command:
    """One command, as ExecStartEx= of org.freedesktop.systemd1(5) has it.

    Attributes:
        path: the program: an absolute path, or a file name that systemd looks up when it executes it.
        argv: its arguments, the first one being what it sees as its own name.
        flags: "ignore-failure", "privileged", "no-setuid", "ambient", "no-env-expand" and "via-shell", in this order.
    """

    path: str
    argv: tuple[str, ...]
    flags: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Piece:
    """A part of a word: characters taken as they stand (`step` 1), or what an escape sequence stands for (0)."""

    text: str
    start: int
    step: int


@dataclass(frozen=True, slots=True)
class _Word:
    """A word with its quotes and escapes resolved; bytes above 127 of `\\x` and octal escapes are surrogates."""

    pieces: tuple[_Piece, ...]
    start: int

    @property
    def text(self) -> str:
        return "".join(piece.text for piece in self.pieces)

    def source(self, index: int) -> int:
        """Where the character number `index` of `text` comes from."""
        for piece in self.pieces:
            if index < len(piece.text):
                return piece.start + index * piece.step
            index -= len(piece.text)
        return self.start

    def fail(self, problem: str, index: int | None = None) -> NoReturn:
        raise CommandLineError(problem, (self.start if index is None else self.source(index)) + 1)


# ---- Grammar ----

_HEX = "[0-9A-Fa-f]"
# cunescape_one() of systemd's escape.c. NUL has no place in a C string, and no code point is above 10FFFF; what does
# not fit is no escape sequence at all, and taken as it stands.
_ESCAPE = (
    rf"\\(?:[abfnrtvs\\\"']|x(?!00){_HEX}{{2}}|(?!000)[0-3][0-7]{{2}}"
    rf"|u(?!0000){_HEX}{{4}}|U(?!0{{8}})00(?:0{_HEX}|10){_HEX}{{4}})"
)
_CHARACTERS = dict(zip("abfnrtvs\\\"'", "\a\b\f\n\r\t\v \\\"'", strict=True))


def _verbatim(_: str, start: int, tokens: pp.ParseResults) -> _Piece:
    return _Piece(str(tokens[0]), start, 1)


def _unescaped(_: str, start: int, tokens: pp.ParseResults) -> _Piece:
    sequence = str(tokens[0])
    kind, digits = sequence[1], sequence[2:]
    if kind in _CHARACTERS:
        return _Piece(_CHARACTERS[kind], start, 0)
    if kind in "uU":
        number = int(digits, 16)
        if kind == "U" and not words.is_utf8(chr(number).encode("utf-8", "surrogatepass")):
            return _Piece(sequence, start, 1)
        text = chr(number).encode("utf-8", "surrogatepass")
    else:
        text = bytes([int(digits, 16) if kind == "x" else int(sequence[1:], 8)])
    return _Piece(text.decode("utf-8", "surrogateescape"), start, 0)


def _word(_: str, start: int, tokens: pp.ParseResults) -> _Word:
    return _Word(tuple(tokens), start)


def _unclosed(text: str, start: int, _: pp.ParseResults) -> None:
    raise pp.ParseFatalException(text, start, "a quote is not closed")


def _quoted(*escapes: pp.ParserElement) -> pp.ParserElement:
    """What stands in quotes of either kind, in which `escapes` are what a backslash can begin."""
    parts: list[pp.ParserElement] = []
    for quote in "\"'":
        plain = pp.Regex(rf"[^{quote}\\]+").set_parse_action(_verbatim)
        mark = pp.Literal(quote).suppress()
        parts.append(mark + pp.ZeroOrMore(pp.MatchFirst([plain, *escapes])) + mark)
    unbalanced = pp.Regex("[\"']").set_parse_action(_unclosed)
    return pp.MatchFirst([*parts, unbalanced])


def _command_lines() -> pp.ParserElement:
    """extract_first_word() with EXTRACT_UNQUOTE|EXTRACT_CUNESCAPE, and what config_parse_exec() makes of `;`."""
    space = pp.Regex(r"[ \t\n\r]*").suppress()
    escape = pp.Regex(_ESCAPE).set_parse_action(_unescaped)
    unknown = pp.Regex(r"(?s)\\.").set_parse_action(_verbatim)
    trailing = pp.Regex(r"\\\Z").set_parse_action(_verbatim)
    plain = pp.Regex(r"[^ \t\n\r\"'\\]+").set_parse_action(_verbatim)
    word = pp.OneOrMore(plain | escape | unknown | trailing | _quoted(escape, unknown)).set_parse_action(_word)
    # A word of its own that is not quoted ends a command. Where a command begins quotes make no difference.
    separator = pp.Regex(r";(?=[ \t\n\r]|\Z)").suppress()
    semicolon = pp.Regex(r"\\;(?=[ \t\n\r]|\Z)")
    semicolon.set_parse_action(lambda _, start, __: _Word((_Piece(";", start, 0),), start))
    lone = word.copy().add_condition(lambda tokens: tokens[0].text == ";").suppress()
    arguments = pp.ZeroOrMore(~separator + (semicolon | word) + space)
    command = pp.Group(word + space + arguments) + pp.Optional(separator + space)
    # Tabs are data here, and so is all whitespace but that between words.
    return (space + pp.ZeroOrMore(lone + space | command) + pp.StringEnd()).leave_whitespace().parse_with_tabs()


_COMMAND_LINES = _command_lines()


# ---- Meaning ----


def _expand(word: _Word, specifiers: Mapping[str, str], skip: int = 0) -> str:
    """specifier_printf() of systemd's specifier.c, on the text of `word` without its first `skip` characters."""

    def resolve(match: re.Match[str]) -> str:
        name = match[1]
        if name == "%":
            return "%"
        if not (name.isascii() and name.isalnum()):
            return match[0]
        if name not in specifiers:
            problem = "cannot be used here" if name in SPECIFIERS else "is no specifier, write %% for a percent sign"
            word.fail(f"%{name} {problem}", skip + match.start())
        return specifiers[name]

    return re.sub(r"(?s)%(.?)", resolve, word.text[skip:])


def _finish(word: _Word, text: str) -> str:
    """Make a string for D-Bus of `text`, in which bytes from escape sequences are surrogates."""
    try:
        data = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        data = b"\xff"
    if not words.is_utf8(data) or b"\0" in data:
        word.fail("this is not UTF-8, which D-Bus asks for")
    return data.decode()


def _simplify(path: str) -> str:
    """path_simplify() of systemd's path-util.c, for a valid path."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if not path.startswith("/"):
        return "/".join(parts)
    while parts and parts[0] == "..":
        del parts[0]
    return "/" + "/".join(parts)


def _is_too_long(path: str) -> bool:
    return len(path.encode()) >= _PATH_MAX or any(len(part.encode()) > _NAME_MAX for part in path.split("/"))


def _split_prefixes(text: str, version: int) -> tuple[str, str]:
    """The prefixes of a command and what follows, which is where a character is none, or not for a second time."""
    seen = ""
    for character in text:
        match character:
            case "!":
                fits = "+" not in seen and seen.count("!") < 2
            case "+":
                fits = "+" not in seen and "!" not in seen
            case "|":
                fits = "|" not in seen and version >= SHELL_PREFIX_SYSTEMD
            case _:
                fits = character in "-@:" and character not in seen
        if not fits:
            break
        seen += character
    return seen, text[len(seen) :]


def _flags(prefixes: str, version: int) -> tuple[str, ...]:
    table = (
        ("ignore-failure", "-" in prefixes),
        ("privileged", "+" in prefixes),
        ("no-setuid", prefixes.count("!") == 1),
        ("ambient", prefixes.count("!") == 2 and version < SHELL_PREFIX_SYSTEMD),
        ("no-env-expand", ":" in prefixes),
        ("via-shell", "|" in prefixes),
    )
    return tuple(flag for flag, is_set in table if is_set)


def _program(word: _Word, skip: int, specifiers: Mapping[str, str], version: int) -> str:
    """The path of a command, as it is written; raises CommandLineError where config_parse_exec() accepts none."""
    path = _finish(word, _expand(word, specifiers, skip))
    unsafe = "\"'\\*?[" if version >= STRICT_PATH_SYSTEMD else "\"'\\"
    if not path:
        word.fail("there is no command")
    if any(character < " " or character == "\x7f" or character in unsafe for character in path):
        word.fail("the path of the command has a character that systemd does not allow there")
    if path in (".", "..") or path.endswith(("/", "/.", "/..")):
        word.fail("the path of the command is that of a directory")
    if "/" in path and not path.startswith("/"):
        word.fail("the path of the command is neither absolute nor a file name alone")
    if _is_too_long(path):
        word.fail("the path of the command is too long")
    return path


def _command(first: _Word, rest: list[_Word], specifiers: Mapping[str, str], version: int) -> Command:
    prefixes, remainder = _split_prefixes(first.text, version)
    arguments = [_finish(word, _expand(word, specifiers)) for word in rest]
    if "|" in prefixes:
        # systemd puts the user's shell in place of this one. It resolves no specifiers in the first word.
        argv = ["-sh" if "@" in prefixes else "sh", *([_finish(first, remainder)] if remainder else []), *arguments]
        path = _SHELL
    else:
        path = _program(first, len(prefixes), specifiers, version)
        argv = arguments if "@" in prefixes else [path, *arguments]
        if not argv:
            first.fail('the prefix "@" asks for an argument, which the program sees as its name')
    return Command(_simplify(path), tuple(argv), _flags(prefixes, version))


def parse_commands(text: str, specifiers: Mapping[str, str], *, version: int) -> list[Command]:
    """Parse the value of a setting such as ExecStartPre=.

    Args:
        text: the value, continuation lines joined. An empty one has no commands; that it resets a list is for the
            caller to know.
        specifiers: what each specifier stands for, by its letter. One that is not there is an error.
        version: that of the systemd which is to execute the commands.

    Raises:
        CommandLineError: systemd would not accept it, or not all of it.
    """
    try:
        found = list(_COMMAND_LINES.parse_string(text))
    except pp.ParseBaseException as error:
        raise CommandLineError(error.msg, error.loc + 1) from None
    return [_command(first, rest, specifiers, version) for first, *rest in found]
