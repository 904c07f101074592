# SPDX-License-Identifier: LGPL-2.1-or-later
"""Man pages as the tests read them: markdown with sections, and in these definition lists.

A definition list is a line with terms, code mostly, and then one paragraph that begins with a colon. That is what
go-md2man and pandoc both make a good page of.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from confext_generator import cli

CHECKOUT = Path(__file__).parents[3]
DOCS = CHECKOUT / "docs"


class Page(NamedTuple):
    """A man page.

    Attributes:
        text: all of it, as markdown.
        sections: by heading, without the heading.
    """

    text: str
    sections: dict[str, str]

    def terms(self, section: str) -> dict[str, str]:
        """The terms of a section as they are written, each with its definition in one line."""
        found: list[tuple[str, str]] = re.findall(r"^(\S.*)\n:   ((?:.+\n)+)", self.sections[section] + "\n", re.M)
        assert len({term for term, _ in found}) == len(found), "a term is there twice"
        return {term: one_line(definition) for term, definition in found}

    def words(self, section: str) -> dict[str, str]:
        """The same for terms that are nothing but code, several perhaps in one line."""
        found: dict[str, str] = {}
        for terms, definition in self.terms(section).items():
            assert re.fullmatch(r"`[^`]+`(?:, `[^`]+`)*", terms), terms
            found |= dict.fromkeys(codes(terms), definition)
        return found


def one_line(text: str) -> str:
    return " ".join(text.split())


def codes(text: str) -> list[str]:
    """What is in backticks; a literal backtick is nowhere."""
    return [one_line(code) for code in re.findall(r"`([^`]+)`", text)]


def plain(text: str) -> str:
    """Text as a reader of the page sees it."""
    return re.sub(r"[`*\\]", "", text)


@functools.cache
def page(name: str) -> Page:
    """Read docs/NAME.md."""
    text = (DOCS / f"{name}.md").read_text()
    parts = re.split(r"^# (.+)\n", text, flags=re.M)
    return Page(text, dict(zip(parts[1::2], parts[2::2], strict=True)))


def command_page() -> Page:
    return page("unit-confext.1")


def directory_page() -> Page:
    return page("unit.confext.d.5")


def generator_page() -> Page:
    return page("unit-confext-generator.8")


def hook_page() -> Page:
    return page("unit-confext-restack.8")


class _Recorder(Mapping[str, str]):
    """An empty environment that notes what is asked of it."""

    def __init__(self) -> None:
        self.asked: set[str] = set()

    def __getitem__(self, name: str) -> str:
        self.asked.add(name)
        raise KeyError(name)

    def __iter__(self):  # type: ignore[no-untyped-def]
        raise AssertionError("the whole environment is read")

    def __len__(self) -> int:
        return 0


@functools.cache
def generator_environment() -> frozenset[str]:
    """The variables that the generator reads when there is something to do."""
    recorder = _Recorder()
    root = CHECKOUT / "tests/golden/03-kinds-257/root"
    assert cli.main([f"--root={root}", "--dry-run"], environ=recorder) == 0
    return frozenset(recorder.asked)
