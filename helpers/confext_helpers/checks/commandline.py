# SPDX-License-Identifier: LGPL-2.1-or-later
"""Parse systemd's command lines: systemd.service(5), "Command lines".

A Check= is written like an ExecStartPre=, and handed to systemd over D-Bus as the ExecStartEx= of the check's unit. So
this module has to do exactly what config_parse_exec() in systemd's load-fragment.c does: first split words and resolve
quotes and C escapes, then take off prefixes and expand specifiers in the result. `$VARIABLES` are left alone, since
systemd expands them when it executes the command.

There is one deliberate difference. systemd logs a command line that it does not accept, and ignores it or the rest of
it. A check must not be skipped because of a typing error, so everything that systemd would ignore is an error here, and
so is what D-Bus cannot carry. An unknown escape sequence is no error: systemd takes it literally, and `grep "\\d"`
relies on that.

There are two passes over the text, as in systemd. What the first pass has unescaped (a prefix written as `\\x2d`, say)
counts in the second pass like a plain character. Every character keeps its position in the text, so that an error in
either pass has a column.

pyparsing takes longer to load than all the rest of the hook. Import this module only if there is something to parse.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn

import pyparsing as pp

from confext_generator import words

SHELL_PREFIX_SYSTEMD = 258  # The first version with "|", and without the special meaning of "!!".
STRICT_PATH_SYSTEMD = 261  # The first version that refuses "*", "?" and "[" in the path of a command.

# The specifiers of systemd.unit(5). Any other letter is a mistake.
SPECIFIERS = frozenset("aAbBcCdDEfgGhHiIjJlLmMnNopPqrRsStTuUvVwWyY")

_PATH_MAX = 4096
_NAME_MAX = 255
_SHELL = "/bin/sh"


class CommandLineError(Exception):
    """A command line that cannot be parsed.

    Args:
        problem: what is wrong, without a full stop.
        column: the column in the text, counted from 1.
    """

    def __init__(self, problem: str, column: int) -> None:
        super().__init__(f"column {column}: {problem}")
        self.problem = problem
        self.column = column


@dataclass(frozen=True, slots=True)
class Command:
    """One command, as in ExecStartEx= of org.freedesktop.systemd1(5).

    Attributes:
        path: the program: an absolute path, or a file name that systemd looks up when it executes the command.
        argv: the arguments; the first one is the name that the program sees as its own.
        flags: "ignore-failure", "privileged", "no-setuid", "ambient", "no-env-expand" and "via-shell", in this order.
    """

    path: str
    argv: tuple[str, ...]
    flags: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Piece:
    """A part of a word: literal characters (`step` 1), or the value of an escape sequence (`step` 0)."""

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
        """The position in the text that the character number `index` of the word comes from."""
        for piece in self.pieces:
            if index < len(piece.text):
                return piece.start + index * piece.step
            index -= len(piece.text)
        return self.start

    def fail(self, problem: str, index: int | None = None) -> NoReturn:
        raise CommandLineError(problem, (self.start if index is None else self.source(index)) + 1)


# ---- Grammar ----

_HEX = "[0-9A-Fa-f]"
# As cunescape_one() in systemd's escape.c. C strings have no NUL, and no code point is above 10FFFF: such an escape
# sequence is none, and taken literally.
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
    """A text in quotes of either kind, in which `escapes` are the sequences that a backslash begins."""
    parts: list[pp.ParserElement] = []
    for quote in "\"'":
        plain = pp.Regex(rf"[^{quote}\\]+").set_parse_action(_verbatim)
        mark = pp.Literal(quote).suppress()
        parts.append(mark + pp.ZeroOrMore(pp.MatchFirst([plain, *escapes])) + mark)
    unbalanced = pp.Regex("[\"']").set_parse_action(_unclosed)
    return pp.MatchFirst([*parts, unbalanced])


def _command_lines() -> pp.ParserElement:
    """As extract_first_word() with EXTRACT_UNQUOTE|EXTRACT_CUNESCAPE, and as config_parse_exec() for `;`."""
    space = pp.Regex(r"[ \t\n\r]*").suppress()
    escape = pp.Regex(_ESCAPE).set_parse_action(_unescaped)
    unknown = pp.Regex(r"(?s)\\.").set_parse_action(_verbatim)
    trailing = pp.Regex(r"\\\Z").set_parse_action(_verbatim)
    plain = pp.Regex(r"[^ \t\n\r\"'\\]+").set_parse_action(_verbatim)
    word = pp.OneOrMore(plain | escape | unknown | trailing | _quoted(escape, unknown)).set_parse_action(_word)
    # An unquoted ";" as a word ends a command. At the beginning of a command, ";" is ignored even in quotes.
    separator = pp.Regex(r";(?=[ \t\n\r]|\Z)").suppress()
    semicolon = pp.Regex(r"\\;(?=[ \t\n\r]|\Z)")
    semicolon.set_parse_action(lambda _, start, __: _Word((_Piece(";", start, 0),), start))
    lone = word.copy().add_condition(lambda tokens: tokens[0].text == ";").suppress()
    arguments = pp.ZeroOrMore(~separator + (semicolon | word) + space)
    command = pp.Group(word + space + arguments) + pp.Optional(separator + space)
    # Keep tabs, and all whitespace that is not between words.
    return (space + pp.ZeroOrMore(lone + space | command) + pp.StringEnd()).leave_whitespace().parse_with_tabs()


_COMMAND_LINES = _command_lines()


# ---- Meaning ----


def _expand(word: _Word, specifiers: Mapping[str, str], skip: int = 0) -> str:
    """Expand the text of `word` after its first `skip` characters, as specifier_printf() in systemd's specifier.c."""

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
    """Turn `text`, in which bytes from escape sequences are surrogates, into a string for D-Bus."""
    try:
        data = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        data = b"\xff"
    if not words.is_utf8(data) or b"\0" in data:
        word.fail("this is not UTF-8, which D-Bus asks for")
    return data.decode()


def _simplify(path: str) -> str:
    """Simplify a valid path as path_simplify() in systemd's path-util.c."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if not path.startswith("/"):
        return "/".join(parts)
    while parts and parts[0] == "..":
        del parts[0]
    return "/" + "/".join(parts)


def _is_too_long(path: str) -> bool:
    return len(path.encode()) >= _PATH_MAX or any(len(part.encode()) > _NAME_MAX for part in path.split("/"))


def _split_prefixes(text: str, version: int) -> tuple[str, str]:
    """Split the prefixes from a command; they end at the first character that is no prefix, or not allowed again."""
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
    """The path of a command, not simplified; raises CommandLineError for one that config_parse_exec() refuses."""
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
        # systemd replaces _SHELL by the user's shell, and expands no specifiers in the first word.
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
        text: the value, with continuation lines joined. An empty value has no commands; the caller has to reset the
            list.
        specifiers: the value of each specifier, by its letter. A specifier without a value is an error.
        version: of the systemd that is to execute the commands.

    Raises:
        CommandLineError: systemd would ignore the text, or a part of it.
    """
    try:
        found = list(_COMMAND_LINES.parse_string(text))
    except pp.ParseBaseException as error:
        raise CommandLineError(error.msg, error.loc + 1) from None
    return [_command(first, rest, specifiers, version) for first, *rest in found]
