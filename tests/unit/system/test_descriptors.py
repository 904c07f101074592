# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is opened is closed, or handed to whoever asked for it."""

from __future__ import annotations

import os

import pytest

from confext_helpers.system.descriptors import Descriptors


def is_open(fd: int) -> bool:
    return os.path.exists(f"/proc/self/fd/{fd}")


def test_closed_when_something_fails() -> None:
    with pytest.raises(ValueError, match="wrong"), Descriptors() as opened:
        fds = [opened.add(os.open("/", os.O_PATH)) for _ in range(2)]
        assert all(map(is_open, fds))
        raise ValueError("wrong")
    assert not any(map(is_open, fds))


def test_handed_over() -> None:
    with Descriptors() as opened:
        fd = opened.add(os.open("/", os.O_PATH))
        opened.pop_all()
    assert is_open(fd)
    os.close(fd)
