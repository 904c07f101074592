# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where a file comes from: paths followed within a root directory, and the numbers by which a kernel tells layers."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from confext_helpers.errors import ConfextError
from confext_helpers.service.layers import Layer
from confext_helpers.service.processes import Process
from confext_helpers.service.properties import ServiceProperties
from confext_helpers.system.mountinfo import Mount, parse_mountinfo
from confext_helpers.view import origin
from confext_helpers.view.layerfiles import TreeFiles
from confext_helpers.view.origin import Finder, Kind, Place, walk
from confext_helpers.view.runningstack import Running, RunningStack, Since
from confext_helpers.view.services import View

UNIT = "foo.service"
OVERLAY = Mount(20, 1, "0:99", "/", "/etc", "ro", False, "overlay", "overlay", "lowerdir=/unit-extensions/0/etc:/etc")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root/etc").mkdir(parents=True)
    return tmp_path / "root"


@pytest.fixture
def view(here: View) -> View:
    return here._replace(mounts=[OVERLAY])


# ---- paths ----


@pytest.fixture
def here(root: Path) -> Iterator[View]:
    """A view of `root` with the mounts that it really has."""
    fd = os.open(root, os.O_PATH | os.O_DIRECTORY)
    yield View(Process(1, -1, -1, "1:1"), fd, parse_mountinfo(Path("/proc/self/mountinfo").read_text()))
    os.close(fd)


def test_walk(root: Path, here: View) -> None:
    (root / "etc/dir").mkdir()
    (root / "usr/lib").mkdir(parents=True)
    (root / "etc/dir/file").write_text("inside")
    (root / "usr/lib/file").write_text("usr")
    (root / "etc/absolute").symlink_to("/etc/dir")
    (root / "etc/relative").symlink_to("absolute/../dir/file")
    (root / "etc/up").symlink_to("../../../../usr/lib/file")
    with walk(here, "/etc//absolute/./file", UNIT) as (place, links):
        assert (place.path, origin.read(place)) == ("/etc/dir/file", b"inside")
        assert [(link.path, link.target) for link in links] == [("/etc/absolute", "/etc/dir")]
        assert place.mount is not None
    with walk(here, "/etc/relative", UNIT) as (place, links):
        # ".." is that of where the link leads, as in the kernel.
        assert (place.path, [link.path for link in links]) == ("/etc/dir/file", ["/etc/relative", "/etc/absolute"])
    with walk(here, "/etc/up", UNIT) as (place, _):
        assert (place.path, origin.read(place)) == ("/usr/lib/file", b"usr")
    with walk(here, "/etc", UNIT) as (place, _):
        assert (place.path, stat.S_ISDIR(place.status.st_mode)) == ("/etc", True)


def test_walk_never_leaves_the_root(root: Path, here: View, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("outside")
    (root / "secret").write_text("inside")
    for number, target in enumerate([str(tmp_path / "secret"), "/secret", "../../secret", f"/proc/self/cwd{tmp_path}"]):
        (root / f"etc/link{number}").symlink_to(target)
    with walk(here, "/etc/link1", UNIT) as (place, _):
        assert origin.read(place) == b"inside"
    with walk(here, "/etc/link2", UNIT) as (place, _):
        assert origin.read(place) == b"inside"
    for name in ("link0", "link3"):
        with pytest.raises(ConfextError), walk(here, f"/etc/{name}", UNIT):
            pass


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/etc/gone", "the service has no such file (/etc/gone)"),
        ("/etc/gone/x", "the service has no such file (/etc/gone/x)"),
        ("/etc/file/x", "the service has no such file (/etc/file/x)"),
        ("/etc/dangling", "a link leads to a file that is not there (/etc/dangling)"),
        ("/etc/loop", "the path is a loop of links (/etc/loop)"),
        ("/usr/x", "the path is not one below /etc (/usr/x)"),
        ("etc/x", "the path is not one below /etc (etc/x)"),
        ("/etcetera", "the path is not one below /etc (/etcetera)"),
        ("/etc/../usr", "the path is not one below /etc (/etc/../usr)"),
        ("/etc/\x1b", "the service has no such file (/etc/\\x1b)"),
    ],
)
def test_walk_errors(path: str, message: str, root: Path, here: View) -> None:
    (root / "etc/file").touch()
    (root / "etc/dangling").symlink_to("nowhere")
    (root / "etc/loop").symlink_to("loop")
    with pytest.raises(ConfextError) as caught, walk(here, path, UNIT):
        pass
    assert str(caught.value) == f"{UNIT}: {message}"


def test_walk_closes_what_it_opens(root: Path, here: View) -> None:
    (root / "etc/loop").symlink_to("loop")
    before = os.listdir("/proc/self/fd")
    for path in ("/etc", "/etc/loop", "/etc/gone"):
        try:
            with walk(here, path, UNIT):
                pass
        except ConfextError:
            pass
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_read_of_what_cannot_be_read(root: Path, here: View) -> None:
    os.mkfifo(root / "etc/fifo")
    with walk(here, "/etc/fifo", UNIT) as (place, _):
        with pytest.raises(ConfextError, match="this is not a regular file"):
            origin.read(place)
        hidden = OVERLAY._replace(root="/systemd/inaccessible/reg")
        with pytest.raises(ConfextError, match="InaccessiblePaths= hides it"):
            origin.read(place._replace(mount=hidden))


def test_read_of_what_is_damaged() -> None:
    """/proc/self/mem can be opened, and not read at its beginning."""
    fd = os.open("/proc/self/mem", os.O_PATH)
    with pytest.raises(ConfextError) as caught:
        origin.read(Place("/etc/a", fd, os.fstat(fd), OVERLAY))
    os.close(fd)
    assert str(caught.value) == "it cannot be read: Input/output error (/etc/a)"


# ---- origins ----


def status(device: int, inode: int = 1, mode: int = stat.S_IFREG | 0o644) -> os.stat_result:
    return os.stat_result((mode, inode, device, 1, 0, 0, 4, 0, 0, 0))


class Fake:
    """The files of a layer: inode by path."""

    def __init__(self, **paths: int) -> None:
        self.paths = {f"/etc/{name}": inode for name, inode in paths.items()}

    def has(self, path: str) -> bool:
        return path in self.paths

    def files(self) -> Iterator[str]:
        return iter(self.paths)

    def is_same(self, path: str, status: os.stat_result) -> bool:
        return self.paths.get(path) == status.st_ino

    def content(self, path: str) -> bytes | None:
        return str(self.paths[path]).encode() if path in self.paths else None


IMAGE = Running(Layer("i", "/i.raw", "/i.raw"), True, "i", "/i.raw", 61, False, "/i.raw")
LOW = Running(Layer("l", "/l", "/l"), False, "l", "/l", 59, False, "/l")
HIGH = Running(Layer("h", "/h", "/h"), False, "h", "/h", 59, False, "/h")
GONE = Running(Layer("g"), None, "g", device=70)


def finder(
    root: Path, view: View, *layers: Running, complete: bool = True, properties: ServiceProperties | None = None,
    **files: Fake | None,
) -> Finder:  # fmt: skip
    stack = RunningStack(list(layers), Since(1, True, True), complete)
    given = properties or ServiceProperties({})
    return Finder(view, stack, given, str(root / "host/etc"), lambda layer: files.get(layer.layer.name))


def place(device: int, inode: int = 1, *, path: str = "/etc/a", mount: Mount = OVERLAY) -> Place:
    return Place(path, -1, status(device, inode), mount)


def test_image_is_told_by_its_device(root: Path, view: View) -> None:
    found = finder(root, view, IMAGE, LOW, HIGH, i=Fake(a=5), l=Fake(a=6), h=Fake()).find(place(61))
    assert (found.kind, found.layer, found.evidence) == (Kind.LAYER, IMAGE, "device")
    assert (found.hidden, found.unsure, found.hides_host) == ((), (), False)


def test_directory_is_told_by_the_inode(root: Path, view: View) -> None:
    low, high = Fake(a=6), Fake(a=7)
    found = finder(root, view, IMAGE, LOW, HIGH, i=Fake(a=5), l=low, h=high).find(place(59, 7))
    assert (found.layer, found.evidence, found.hidden) == (HIGH, "inode", (LOW, IMAGE))
    found = finder(root, view, IMAGE, LOW, HIGH, i=Fake(a=5), l=low, h=high).find(place(59, 6))
    assert (found.layer, found.evidence, found.hidden) == (LOW, "inode", (IMAGE,))
    # An image of which it is not known what is in it.
    found = finder(root, view, IMAGE, LOW, i=None, l=low).find(place(59, 6))
    assert (found.layer, found.hidden, found.unsure) == (LOW, (), (IMAGE,))


def test_host(root: Path, view: View) -> None:
    (root / "host/etc").mkdir(parents=True)
    (root / "host/etc/a").write_text("host")
    real = os.stat(root / "host/etc/a")
    at = Place("/etc/a", -1, real, OVERLAY)
    found = finder(root, view, LOW, l=Fake()).find(at)
    assert (found.kind, found.layer, found.evidence) == (Kind.HOST, None, "inode")
    # A device that is none of the layers' is the host's, if all of them are known.
    assert finder(root, view, IMAGE, i=Fake()).find(place(44, 3)).evidence == "device"
    assert finder(root, view, IMAGE, complete=False, i=Fake()).find(place(44, 3)).kind is Kind.UNKNOWN
    found = finder(root, view, IMAGE, i=Fake(a=1)).find(place(61))
    assert (found.kind, found.hides_host) == (Kind.LAYER, True)


def test_layer_that_is_not_loaded_any_more(root: Path, view: View) -> None:
    found = finder(root, view, IMAGE, GONE, i=Fake(a=1)).find(place(70))
    assert (found.kind, found.layer, found.evidence) == (Kind.LAYER, GONE, "device")
    # Its place among the others is not known, but what has the file as well must be below it.
    assert (found.hidden, found.unsure) == ((IMAGE,), ())
    found = finder(root, view, IMAGE, GONE, i=Fake(a=1)).find(place(61))
    assert (found.layer, found.hidden, found.unsure) == (IMAGE, (), (GONE,))


def test_content_is_the_last_resort(root: Path, view: View, here: View) -> None:
    """Where the overlay shows its own device number for everything."""
    (root / "etc/a").write_text("7")
    with walk(here, "/etc/a", UNIT) as (at, _):
        at = at._replace(mount=OVERLAY)
        assert at.status.st_dev == os.stat(root / "etc").st_dev
        found = finder(root, view, IMAGE, HIGH, i=Fake(a=7), h=Fake()).find(at)
        assert (found.layer, found.evidence) == (IMAGE, "content")
        # The topmost layer that has it must be the one.
        assert finder(root, view, IMAGE, HIGH, i=Fake(a=7), h=Fake(a=8)).find(at).kind is Kind.UNKNOWN
        # What is on disk is not what runs.
        changed = IMAGE._replace(changed=True)
        assert finder(root, view, changed, i=Fake(a=7)).find(at).kind is Kind.UNKNOWN
        assert finder(root, view, IMAGE, i=None).find(at).kind is Kind.UNKNOWN


def test_directories_are_merged(root: Path, view: View) -> None:
    at = Place("/etc/d", -1, status(57, mode=stat.S_IFDIR | 0o755), OVERLAY)
    found = finder(root, view, IMAGE, LOW, HIGH, i=Fake(d=1), l=Fake(), h=Fake(d=2)).find(at)
    assert (found.kind, found.hidden, found.evidence) == (Kind.MERGED, (HIGH, IMAGE), "")


def test_mounts_win(root: Path, view: View) -> None:
    properties = ServiceProperties(
        {
            "BindPaths": ("a(ssbt)", [("/srv/x", "/etc/bound", False, 0)]),
            "BindReadOnlyPaths": ("a(ssbt)", [("/srv/x", "/etc/read", False, 0)]),
            "TemporaryFileSystem": ("a(ss)", [("/etc/empty", "")]),
            "ConfigurationDirectory": ("as", ["own"]),
        }
    )

    def setting(point: str, source: str = "/srv/x") -> tuple[Kind, str, tuple[Running, ...]]:
        mount = Mount(30, 20, "0:50", source, point, "ro", False, "ext4", "/dev/x", "")
        at = place(50, path=point, mount=mount)
        found = finder(root, view, IMAGE, properties=properties, i=Fake(bound=1)).find(at)
        return found.kind, found.setting, found.hidden

    assert setting("/etc/bound") == (Kind.MOUNT, "BindPaths=", (IMAGE,))
    assert setting("/etc/read") == (Kind.MOUNT, "BindReadOnlyPaths=", ())
    assert setting("/etc/empty", "/") == (Kind.MOUNT, "TemporaryFileSystem=", ())
    assert setting("/etc/own") == (Kind.MOUNT, "ConfigurationDirectory=", ())
    assert setting("/etc/hidden", "/systemd/inaccessible/dir") == (Kind.MOUNT, "InaccessiblePaths=", ())
    assert setting("/etc/other") == (Kind.MOUNT, "", ())
    assert setting("/usr") == (Kind.HOST, "", ())


def test_bind_mount_of_the_stack_itself(root: Path, view: View) -> None:
    """ReadOnlyPaths= and its like mount a part of the overlay onto itself; BindPaths= may put it elsewhere."""
    again = OVERLAY._replace(id=30, point="/etc/d", root="/d")
    found = finder(root, view, IMAGE, LOW, i=Fake(**{"d/a": 1}), l=Fake()).find(place(61, path="/etc/d/a", mount=again))
    assert (found.kind, found.layer) == (Kind.LAYER, IMAGE)
    moved = OVERLAY._replace(id=30, point="/etc/e", root="/d")
    found = finder(root, view, IMAGE, LOW, i=Fake(**{"d/a": 1}), l=Fake(**{"d/a": 6})).find(
        place(59, 6, path="/etc/e/a", mount=moved)
    )
    assert (found.layer, found.hidden) == (LOW, (IMAGE,))


def test_tree_files(tmp_path: Path) -> None:
    (tmp_path / "etc/dir").mkdir(parents=True)
    (tmp_path / "etc/dir/a").write_text("a")
    (tmp_path / "etc/link").symlink_to("dir")
    (tmp_path / "etc/file").symlink_to("dir/a")
    files = TreeFiles(str(tmp_path))
    assert {path: files.has(path) for path in ("/etc/dir/a", "/etc/link/a", "/etc/link", "/etc/b", "/etc/dir/a/x")} == {
        "/etc/dir/a": True, "/etc/link/a": False, "/etc/link": True, "/etc/b": False, "/etc/dir/a/x": False,
    }  # fmt: skip
    assert files.is_same("/etc/dir/a", os.lstat(tmp_path / "etc/dir/a"))
    assert not files.is_same("/etc/dir/a", os.lstat(tmp_path / "etc/link"))
    assert files.content("/etc/dir/a") == b"a"
    assert files.content("/etc/file") is None
    assert files.content("/etc/link/a") is None
