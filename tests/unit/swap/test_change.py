# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which layers a swap changes, from two trees, the last note, and what lies on disk."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from confext_helpers.errors import ConfextError
from confext_helpers.service import fingerprint
from confext_helpers.service.fingerprint import Fingerprint
from confext_helpers.service.layers import Layer
from confext_helpers.service.notes import LastSwap
from confext_helpers.service.processes import Process
from confext_helpers.service.properties import ServiceProperties
from confext_helpers.service.releases import Release
from confext_helpers.swap import change, treediff
from confext_helpers.swap.change import Trees
from confext_helpers.swap.treediff import UnreadableError
from confext_helpers.system.descriptors import Descriptors

UNIT = "a.service"
STARTED_USEC = 1_700_000_000_000_000


class FakeProcess:
    """One of the service."""

    namespace = 1


class World:
    """Two stacks, and the images that they are of.

    Each layer is an image NAME.raw in a store, and an `/etc` has a release file of each, with a device number that is
    made from its name.
    """

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.store = root / "store"
        self.store.mkdir()
        self.etc = {name: root / name for name in ("old", "new", "base")}
        for path in self.etc.values():
            path.mkdir()
        self.stacks: dict[str, list[str]] = {"old": [], "new": []}
        self.opened: list[int] = []
        self._patch = monkeypatch
        monkeypatch.setattr(change, "open_trees", self.open_trees)
        monkeypatch.setattr(change, "_numbers", lambda fd: set(range(len(self.stacks["old" if fd == 1 else "new"]))))
        monkeypatch.setattr(change, "of_etc", self.of_etc)
        monkeypatch.setattr(fingerprint, "last_change_ns", lambda path: 0)

    @contextlib.contextmanager
    def open_trees(self, *arguments: object) -> Iterator[Trees]:
        with Descriptors() as opened:
            self.opened = [opened.add(os.open(self.etc[name], os.O_RDONLY)) for name in ("old", "new", "base")]
            yield Trees(self.opened[0], self.opened[1], self.opened[2])

    def of_etc(self, fd: int) -> list[Release]:
        name = {fd: name for fd, name in zip(self.opened, self.etc, strict=True)}[fd]
        return [Release(one, 1000 + ord(one[0]), (ord(one[0]),)) for one in sorted(self.stacks.get(name, []))]

    def path(self, name: str) -> str:
        return str(self.store / f"{name}.raw")

    def find(
        self, old: list[str], new: list[str], last: LastSwap | None = None, digests: dict[str, str] | None = None
    ) -> change.Change:
        self.stacks = {"old": old, "new": new}
        for name in new:
            Path(self.path(name)).touch()
        properties = ServiceProperties(
            {
                "ExtensionImages": ("a(sba(ss))", [(self.path(name), True, []) for name in new]),
                "ExtensionDirectories": ("as", []),
                "ExecMainStartTimestamp": ("t", STARTED_USEC),
            }
        )
        future = a_fingerprint({self.path(name): (digests or {}).get(name, name) for name in new})
        try:
            return change.find(properties, cast(Process, FakeProcess()), 2, future, last)
        finally:
            for fd in self.opened:
                with pytest.raises(OSError, match="Bad file"):
                    os.fstat(fd)

    def noted(self, *names: str) -> LastSwap:
        layers = [Layer(name, self.path(name), self.path(name)) for name in names]
        return LastSwap(["1:1"], 1, layers, a_fingerprint({self.path(name): name for name in names}), True)


def a_fingerprint(layers: dict[str, str]) -> Fingerprint:
    return Fingerprint(layers, "", "", "", 0, 0)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(tmp_path, monkeypatch)


def names(found: change.Change) -> tuple[list[str], list[str], list[str]]:
    layers = found.layers
    added, replaced, removed = (
        [one.name for one in group] for group in (layers.added, layers.replaced, layers.removed)
    )
    return added, replaced, removed


@pytest.mark.parametrize(
    ("old", "new", "digests", "expected"),
    [
        (["a"], ["a"], {}, ([], [], [])),
        (["a"], ["a", "b"], {}, (["b"], [], [])),
        (["a", "b"], ["b"], {}, ([], [], ["a"])),
        (["a", "b"], ["b", "a"], {}, ([], [], [])),
        (["a", "b"], ["a", "b"], {"b": "other"}, ([], ["b"], [])),
        (["a"], ["b"], {}, (["b"], [], ["a"])),
        ([], ["a"], {}, (["a"], [], [])),
        (["a"], [], {}, ([], [], ["a"])),
        (["a_1"], ["a_2"], {}, ([], ["a"], [])),  # another version of one layer
    ],
)
def test_since_the_last_swap(
    world: World, old: list[str], new: list[str], digests: dict[str, str], expected: tuple[list[str], ...]
) -> None:
    """The note says what was there."""
    last = world.noted(*old)
    last = last._replace(layers=[one._replace(name=one.name.partition("_")[0]) for one in last.layers])
    found = world.find(old, new, last, digests)
    assert names(found) == expected
    assert [one.file for one in found.layers.all] == [world.path(name) for name in new]


@pytest.mark.parametrize(
    ("old", "new", "later", "expected"),
    [
        (["a"], ["a"], [], ([], [], [])),
        (["a"], ["a"], ["a"], ([], ["a"], [])),
        (["a"], ["a", "b"], ["b"], (["b"], [], [])),
        (["a", "b"], ["a"], [], ([], [], ["b"])),
        ([], ["a"], ["a"], (["a"], [], [])),
    ],
)
def test_since_the_start(
    world: World, monkeypatch: pytest.MonkeyPatch, old: list[str], new: list[str], later: list[str],
    expected: tuple[list[str], ...],
) -> None:  # fmt: skip
    """Without a note: what the release files show, and which file came or changed since."""
    times = {world.path(name): (STARTED_USEC + (1 if name in later else -1)) * 1000 for name in new}
    monkeypatch.setattr(fingerprint, "last_change_ns", lambda path: times[path])
    assert names(world.find(old, new)) == expected


def test_what_cannot_be_told_is_neither_added_nor_removed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(change, "told", lambda *arguments: None)
    added, _, removed = names(world.find(["a"], ["b"]))
    assert (added, removed) == ([], [])
    assert world.find(["a"], ["b"]).names == {}


def test_names_of_files_devices(world: World) -> None:
    assert world.find(["a"], ["a", "b"]).names == {1000 + ord("a"): "a", 1000 + ord("b"): "b"}


def test_files_differ(world: World) -> None:
    (world.etc["old"] / "same").write_text("1")
    (world.etc["new"] / "same").write_text("2")
    (world.etc["new"] / "more").touch()
    found = world.find(["a"], ["a"])
    assert (found.files.added.paths, found.files.changed.paths) == (["more"], ["same"])


@pytest.mark.parametrize(
    ("stack", "device", "path", "text"),
    [
        (["a"], 0, "x", "a"),  # one layer only
        (["a", "b"], 1000 + ord("b"), "x", "b"),
        (["a", "b"], 5, "x", ""),  # on neither
        (["a"], 0, "d/" * 300, "a"),
    ],
)
def test_unreadable_file_names_its_layer(
    world: World, monkeypatch: pytest.MonkeyPatch, stack: list[str], device: int, path: str, text: str
) -> None:
    def fail(*arguments: object, **words: object) -> None:
        raise UnreadableError(path, device, OSError(5, "Input/output error"))

    monkeypatch.setattr(treediff, "compare", fail)
    with pytest.raises(ConfextError, match="Input/output error") as caught:
        world.find(stack, stack)
    assert caught.value.path == (world.path(text) if text else "")
    assert len(caught.value.problem) < 350
    assert caught.value.hint == "replace the image and reload again"
