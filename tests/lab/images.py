# SPDX-License-Identifier: LGPL-2.1-or-later
"""Confexts to test with, built in a machine by the tools that are installed there."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from enum import StrEnum

from lab.machine import Machine

STORE = "/var/lib/confexts"


class Format(StrEnum):
    """What a confext can be."""

    EROFS = "erofs"
    SQUASHFS = "squashfs"
    GPT = "gpt"
    DIRECTORY = "directory"


def build(
    machine: Machine,
    path: str,
    files: Mapping[str, str],
    format: Format = Format.EROFS,
    *,
    name: str | None = None,
    release: str = "ID=_any\n",
) -> None:
    """Build a confext at `path`, replacing what is there in one rename (a directory: in place of the old one).

    Args:
        machine: where.
        path: absolute path of the result.
        files: content by path relative to `/etc`. A path that ends in `/` is an empty directory; content that
            starts with `-> ` is a symlink.
        format: see Format.
        name: the name in the release file, if it is not the file name without `.raw`.
        release: content of the release file.
    """
    name = name or path.rstrip("/").rpartition("/")[2].removesuffix(".raw")
    tree = f"/tmp/tree-{name}"
    script = [f"rm -rf {tree} && mkdir -p {tree}/etc/extension-release.d {shlex.quote(path.rpartition('/')[0])}"]
    everything = {f"extension-release.d/extension-release.{name}": release, **files}
    for relative, content in everything.items():
        target = shlex.quote(f"{tree}/etc/{relative}")
        if relative.endswith("/"):
            script.append(f"mkdir -p {target}")
            continue
        script.append(f"mkdir -p $(dirname {target})")
        if content.startswith("-> "):
            script.append(f"ln -s {shlex.quote(content[3:])} {target}")
        else:
            script.append(f"printf %s {shlex.quote(content)} >{target}")
    script.append(f"chmod -R u=rwX,go=rX {tree}")
    quoted = shlex.quote(path)
    new = shlex.quote(f"{path.rpartition('/')[0]}/.new-{name}")
    match format:
        case Format.EROFS:
            script.append(f"mkfs.erofs -T0 -Uclear {new} {tree} >/dev/null 2>&1 && mv -T {new} {quoted}")
        case Format.SQUASHFS:
            script.append(f"mksquashfs {tree} {new} -quiet -no-progress -noappend >/dev/null && mv -T {new} {quoted}")
        case Format.GPT:
            definition = f"{tree}.repart"
            script.append(
                f"mkdir -p {definition}; printf '[Partition]\nType=root\nFormat=erofs\nCopyFiles=/etc\nMinimize=best\n'"
                f" >{definition}/root.conf; systemd-repart --definitions={definition} --empty=create --size=auto"
                f" --offline=yes --seed=random -s {tree} {new} >/dev/null 2>&1 && mv -T {new} {quoted}"
            )
        case Format.DIRECTORY:
            script.append(f"rm -rf {quoted} && mv -T {tree} {quoted}")
    machine.sh("\n".join(script))


def pair(version: str) -> dict[str, str]:
    """The two files of which a reader must never see one old and one new, and what the sandboxes hide."""
    return {
        "demo/a": f"{version}\n",
        "demo/b": f"{version}\n",
        "demo/secret": f"secret {version}\n",
        "demo/dir/file": f"file {version}\n",
        "demo/mnt/": "",
        f"demo/only-{version}": "",
    }
