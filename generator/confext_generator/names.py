# SPDX-License-Identifier: LGPL-2.1-or-later
"""Unit names: their validity, their parts, and the drop-in directories that a unit of that name reads.

The rules are those of systemd's unit-name.c and dropin.c; the terms are those of systemd.unit(5).
"""

from __future__ import annotations

SERVICE = b".service"

# The unit types of systemd.unit(5), i.e. the suffixes of unit names.
UNIT_TYPES = frozenset(
    (
        b"service",
        b"socket",
        b"target",
        b"device",
        b"mount",
        b"automount",
        b"swap",
        b"timer",
        b"path",
        b"slice",
        b"scope",
    )
)

_NAME_MAX = 255
_NAME_CHARACTERS = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ:-_.\\@"


def is_valid_service(name: bytes) -> bool:
    """Return whether `name` is a valid name of a service: a plain unit, a template or an instance."""
    return (
        name.endswith(SERVICE)
        and len(SERVICE) < len(name) <= _NAME_MAX
        and name[0] != ord(b"@")
        and not name.translate(None, _NAME_CHARACTERS)
    )


def split(name: bytes) -> tuple[bytes, bytes | None]:
    """Split a service's name into prefix and instance.

    The instance is None for a plain unit and empty for a template.
    """
    prefix, at, instance = name[: -len(SERVICE)].partition(b"@")
    return prefix, instance if at else None


def template_of(name: bytes) -> bytes | None:
    """Return the template of the instance `name`, None if `name` is not an instance."""
    prefix, instance = split(name)
    return prefix + b"@" + SERVICE if instance else None


def with_instance(template: bytes, instance: bytes) -> bytes:
    """Return `foo@bar.service` for the template `foo@.service` and the instance `bar`."""
    return split(template)[0] + b"@" + instance + SERVICE


def is_template(name: bytes) -> bool:
    """Return whether `name` is the name of a template."""
    return split(name)[1] == b""


def dropin_names(name: bytes) -> list[bytes]:
    """Return the names whose `.d/` directories the unit `name` reads, the most specific first.

    For a template, return the names that all its instances share.
    """
    if b"-" not in name and b"@" not in name:
        return [name]  # The common case.
    if not is_template(name):
        return _dropin_names(name)
    # No real instance contains a NUL, so the names made from this instance can be filtered out again.
    return [n for n in _dropin_names(with_instance(name, b"\0")) if b"\0" not in n]


def _dropin_names(name: bytes) -> list[bytes]:
    """Expand `name` like unit_file_expand_dropin_names() of systemd's dropin.c: name, template, dash prefixes."""
    prefix, instance = split(name)
    names = [name]
    if instance:
        names += _dropin_names(prefix + b"@" + SERVICE)
    chopped = False
    while True:
        dash = prefix.rfind(b"-")
        if dash <= 0:
            return names
        if dash + 1 < len(prefix) or chopped:
            break
        prefix = prefix[:dash]
        chopped = True
    prefix = prefix[: dash + 1]
    # A template has no instance to keep, so for foo-x@.service systemd reads foo-.service.d/, not foo-@.service.d/.
    built = prefix + b"@" + instance + SERVICE if instance else prefix + SERVICE
    return names + _dropin_names(built) if len(built) <= _NAME_MAX else names
