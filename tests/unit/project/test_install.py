# SPDX-License-Identifier: LGPL-2.1-or-later
"""`make install` and `make uninstall`, into a directory: what is there afterwards, and that it runs from there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[3]
PYCACHE = f".{sys.implementation.cache_tag}.pyc"

# The second word of a compiled file: valid without a look at the source. PEP 552.
UNCHECKED_HASH = (1).to_bytes(4, "little")


def make(*argv: str | Path) -> None:
    """Run make as a packager does; this process's own make, if there is one, has no say."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    command = ["make", "-s", "-C", str(CHECKOUT), *map(str, argv), f"PYTHON={sys.executable}"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def files(root: Path) -> set[str]:
    """Every file below `root`, relative to it."""
    return {str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir()}


def expected() -> set[str]:
    """What is installed, relative to the prefix, but man pages."""
    names = {
        "bin/unit-confext",
        "lib/systemd/catalog/unit-confext.catalog",
        "lib/systemd/system-generators/unit-confext-generator",
        "lib/sysusers.d/unit-confext.conf",
        "lib/unit-confext/cancel-unless-done",
        "lib/unit-confext/restack",
        "lib/unit-confext/restack-if-changed",
        "share/bash-completion/completions/unit-confext",
        "share/doc/unit-confext/LICENSE",
        "share/doc/unit-confext/README.md",
        "share/zsh/vendor-completions/_unit-confext",
    }
    names |= {f"lib/systemd/system/{unit.name.removesuffix('.in')}" for unit in (CHECKOUT / "units").glob("*.in")}
    dropins = (CHECKOUT / "units").glob("*.service.d/*.conf")
    names |= {f"lib/systemd/system/{dropin.parent.name}/{dropin.name}" for dropin in dropins}
    for tree in ("generator", "helpers"):
        for module in (CHECKOUT / tree).rglob("*.py"):
            directory = f"lib/unit-confext/{module.parent.relative_to(CHECKOUT / tree)}"
            names |= {f"{directory}/{module.name}", f"{directory}/__pycache__/{module.stem}{PYCACHE}"}
    return names


def test_destdir(tmp_path: Path) -> None:
    make("install", f"DESTDIR={tmp_path}", "SITEDIR=/one:/two")
    installed = {name for name in files(tmp_path) if not name.startswith("usr/share/man/")}
    assert installed == {f"usr/{name}" for name in expected()}

    for name in installed:
        path = tmp_path / name
        executable = name.startswith(("usr/bin/", "usr/lib/systemd/system-generators/")) or path.name in (
            "restack", "restack-if-changed", "cancel-unless-done",
        )  # fmt: skip
        assert path.stat().st_mode & 0o7777 == (0o755 if executable else 0o644), name
        content = path.read_bytes()
        assert bytes(tmp_path) not in content, name
        assert path.suffix in (".py", ".pyc") or re.search(rb"@[a-z]+@", content) is None, name
        if path.suffix == ".pyc":
            assert content[4:8] == UNCHECKED_HASH, name
    hook = (tmp_path / "usr/lib/unit-confext/restack").read_text()
    assert hook.startswith(f"#!{sys.executable} ")
    assert 'sys.path += ["/one", "/two"]\n' in hook

    make("uninstall", f"DESTDIR={tmp_path}")
    assert list(tmp_path.iterdir()) == []


def test_uninstall_leaves_others_files(tmp_path: Path) -> None:
    other = tmp_path / "usr/lib/systemd/system/other.service"
    other.parent.mkdir(parents=True)
    other.touch()
    make("install", f"DESTDIR={tmp_path}")
    make("uninstall", f"DESTDIR={tmp_path}")
    assert files(tmp_path) == {"usr/lib/systemd/system/other.service"}
    make("uninstall", f"DESTDIR={tmp_path}")


def test_old_modules_go(tmp_path: Path) -> None:
    """An upgrade leaves no module behind that the new version does not have."""
    make("install", f"DESTDIR={tmp_path}")
    before = files(tmp_path)
    package = tmp_path / "usr/lib/unit-confext/confext_helpers"
    (package / "gone.py").touch()
    make("install", f"DESTDIR={tmp_path}")
    assert files(tmp_path) == before


def test_runs_from_a_prefix(tmp_path: Path) -> None:
    prefix = tmp_path / "usr/local"
    made = tmp_path / "made"
    make("install", f"PREFIX={prefix}", f"SYSUSERS=tee {made} <")
    assert made.read_text().splitlines()[-1] == 'u unit-confext - "Stages of unit-confext"'
    done = subprocess.run(
        [prefix / "lib/systemd/system-generators/unit-confext-generator", "--version"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == "unit-confext-generator 0.1.0\n"

    done = subprocess.run([prefix / "bin/unit-confext", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == "unit-confext 0.1.0\n"

    units = tmp_path / "units"
    (units / "foo.service.confext.d").mkdir(parents=True)
    (units / "foo.service").write_text("[Service]\nExecStart=/bin/true\n")
    done = subprocess.run(
        [prefix / "lib/systemd/system-generators/unit-confext-generator", "--dry-run"],
        capture_output=True, text=True, check=True,
        env={"SYSTEMD_UNIT_PATH": str(units), "UNIT_CONFEXT_SYSTEMD_VERSION": "257"},
    )  # fmt: skip
    assert "PropagatesReloadTo=unit-confext-restack@%n.service\n" in done.stdout
    unit = (prefix / "lib/systemd/system/unit-confext-restack@.service").read_text()
    assert f"ExecReload=-{prefix}/lib/unit-confext/restack-if-changed %i\n" in unit
    assert f"ExecReload=/bin/sh -c 'command . {prefix}/lib/unit-confext/cancel-unless-done; " in unit


@pytest.mark.parametrize("variable", ["DESTDIR", "PREFIX"])
def test_spaces_are_refused(variable: str) -> None:
    with pytest.raises(AssertionError, match="with spaces in it does not work"):
        make("install", f"{variable}=/nonexistent/a b")
