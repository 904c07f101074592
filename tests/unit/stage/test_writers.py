# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who can write the layers of a service, asked when they are used."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from confext_generator.access import Problem
from confext_generator.report import quoted
from confext_helpers.errors import ConfextError
from confext_helpers.service.properties import ServiceProperties
from confext_helpers.stage import writers
from confext_helpers.system.bus import Properties
from unit.fakemanager import FakeManager

UNIT = "foo.service"
WRITABLE = Problem("everybody-writes")


def images(*paths: Path) -> ServiceProperties:
    return ServiceProperties(told(*paths))


def told(*paths: Path) -> Properties:
    return {"ExtensionImages": ("a(sba(ss))", [(str(path), True, []) for path in paths])}


@pytest.fixture
def image(own_path: Path) -> Path:
    (own_path / "store").mkdir(mode=0o755)
    path = own_path / "store/10-a.raw"
    path.touch(0o644)
    return path


def refused(properties: ServiceProperties) -> str:
    with pytest.raises(ConfextError) as caught:
        writers.check(properties)
    assert caught.value.unit == ""
    assert caught.value.hint == "chown root:root, chmod go-w, or remove it"
    return f"{caught.value.problem} ({caught.value.path})"


def test_root_s_own_are_fine(image: Path) -> None:
    writers.check(images(image, image.parent / "missing.raw"))
    writers.check(ServiceProperties({"ExtensionDirectories": ("as", [f"-{image.parent}"])}))


def test_a_file_that_others_can_write(image: Path) -> None:
    image.chmod(0o666)
    assert refused(images(image)) == f"its layer {WRITABLE} ({image})"


@pytest.mark.parametrize("mode", [0o777, 0o1777])
@pytest.mark.parametrize("there", [True, False])
def test_a_directory_that_others_can_write(image: Path, mode: int, there: bool) -> None:
    image.parent.chmod(mode)
    if not there:
        image.unlink()
    problem = Problem("way-others-write", quoted(bytes(image.parent)))
    assert refused(images(image)) == f"its layer {problem} ({image})"


def test_a_link_on_the_way(image: Path, own_path: Path) -> None:
    (own_path / "open").mkdir()
    (own_path / "open").chmod(0o777)
    (own_path / "open/store").symlink_to(image.parent)
    (own_path / "way").symlink_to("open/store")
    path = own_path / "way/10-a.raw"
    problem = Problem("way-others-write", quoted(bytes(own_path / "open")))
    assert refused(images(path)) == f"its layer {problem} ({path})"


def test_the_version_that_is_picked(own_path: Path) -> None:
    versions = own_path / "10-a.raw.v"
    versions.mkdir(mode=0o755)
    for name in ("10-a_1.raw", "10-a_2.raw"):
        (versions / name).touch(0o644)
    writers.check(images(versions))
    (versions / "10-a_1.raw").chmod(0o666)
    writers.check(images(versions))
    (versions / "10-a_2.raw").chmod(0o666)
    assert refused(images(versions)) == f"10-a_2.raw of its layer {WRITABLE} ({versions})"


@pytest.mark.parametrize("suffix", [".verity", ".roothash", ".roothash.p7s", ".usrhash", ".usrhash.p7s"])
def test_files_beside_an_image(image: Path, suffix: str) -> None:
    beside = image.with_name(f"10-a{suffix}")
    beside.touch(0o644)
    writers.check(images(image))
    beside.chmod(0o602)
    assert refused(images(image)) == f"10-a{suffix} of its layer {WRITABLE} ({image})"


def test_a_loop_of_links(own_path: Path) -> None:
    (own_path / "a.raw").symlink_to("a.raw")
    with pytest.raises(ConfextError, match="cannot be checked: too many links"):
        writers.check(images(own_path / "a.raw"))


class Jobs(FakeManager):
    """A manager with jobs."""

    def __init__(self, properties: Properties, jobs: list[set[str]]) -> None:
        super().__init__()
        self.properties = properties
        self.waiting = jobs

    def ordered_after(self, unit: str) -> list[str]:
        return ["srv.mount", "srv.automount", "basic.target"]

    def units_with_jobs(self) -> set[str]:
        return self.waiting.pop(0) if len(self.waiting) > 1 else self.waiting[0]

    def service_properties(self, unit: str) -> Properties:
        assert len(self.waiting) == 1, "the file systems are not there yet"
        return self.properties


def test_file_systems_are_waited_for(image: Path) -> None:
    jobs = [{"srv.mount", UNIT}, {"srv.automount"}, {UNIT, "home.mount", "basic.target"}]
    writers.check_before_start(UNIT, Jobs(told(image), jobs), 60)
    image.chmod(0o666)
    with pytest.raises(ConfextError, match=str(WRITABLE)):
        writers.check_before_start(UNIT, Jobs(told(image), jobs), 60)


def test_not_forever(image: Path) -> None:
    with pytest.raises(ConfextError, match=r"its layers cannot be checked, since srv\.mount is still being mounted"):
        writers.check_before_start(UNIT, Jobs(told(image), [{"srv.mount"}]), 0)


def test_storage_that_does_not_answer(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writers, "_ANSWER_SEC", 0.05)
    monkeypatch.setattr(writers, "check", lambda *_: time.sleep(60))
    with pytest.raises(ConfextError, match="their storage does not answer"):
        writers.check_before_start(UNIT, Jobs(told(image), [set()]), 60)
