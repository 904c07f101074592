# SPDX-License-Identifier: LGPL-2.1-or-later
"""Names are data: what a file or a link is called ends up as exactly that path, or is refused with a message.

The judge is the real systemd: it is asked what it has loaded.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from confext_generator.report import Complaint
from lab import images, loaded, services
from lab.machine import Machine

UNIT = "names.service"
# Not in /etc, where a directory cannot be a layer, whatever its name is.
DIRECTORY = f"/run/systemd/system/{UNIT}.confext.d"
Judge = Callable[[list["Entry"]], int]
STORE = b"/var/lib/names/"
GENERATOR = "/usr/lib/systemd/system-generators/unit-confext-generator"

# What the drop-in may change in a unit with a reload of its own, and what follows from that. All else has to stay as
# it was, but for what the machine itself makes of it at any moment.
MAY_CHANGE = {
    "After", "DropInPaths", "ExtensionDirectories", "ExtensionImages", "NeedDaemonReload", "PrivateMounts",
    "ConsistsOf", "PropagatesReloadTo", "RefreshOnReload", "RequiresMountsFor", "SourcePath", "Upholds", "Wants",
    "CanLiveMount", "Requires", "EffectiveMemoryHigh", "EffectiveMemoryMax", "MemoryAvailable",
}  # fmt: skip

# What unit.confext.d(5) says is passed over without a warning.
IGNORED = re.compile(
    rb"\.|.*(~|\.tmp|\.part|\.swp|\.bak|\.dpkg-[^.]*|\.rpm[^.]*|\.verity|\.(root|usr)hash(\.p7s)?)\Z", re.DOTALL
)


class Kind(StrEnum):
    """What is put into the directory."""

    IMAGE = "image"
    DIRECTORY = "directory"
    IMAGE_LINK = "link to an image"
    DIRECTORY_LINK = "link to a directory"


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry: a name with odd bytes around a number that tells it from all others, and in messages too."""

    kind: Kind
    head: bytes
    number: int
    tail: bytes

    @property
    def tag(self) -> bytes:
        return b"i%di" % self.number

    @property
    def name(self) -> bytes:
        suffix = b".raw" if self.kind in (Kind.IMAGE, Kind.IMAGE_LINK) else b""
        return self.head + self.tag + self.tail + suffix

    @property
    def is_image(self) -> bool:
        return self.kind in (Kind.IMAGE, Kind.IMAGE_LINK)

    @property
    def is_link(self) -> bool:
        return self.kind in (Kind.IMAGE_LINK, Kind.DIRECTORY_LINK)

    @property
    def path(self) -> bytes:
        """The path that systemd has to be given."""
        return (STORE + self.name + b"/" if self.is_link else DIRECTORY.encode() + b"/") + self.name

    @property
    def is_harmless(self) -> bool:
        """Whether nothing is wrong with it, so that it must not be refused."""
        try:
            return self.name.decode().isprintable()
        except UnicodeDecodeError:
            return False


def make(machine: Machine, entries: Iterable[Entry]) -> None:
    """Make `entries` all that the unit's directory holds."""
    machine.sh(f"rm -rf {DIRECTORY}; mkdir -p {DIRECTORY}")
    directory = os.fsencode(machine.path(DIRECTORY))
    for entry in entries:
        path = directory + b"/" + entry.name
        match entry.kind:
            case Kind.IMAGE:
                os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
            case Kind.DIRECTORY:
                os.mkdir(path)
            case _:
                os.symlink(entry.path, path)


def messages(machine: Machine) -> list[str]:
    """What the generator has to say, in full; of the kernel log the kernel drops what comes too fast."""
    return machine.run(GENERATOR, "--dry-run").stderr.splitlines()


def loaded_layers(properties: loaded.Properties) -> tuple[list[bytes], list[bytes]]:
    """The images and directories of a unit. Each of them may be missing, so each says so, or this fails."""
    found = []
    for path, ignore_missing, options in properties["ExtensionImages"]:
        assert (ignore_missing, options) == (True, []), path
        found.append(os.fsencode(path))
    directories = [os.fsencode(path) for path in properties["ExtensionDirectories"]]
    assert all(path.startswith(b"-") for path in directories)
    return found, [path[1:] for path in directories]


def check(machine: Machine, before: loaded.Properties, entries: list[Entry]) -> int:
    """Let systemd judge `entries`; return how many it has loaded."""
    make(machine, entries)
    machine.systemctl("daemon-reload")
    after = loaded.properties(machine, [UNIT])[UNIT]
    unexpected = {name: after[name] for name, value in before.items() if after[name] != value}
    assert unexpected.keys() - MAY_CHANGE == set(), unexpected
    needed = set(after["Requires"]) - set(before["Requires"]) - {f"unit-confext-access@{UNIT}.service"}
    assert all(unit.endswith(".mount") for unit in needed)
    found_images, found_directories = loaded_layers(after)
    said = messages(machine)
    expected_images: set[bytes] = set()
    expected_directories: set[bytes] = set()
    mounts: set[bytes] = set()
    for entry in entries:
        path = entry.path
        if path in (found_images if entry.is_image else found_directories):
            assert not IGNORED.match(entry.name), entry
            (expected_images if entry.is_image else expected_directories).add(path)
            if entry.is_link:
                mounts.add(path.rpartition(b"/")[0] if entry.is_image else path)
            continue
        if IGNORED.match(entry.name):
            continue
        tag = entry.tag.decode()
        assert [line for line in said if tag in line and f": {UNIT}: {DIRECTORY}/" in line], (entry, "is lost")
        assert not entry.is_harmless, (entry, "is refused")
    assert sorted(found_images) == sorted(expected_images)
    assert sorted(found_directories) == sorted(expected_directories)
    assert mounts <= {os.fsencode(path) for path in after["RequiresMountsFor"]}
    return len(found_images) + len(found_directories)


@pytest.fixture(scope="module")
def judge(machine: Machine) -> Judge:
    """Gives entries to systemd, which knows the unit without any now; see check()."""
    machine.write(f"/etc/systemd/system/{UNIT}", "[Service]\nExecStart=/usr/bin/true\nExecReload=/usr/bin/true %n\n")
    machine.systemctl("daemon-reload")
    before = loaded.properties(machine, [UNIT])[UNIT]
    return lambda entries: check(machine, before, entries)


@pytest.mark.real
@pytest.mark.parametrize("kind", list(Kind))
def test_every_byte_at_every_place(judge: Judge, kind: Kind) -> None:
    entries: list[Entry] = []
    for value in set(range(1, 256)) - {ord("/")}:
        byte = bytes([value])
        for head, tail in ((byte + b"a", b""), (b"a" + byte, b"b"), (b"a", b"b" + byte)):
            entries.append(Entry(kind, head, len(entries), tail))
    # The printable ASCII characters but the slash, with the dot at the start and the tilde at the end left out.
    images_only = kind in (Kind.IMAGE, Kind.IMAGE_LINK)
    assert judge(entries) == 3 * 94 - (1 if images_only else 2)


_TEXTS = [
    " ", "'", '"', "\\", "%", "%n", "%%", ":", ":ro", "-", "+", "$", "${A}", "$(rm -rf)", "`reboot`", ";", "#", "=",
    "~", "\t", "\r", "\n", "\nExecStart=/bin/false\n", "\n[Service]\nUser=nobody\n#", "\\n", "\\x0a", "\\x2d",
    "\\\n", "\\s", "é", "\u00a0", "\u0085", "\u2028", "\ufeff", "\ufdd0", "\U0001f512", " ; ", "||", "&", "*", "?",
    "[x]", ".raw", ".v", ".", "..",
]  # fmt: skip
_PIECES = st.sampled_from([text.encode() for text in _TEXTS]) | st.integers(1, 255).map(lambda value: bytes([value]))
_BYTES = st.lists(_PIECES, max_size=5).map(b"".join).filter(lambda data: b"/" not in data)


@pytest.mark.real
@settings(
    max_examples=8,
    deadline=None,
    database=None,
    # Making an example smaller takes a daemon-reload for each try, and the message names the entry anyhow.
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(parts=st.lists(st.tuples(st.sampled_from(Kind), _BYTES, _BYTES), min_size=60, max_size=200))
def test_any_name(judge: Judge, parts: list[tuple[Kind, bytes, bytes]]) -> None:
    entries = [
        Entry(kind, head, number, tail)
        for number, (kind, head, tail) in enumerate(parts)
        if not tail.endswith((b".raw", b".v"))
    ]
    assert judge(entries) > 0


INJECTIONS = [
    b"$(rm -rf)", b"a\nExecStart=false\n", b"a.raw\n[Service]\nUser=nobody\n#", b"a\r\nExecStart=\r\n",
    b"a\\\nExecReload=", b"a ExecReload=+false", b"a:ro", b"a:nosuid", b'a"', b"a'", b"a\\", b"%%n", b"%n", b"%h%i%c%",
    b"-a", b"--", b"; false", b" a ", b"\xff\xfe", b"\xc0\xaf", b"\xed\xa0\x80", b"\x1b[31m", b"\\x0aExecStart=",
    "a\u2028ExecStart=".encode(), "a\u0085ExecStart=".encode(), b"x" * 240,
]  # fmt: skip


@pytest.mark.real
def test_injections(judge: Judge) -> None:
    entries = [
        Entry(kind, text, number * len(Kind) + offset, b"")
        for number, text in enumerate(INJECTIONS)
        for offset, kind in enumerate(Kind)
    ]
    harmless = sum(entry.is_harmless for entry in entries)
    assert harmless > len(entries) / 2
    assert judge(entries) >= harmless


@pytest.mark.real
def test_refusal_is_in_the_journal(machine: Machine, judge: Judge) -> None:
    entry = Entry(Kind.IMAGE, b"\n\x1b[31mJournal: ", 7777777, b"")
    assert judge([entry]) == 0
    said = [line for line in machine.journal("-t", "unit-confext-generator").splitlines() if "i7777777i" in line]
    path = f"{DIRECTORY}/\\n\\x1b[31mJournal: i7777777i.raw"
    assert set(said) == {f"{UNIT}: {path}: {Complaint('refused', 'entry-name', b'', b'').text}"}


ODD_UNITS = [
    r"odd-\x2dx\x2d.service", r"odd-dev-disk-by\x2dlabel-a\x20b.service", "odd:colon.service", "odd.dots..service",
    "odd-_under__score.service", "-odd.service", "odd---dashes.service", "odd.service.service", r"odd\\.service",
    "odd-plain@a.service", "odd-plain@a@b.service", r"odd-plain@dev-\x2dx.service", "odd-plain@.a-b:c_d.service",
    "odd-plain@unit-confext-restack@a.service.service", f"odd-{'l' * 200}.service", "odd.socket.service",
]  # fmt: skip


@pytest.mark.real
def test_odd_units_are_restacked(machine: Machine) -> None:
    services.prepare(machine)
    units = [unit.replace("\\\\", "\\") for unit in ODD_UNITS]
    image = "/var/lib/confexts/odd.raw"
    images.build(machine, image, images.pair("v1"))
    for unit in units:
        prefix, at, _ = unit.partition("@")
        machine.write(f"/etc/systemd/system/{prefix}@.service" if at else f"/etc/systemd/system/{unit}",
                      services.fragment("", "--idle"))  # fmt: skip
        machine.path(f"/etc/systemd/system/{unit}.confext.d").mkdir()
        machine.path(f"/etc/systemd/system/{unit}.confext.d/10-odd.raw").symlink_to(image)
    machine.systemctl("daemon-reload")
    machine.systemctl("start", "--", *units)
    images.build(machine, image, images.pair("v2"))
    reloaded = machine.systemctl("reload", "--", *units)
    assert reloaded.stderr == ""
    for unit, after in loaded.properties(machine, units).items():
        assert [path for path, _, _ in after["ExtensionImages"]] == [image], unit
        restack = f"unit-confext-restack@{unit}.service"
        for name in ("After", "Upholds", "PropagatesReloadTo"):
            assert restack in after[name], (unit, name)
        assert "/demo/only-v2" in services.view(machine, unit).files, unit
    machine.systemctl("stop", "--", *units)
