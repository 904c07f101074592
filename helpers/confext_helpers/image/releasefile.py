# SPDX-License-Identifier: LGPL-2.1-or-later
"""The release file that makes a tree a confext: its name and its fields. extension-release(5).

The confext `NAME.raw` has the release file `/etc/extension-release.d/extension-release.NAME`. Its `ID=` has to be the
system's or `_any`. If `ID=` is not `_any`, `VERSION_ID=` or `CONFEXT_LEVEL=` has to be the system's as well
(extension_release_validate() in systemd's extension-util.c).
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence

from confext_helpers.errors import ConfextError
from confext_helpers.image.naming import image_name, release_names
from confext_helpers.paths import RELEASE_PREFIX, RELEASES
from confext_helpers.system import envfile, regular

_DIRECTORY = RELEASES.lstrip("/")
_SIZE_MAX = 64 * 1024
_FIELD = re.compile(r"[A-Z][A-Z0-9_]*")
_PLAIN = re.compile(r"[A-Za-z0-9_.,:+/@-]+")
_FROM_OS_RELEASE = ("ID", "VERSION_ID", "CONFEXT_LEVEL")


def name_of(output: str, *, image: bool) -> str:
    """The name of the confext at a path.

    Args:
        output: the path of an image, such as `site.raw` or `site_1.2.raw`, or of a directory.
        image: whether the confext is an image.

    Raises:
        ConfextError: systemd (image_name_is_valid()) or the generator would not accept a confext of that name.
    """
    base = os.path.basename(output.rstrip("/"))
    if image != base.endswith(".raw"):
        problem = "an image is called NAME.raw" if image else "a directory is not called NAME.raw"
        raise ConfextError(problem, path=output, hint="choose another name with -o")
    name = base.removesuffix(".raw")
    if image_name(f"{name}.raw") != name:
        problem = "systemd would strip more than .raw from this name"
        raise ConfextError(problem, path=output, hint="choose another name with -o")
    if not name or name.startswith(".") or not name.isprintable() or len(os.fsencode(RELEASE_PREFIX + name)) > 255:
        raise ConfextError("no confext can have this name", path=output, hint="choose another name with -o")
    return name


def path_of(name: str) -> str:
    """The path of the release file in the tree of a confext called `name`."""
    return f"{_DIRECTORY}/{RELEASE_PREFIX}{name}"


def compose(os_release: str | None, fields: Sequence[str]) -> str:
    """Compose the contents of a release file.

    Args:
        os_release: the path of the target system's os-release file; None for any system.
        fields: additional fields as `NAME=VALUE`, which override those of the system.

    Raises:
        ConfextError: a field is malformed, or there would be no ID=.
        OSError: the os-release file cannot be read.
    """
    said = {"ID": "_any"}
    if os_release is not None:
        with open(os_release, encoding="utf-8") as file:
            system = parse(file.read(), os_release)
        said = {name: system[name] for name in _FROM_OS_RELEASE if name in system}
        if "ID" not in said:
            raise ConfextError("no ID= in the os-release file", path=os_release, hint="name another file")
    for field in fields:
        name, equals, value = field.partition("=")
        if not equals or not _FIELD.fullmatch(name) or not value.isprintable():
            raise ConfextError(f"{field!r} is not NAME=VALUE", hint="give fields as in --release=ID=debian")
        said[name] = value
    said = {name: value for name, value in said.items() if value}
    if not said.get("ID"):
        raise ConfextError("a release file without ID= fits no system", hint="give one, or --release=ID=_any")
    return "".join(f"{name}={_quote(value)}\n" for name, value in said.items())


def parse(text: str, path: str) -> Mapping[str, str]:
    """Parse an os-release file, os-release(5).

    Args:
        text: the contents of the file.
        path: its path, for the error message.

    Raises:
        ConfextError: a line is not an assignment.
    """
    found = {}
    try:
        for one in envfile.parse(text):
            if not one.key or not one.plain:
                raise ConfextError(f"line {one.line} is no assignment", path=path, hint="mend it, see os-release(5)")
            found[one.key] = one.value
    except ValueError:
        raise ConfextError("there is a zero byte in it", path=path, hint="mend it, see os-release(5)") from None
    return found


def existing(tree: str, name: str) -> str | None:
    """The path, relative to `tree`, of the release file that `tree` already has; None if there is none.

    Args:
        tree: the directory that contains `etc/`.
        name: the name of the confext.

    Raises:
        ConfextError: the release file is for a confext of another name, or has no ID=.
        OSError: the release file cannot be read.
    """
    try:
        there = sorted(entry for entry in os.listdir(f"{tree}/{_DIRECTORY}") if entry.startswith(RELEASE_PREFIX))
    except FileNotFoundError:
        return None
    accepted = [RELEASE_PREFIX + one for one in release_names(name)]
    for entry in there:
        if entry not in accepted:
            problem = f"the tree has a release file of another name, {os.fsencode(entry).decode(errors='replace')}"
            hint = f"remove it, or build with -o {entry.removeprefix(RELEASE_PREFIX)}.raw"
            raise ConfextError(problem, path=f"{tree}/{_DIRECTORY}/{entry}", hint=hint)
    for entry in accepted:
        if entry in there:
            path = f"{_DIRECTORY}/{entry}"
            content = regular.read(f"{tree}/{path}", _SIZE_MAX).decode(errors="replace")
            if not parse(content, path).get("ID"):
                raise ConfextError("the release file has no ID=", path=path, hint="add one, such as ID=_any")
            return path
    return None


def _quote(value: str) -> str:
    """Quote a value for os-release(5): in double quotes unless it is plain; the shell's special characters escaped."""
    if _PLAIN.fullmatch(value):
        return value
    return '"' + re.sub(r'(["$`\\])', r"\\\1", value) + '"'
