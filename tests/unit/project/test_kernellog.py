# SPDX-License-Identifier: LGPL-2.1-or-later
"""The log that a booted system has in place of the kernel's: it says what was written, as the kernel would."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from lab.kernellog import KernelLog, record


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"<28>unit-confext-generator[7]: x", b"28,5,9,-;unit-confext-generator[7]: x\n"),
        # <syslog.h>: LOG_USER where there is no facility, LOG_WARNING where there is nothing.
        (b"<3>x", b"11,5,9,-;x\n"),
        (b"x <3>y", b"12,5,9,-;x <3>y\n"),
        (b"", b"12,5,9,-;\n"),
        ("a\tü\\".encode(), b"12,5,9,-;a\\x09\\xc3\\xbc\\x5c\n"),
    ],
)
def test_record(line: bytes, said: bytes) -> None:
    assert record(line, 5, 9) == said


@pytest.fixture
def log() -> Iterator[KernelLog]:
    log = KernelLog()
    yield log
    log.close()


def test_each_read_is_one_record_and_nothing_is_lost(log: KernelLog) -> None:
    """Also what is there before somebody reads, and more than a terminal keeps for a reader."""
    texts = [f"{number} {'x' * 900}" for number in range(50)]
    fd = os.open(log.path, os.O_RDWR | os.O_NOCTTY)
    try:
        os.write(fd, b"<4>" + b"z" * 2000 + b"\n")  # No kernel takes a record of this length.
        for text in texts:
            os.write(fd, f"<4>{text}\n".encode())
        read = [os.read(fd, 8192) for _ in texts]
        assert [line.partition(b",")[2].partition(b",")[0] for line in read] == [b"%d" % n for n in range(50)]
        assert [line.partition(b";")[2].decode() for line in read] == [f"{text}\n" for text in texts]
    finally:
        os.close(fd)


def test_no_character_has_a_meaning_of_its_own(log: KernelLog) -> None:
    fd = os.open(log.path, os.O_RDWR | os.O_NOCTTY)
    try:
        os.write(fd, bytes(range(1, 10)) + bytes(range(11, 32)) + b"\x7f~\n")
        said = os.read(fd, 8192).partition(b";")[2]
        told = "".join(f"\\x{number:02x}" for number in (*range(1, 10), *range(11, 32), 127))
        assert said == f"{told}~\n".encode()
    finally:
        os.close(fd)
