# SPDX-License-Identifier: LGPL-2.1-or-later
"""The release file of an image that is built: its name and what it says."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from confext_helpers.errors import ConfextError
from confext_helpers.image import releasefile


@pytest.mark.parametrize(
    ("output", "image", "name"),
    [
        ("site.raw", True, "site"),
        ("/a/site_1.2.raw", True, "site_1.2"),
        ("dir/", False, "dir"),
        ("site", True, None),
        ("site.raw", False, None),
        (".raw", True, None),
        (".site.raw", True, None),
        ("site.confext.raw", True, None),
        ("a\nb.raw", True, None),
        (os.fsdecode(b"\xff.raw"), True, None),
        ("x" * 240 + ".raw", True, None),
    ],
)
def test_names(output: str, image: bool, name: str | None) -> None:
    if name is None:
        with pytest.raises(ConfextError, match="choose another name with -o"):
            releasefile.name_of(output, image=image)
    else:
        assert releasefile.name_of(output, image=image) == name


def test_release_fields(tmp_path: Path) -> None:
    system = tmp_path / "os-release"
    system.write_text('# comment\nPRETTY_NAME="Debian 13"\nID=debian\n\nVERSION_ID="13"\n')
    assert releasefile.compose(None, []) == "ID=_any\n"
    assert releasefile.compose(str(system), []) == "ID=debian\nVERSION_ID=13\n"
    assert releasefile.compose(str(system), ["VERSION_ID=", "CONFEXT_LEVEL=2"]) == "ID=debian\nCONFEXT_LEVEL=2\n"
    with pytest.raises(ConfextError, match="without ID= fits no system"):
        releasefile.compose(None, ["ID="])
    for field in ("id=x", "ID", "ID=a\nB=c"):
        with pytest.raises(ConfextError, match="is not NAME=VALUE"):
            releasefile.compose(None, [field])
    system.write_text("VERSION_ID=13\n")
    with pytest.raises(ConfextError, match="no ID= in the os-release file"):
        releasefile.compose(str(system), [])
    system.write_text("ID='debian\n")
    with pytest.raises(ConfextError, match="line 1 is no assignment"):
        releasefile.compose(str(system), [])


@pytest.mark.parametrize("value", ["13", "a b", 'say "x"', "$HOME `id`", "back\\slash", "it's", "\\$", "", "#", "ü"])
def test_values_survive(value: str) -> None:
    """What is written is read as the same."""
    found = releasefile.parse(releasefile.compose(None, [f"NAME={value}"]), "")
    assert found == {"ID": "_any"} | ({"NAME": value} if value else {})
