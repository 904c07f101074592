# SPDX-License-Identifier: LGPL-2.1-or-later
"""The unit's own extension settings, said anew with versions; systemd has to read back what was meant."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from confext_generator import ownlayers, words
from confext_generator.ownlayers import Inexact
from confext_generator.tree import Tree

UNIT = b"foo@bar.service"
Resolve = Callable[[Tree, bytes, bytes], bytes]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    root = tmp_path_factory.mktemp("root")
    for name in ("own.raw.v/own_1.raw", "own.raw.v/own_2.raw", "bar.raw.v/bar_3.raw"):
        (root / "srv" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "srv" / name).touch()
    (root / "srv/tree.v/tree_1").mkdir(parents=True)
    (root / "srv/empty.v").mkdir()
    return Tree(os.fsencode(root))


IMAGES = {
    b"/srv/a.raw": b"/srv/a.raw",
    b"/srv/own.raw.v": b"/srv/own.raw.v/own_2.raw",
    b"/srv//own.raw.v/": b"/srv/own.raw.v/own_2.raw",
    b"-/srv/own.raw.v:root:ro  /srv/%H/a.raw": b"-/srv/own.raw.v/own_2.raw:root:ro /srv/%H/a.raw",
    b"'/srv/own.raw.v:root:a b'": b"/srv/own.raw.v/own_2.raw:root:a\\x20b",
    b"/srv/%i.raw.v": b"/srv/bar.raw.v/bar_3.raw",
    b"/srv/own.raw.v 'x": b"/srv/own.raw.v/own_2.raw",
    b"-/srv/empty.v /srv/own.raw.v": b"/srv/own.raw.v/own_2.raw",
    b"'x /srv/own.raw.v": b"'x /srv/own.raw.v",
}
DIRECTORIES = {
    b"/srv/a": b"/srv/a",
    b"-+/srv/tree.v": b"-+/srv/tree.v/tree_1",
    b"/srv/tree.v '/srv/a b'": b'/srv/tree.v/tree_1 "/srv/a b"',
    b"-/srv/empty.v": b"",
}


@pytest.mark.parametrize(
    ("resolve", "value", "said"),
    [
        *((ownlayers.resolve_images, *case) for case in IMAGES.items()),
        *((ownlayers.resolve_directories, *case) for case in DIRECTORIES.items()),
    ],
)
def test_newest_version(tree: Tree, resolve: Resolve, value: bytes, said: bytes) -> None:
    assert resolve(tree, UNIT, value) == said


@pytest.mark.parametrize(
    ("unit", "value"),
    [
        (UNIT, b"/srv/%H.raw.v"),
        (UNIT, b"/srv/%H"),
        (UNIT, b"/srv/absent.raw.v"),
        (UNIT, b"/srv/empty.v"),
        (UNIT, b"/srv/own.raw.v /srv/a\\qb"),
        (b"foo@.service", b"/srv/%i.raw.v"),
    ],
)
def test_what_cannot_be_told(tree: Tree, unit: bytes, value: bytes) -> None:
    with pytest.raises(Inexact):
        ownlayers.resolve_images(tree, unit, value)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.text("ab/:% \"'\\", min_size=1), max_size=4))
def test_the_other_words_stay(tree: Tree, others: list[str]) -> None:
    value = " ".join(["/srv/own.raw.v", *others]).encode()
    try:
        said = ownlayers.resolve_images(tree, UNIT, value)
    except Inexact:
        return
    assert _read(said)[1:] == _read(value)[1:]


def _read(value: bytes) -> list[list[bytes]]:
    """As systemd: words, whose parts are split at colons with escapes resolved."""
    found = []
    while value:
        try:
            word, value = words.first_word(value, escapes=False)
        except ValueError:
            break
        parts = [b""]
        while word:
            if word.startswith(b"\\x"):
                parts[-1] += bytes((int(word[2:4], 16),))
                word = word[4:]
            elif word.startswith(b"\\"):
                parts[-1] += word[1:2]
                word = word[2:]
            elif word.startswith(b":"):
                parts.append(b"")
                word = word[1:]
            else:
                parts[-1] += word[:1]
                word = word[1:]
        found.append(parts)
    return found
