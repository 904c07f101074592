# SPDX-License-Identifier: LGPL-2.1-or-later
"""The plan of a swap, from what is mounted on `/etc` before and in the stage."""

from __future__ import annotations

import pytest

from confext_helpers.swap.plan import Shape, plan, tree
from confext_helpers.system.mountinfo import Mount, chain, parse_mountinfo

ROOT = "1 0 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw"
OLD = (
    "10 1 0:50 / /etc ro,relatime - overlay overlay "
    "ro,lowerdir=/run/systemd/unit-extensions/0/etc:/run/systemd/mount-rootfs/etc"
)
NEW = OLD.replace("10 1 0:50", "20 1 0:60")
OLD_HIDDEN = "11 10 0:30 /systemd/inaccessible/reg /etc/secret ro - tmpfs tmpfs rw"
NEW_HIDDEN = "21 20 0:30 /systemd/inaccessible/reg /etc/secret ro - tmpfs tmpfs rw"
BASE_HIDDEN = "12 1 0:30 /systemd/inaccessible/reg /etc/secret ro - tmpfs tmpfs rw"
READ_ONLY = "13 1 8:1 /etc /etc ro,relatime - ext4 /dev/sda1 rw"
HOST = "14 1 0:40 / /etc rw,relatime master:9 - overlay volatile rw,lowerdir=/a"
OLD_ON_HOST = OLD.replace("10 1", "10 14")
NEW_ON_HOST = NEW.replace("20 1", "20 14")


def mounts(*lines: str) -> list[Mount]:
    return parse_mountinfo("\n".join([ROOT, *lines]))


@pytest.mark.parametrize(
    ("service", "stage", "shape"),
    [
        pytest.param([], [], Shape.NOTHING, id="no layers before or after"),
        pytest.param([], [NEW], Shape.ON_TOP, id="first layer"),
        pytest.param([OLD], [NEW], Shape.REPLACE, id="other layers"),
        pytest.param([OLD], [], Shape.TAKE_AWAY, id="last layer gone"),
        pytest.param([OLD, OLD_HIDDEN], [NEW, NEW_HIDDEN], Shape.REPLACE, id="with a sandbox"),
        pytest.param([BASE_HIDDEN], [NEW, NEW_HIDDEN], Shape.ON_TOP, id="first layer with a sandbox"),
        pytest.param([BASE_HIDDEN, OLD], [BASE_HIDDEN], Shape.TAKE_AWAY, id="sandbox is below alone"),
        pytest.param([BASE_HIDDEN, OLD, OLD_HIDDEN], [BASE_HIDDEN], Shape.REPLACE, id="sandbox is below too"),
        pytest.param([OLD, OLD_HIDDEN], [BASE_HIDDEN], Shape.REPLACE, id="sandbox would be lost"),
        pytest.param([BASE_HIDDEN, OLD], [], Shape.REPLACE, id="sandbox would come back"),
        pytest.param([READ_ONLY], [NEW], Shape.REPLACE, id="ProtectSystem=full, first layer"),
        pytest.param([OLD], [READ_ONLY], Shape.REPLACE, id="ProtectSystem=full, last layer gone"),
        pytest.param([READ_ONLY], [READ_ONLY], Shape.NOTHING, id="ProtectSystem=full, no layers"),
        pytest.param([HOST], [HOST], Shape.NOTHING, id="the host's own overlay, no layers"),
        pytest.param([HOST], [HOST, NEW_ON_HOST], Shape.ON_TOP, id="the host's own overlay, first layer"),
        pytest.param([HOST, OLD_ON_HOST], [HOST, NEW_ON_HOST], Shape.REPLACE, id="the host's own overlay"),
        pytest.param([HOST, OLD_ON_HOST], [HOST], Shape.TAKE_AWAY, id="the host's own overlay, last layer gone"),
        pytest.param([HOST, OLD_ON_HOST], [NEW], Shape.REPLACE, id="the host's overlay is gone"),
        pytest.param([OLD], [HOST, NEW_ON_HOST], Shape.ON_TOP, id="the host got an overlay"),
        pytest.param([HOST, OLD_ON_HOST], [], Shape.REPLACE, id="never the host's, with the last layer"),
    ],
)
def test_plan(service: list[str], stage: list[str], shape: Shape) -> None:
    assert plan(mounts(*service), mounts(*stage)) is shape


def test_chain_is_bottom_to_top_in_any_order() -> None:
    for lines in ([HOST, OLD_ON_HOST], [OLD_ON_HOST, HOST]):
        assert [mount.id for mount in chain(mounts(*lines))] == [14, 10]
    assert chain(mounts(OLD_HIDDEN)) == []


def test_tree_shows_one_level_alone() -> None:
    everything = mounts(BASE_HIDDEN, OLD, OLD_HIDDEN)
    assert [place for place, *_ in tree(everything, 0)] == ["/etc/secret"]
    assert [place for place, *_ in tree(everything, 1)] == ["/etc", "/etc/secret"]
    assert tree(everything, 0)[0] == ("/etc/secret", "0:30", "/systemd/inaccessible/reg", "ro", "tmpfs")


def test_other_places_do_not_count() -> None:
    other = "15 1 0:70 / /etcetera rw - tmpfs tmpfs rw"
    assert plan(mounts(other), mounts()) is Shape.NOTHING


def test_only_systemd_s_own_overlay_is_one() -> None:
    assert [mount.is_extension_overlay() for mount in mounts(OLD, HOST)] == [False, True, False]


@pytest.mark.parametrize("end", ["\x0b", "\x0c", "\r", "\x1c", "\x85", "\u2028"])
def test_no_other_character_ends_a_line(end: str) -> None:
    line = f"40 1 0:50 / /tmp/a{end}b rw - tmpfs x{end}y rw"
    (mount,) = parse_mountinfo(f"{line}\n")
    assert (mount.point, mount.source) == (f"/tmp/a{end}b", f"x{end}y")


@pytest.mark.parametrize(
    ("escaped", "name"),
    [
        (r"my\040dir", "my dir"),
        (r"a\011b\012c\134d", "a\tb\nc\\d"),
        (r"\134040", r"\040"),
        (r"\134134012", r"\134012"),
        (r"\134\040", "\\ "),
        (r"a\043b\054c", r"a\043b\054c"),
    ],
)
def test_names_are_unescaped_once(escaped: str, name: str) -> None:
    line = f"40 1 0:50 /{escaped} /etc/{escaped} rw - tmpfs {escaped} rw,lowerdir=/{escaped}"
    (mount,) = parse_mountinfo(f"{line}\n")
    assert (mount.root, mount.point, mount.source) == (f"/{name}", f"/etc/{name}", name)
    assert mount.super_options == f"rw,lowerdir=/{name}"
