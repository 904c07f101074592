# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the generator says: each message is worded in one test, here or in tests/golden/messages."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from confext_generator import complaints
from confext_generator.complaints import MESSAGES, say
from confext_generator.report import Complaint
from golden.test_golden import CODES

GENERATOR = Path(__file__).parents[3] / "generator/confext_generator"
RELOAD = "repair or unmount that file system, then run systemctl daemon-reload"
SILENT = "'/data' does not answer"
UNIT, PATH = b"foo.service", b"/x"

# What no tree in tests/golden leads to.
OTHERS = {
    "unexpected": (
        Complaint("left-alone", "unexpected", UNIT, b"", "ValueError: a"),
        "foo.service: the unit is left alone, unexpected ValueError: a; please report it, see BUGS in unit-confext(1)",
    ),
    "unit-name": (
        Complaint("left-alone", "unit-name", UNIT, PATH),
        "foo.service: /x: the unit is left alone, its name is too long, or begins with 'unit-confext-'; "
        "rename the unit",
    ),
    "unit-paths": (
        Complaint("left-alone", "unit-paths", UNIT, b""),
        "foo.service: the unit is left alone, one of its paths cannot be written into a unit file; rename it",
    ),
    "went-away": (
        Complaint("left-alone", "went-away", UNIT, PATH, "No such file or directory"),
        "foo.service: /x: the unit is left alone, this went away while the unit was read (No such file or directory); "
        "run systemctl daemon-reload again",
    ),
    "dropin-unwritten": (
        Complaint("noted", "dropin-unwritten", UNIT, PATH, "No such file or directory"),
        "foo.service: /x: cannot be written (No such file or directory)",
    ),
    "dropin-silent": (
        Complaint("noted", "dropin-silent", UNIT, PATH, SILENT),
        f"foo.service: /x: this file of the unit was not read, {SILENT}: systemd itself will block on it; {RELOAD}",
    ),
    "directory-hidden": (Complaint("ignored", "directory-hidden", b"", PATH), "/x: hidden, ignored"),
    "directory-name": (
        Complaint("left-alone", "directory-name", UNIT, PATH),
        "foo.service: /x: the unit is left alone, this path cannot be written into a unit file; rename it",
    ),
    "directory-unreadable": (
        Complaint("left-alone", "directory-unreadable", UNIT, PATH, "Input/output error"),
        "foo.service: /x: the unit is left alone, the directory cannot be read (Input/output error)",
    ),
    "directory-silent": (
        Complaint("noted", "directory-silent", UNIT, PATH, SILENT),
        f"foo.service: /x: its entries cannot be read, {SILENT}: the service will not start or reload; {RELOAD}",
    ),
    "other-owner": (
        Complaint("refused", "other-owner", UNIT, PATH, "4242"),
        "foo.service: /x: refused, belongs to user 4242; chown root:root, chmod go-w",
    ),
    "group-writes": (
        Complaint("refused", "group-writes", UNIT, PATH, "4242"),
        "foo.service: /x: refused, can be written by group 4242; chown root:root, chmod go-w",
    ),
    "acl-writes": (
        Complaint("refused", "acl-writes", UNIT, PATH),
        "foo.service: /x: refused, has an access control list that lets others write it; chown root:root, chmod go-w",
    ),
    "temporary": (Complaint("ignored", "temporary", UNIT, PATH), "foo.service: /x: hidden or temporary, ignored"),
    "entry-unreadable": (
        Complaint("ignored", "entry-unreadable", UNIT, PATH, "Input/output error"),
        "foo.service: /x: ignored, cannot be examined (Input/output error)",
    ),
    "entry-silent": (Complaint("ignored", "entry-silent", UNIT, PATH, SILENT), f"foo.service: /x: ignored, {SILENT}"),
    "target-silent": (
        Complaint("noted", "target-silent", UNIT, PATH, SILENT),
        f"foo.service: /x: its kind is taken from its name, {SILENT}: it is checked when the service starts or is "
        f"reloaded; {RELOAD}",
    ),
}


@pytest.mark.parametrize("code", OTHERS)
def test_message(code: str) -> None:
    complaint, line = OTHERS[code]
    assert complaint.code == code
    assert str(complaint) == line


def test_each_message_is_worded_in_one_test() -> None:
    assert sorted([*OTHERS, *CODES]) == sorted(MESSAGES)


def test_each_code_is_used_and_has_a_message() -> None:
    """The type checker knows the codes as well; this finds those that are left over."""
    used: set[str] = set()
    for path in GENERATOR.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())) if path.name != "complaints.py" else ():
            if isinstance(node, ast.Constant) and node.value in MESSAGES:
                used.add(node.value)
    assert used == set(MESSAGES)


def test_details_are_no_templates() -> None:
    assert "{}{0}%s" in say("other-owner", "{}{0}%s")


def test_nobody_else_words_or_looks_at_them() -> None:
    """A text is made when it is shown: only `text` and str() have it, and nothing in the generator asks for these."""
    for path in GENERATOR.glob("*.py"):
        names = {node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}
        if path.name not in ("report.py", "cli.py"):  # Options have a text, too.
            assert "text" not in names, path.name
    assert set(complaints._LEADS) == {"noted", "ignored", "refused", "left-alone"}
