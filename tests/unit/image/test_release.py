# SPDX-License-Identifier: LGPL-2.1-or-later
"""Release files against a system, as extension_release_validate() has it."""

from __future__ import annotations

from pathlib import Path

import pytest

from confext_helpers.errors import ConfextError
from confext_helpers.image import release
from confext_helpers.image.findings import Code
from confext_helpers.image.naming import image_name
from confext_helpers.image.release import System

DEBIAN = System({"ID": "debian", "VERSION_ID": "13"}, "x86-64", "/etc/os-release")
LIKE = System({"ID": "derived", "ID_LIKE": "ubuntu debian", "VERSION_ID": "13"}, "x86-64", "")
LEVEL = System({"ID": "debian", "VERSION_ID": "13", "CONFEXT_LEVEL": "2"}, "x86-64", "")
ROLLING = System({"ID": "arch"}, "x86-64", "")


@pytest.mark.parametrize(
    ("text", "system", "message"),
    [
        ("ID=_any", DEBIAN, None),
        ("ID=debian\nVERSION_ID=13", DEBIAN, None),
        ("ID=debian\nVERSION_ID=12", DEBIAN, "VERSION_ID=12 is not the VERSION_ID=13 of the system"),
        ("ID=debian", DEBIAN, "VERSION_ID= is not the VERSION_ID=13 of the system"),
        ("ID=fedora\nVERSION_ID=13", DEBIAN, "ID=fedora is not the ID=debian of the system"),
        ("ID=debian\nVERSION_ID=13", LIKE, None),
        ("ID=debian\nVERSION_ID=1", LEVEL, "VERSION_ID=1 is not the VERSION_ID=13 of the system"),
        ("ID=debian\nCONFEXT_LEVEL=2\nVERSION_ID=1", LEVEL, None),
        ("ID=debian\nCONFEXT_LEVEL=3", LEVEL, "CONFEXT_LEVEL=3 is not the CONFEXT_LEVEL=2 of the system"),
        ("ID=debian\nCONFEXT_LEVEL=2", DEBIAN, "VERSION_ID= is not the VERSION_ID=13 of the system"),
        ("ID=arch", ROLLING, None),
        ("ID=arch\nVERSION_ID=7", ROLLING, None),
        ("ID=_any\nARCHITECTURE=x86-64", DEBIAN, None),
        ("ID=_any\nARCHITECTURE=_any", DEBIAN, None),
        ("ID=_any\nARCHITECTURE=arm64", DEBIAN, "ARCHITECTURE=arm64 is not the ARCHITECTURE=x86-64 of the system"),
        ("ID=_any\nARCHITECTURE=arm64", DEBIAN._replace(architecture=""), None),
        ("ID=fedora", None, None),
        ("VERSION_ID=13", None, "the release file has no ID="),
        ("ID=", DEBIAN, "the release file has no ID="),
    ],
)
def test_judgement(text: str, system: System | None, message: str | None) -> None:
    findings = release.judge(release.parse(text.encode(), "file"), system)
    assert [one.message for one in findings] == ([message] if message else [])


@pytest.mark.parametrize(
    "raw",
    [
        b"\xff",
        b"ID=a b",
        b"nonsense",
        b"ID='a",
        b"ID =a",
        b"ID= a",
        b'ID="a\nb"',
        b"ID=a\\\nb",
        b'ID=a"b"',
        b'ID="a" "b"',
        b"ID=a\0",
        b"=a",
    ],
)
def test_malformed(raw: bytes) -> None:
    with pytest.raises(ConfextError):
        release.parse(raw, "file")


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/x/site.raw", "site"), ("site.confext.raw", "site"), ("site_1.2.raw", "site_1.2"), ("site", "site"),
        ("site.img", "site"), ("a.b.raw", "a.b"),
    ],
)  # fmt: skip
def test_image_name(path: str, name: str) -> None:
    assert image_name(path) == name


def test_find() -> None:
    directory = "/etc/extension-release.d/extension-release."
    files = {directory + "site", directory + "site_1.2", "/etc/extension-release.site"}
    assert release.find("site_1.2", files) == directory + "site_1.2"
    assert release.find("site_1.3", files) == directory + "site"
    assert release.find("site+7", files) == directory + "site"
    assert release.find("other", files) is None
    assert release.find("_1", files) is None
    assert release.missing("x", {directory + "b", directory + "a"}) == (
        Code.RELEASE_MISSING, f"there is no {directory}x, there is extension-release.a, extension-release.b",
    )  # fmt: skip
    assert release.missing("x", set()).message == f"there is no {directory}x"


def test_system(tmp_path: Path) -> None:
    path = tmp_path / "os-release"
    path.write_text('ID=debian\nVERSION_ID="13"\n# comment\n')
    assert release.read_system(str(path), "arm64") == System({"ID": "debian", "VERSION_ID": "13"}, "arm64", str(path))
    path.write_text("VERSION_ID=13\n")
    with pytest.raises(ConfextError, match="no ID="):
        release.read_system(str(path), "arm64")
