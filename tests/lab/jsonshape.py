# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whether what a verb has printed as JSON is of the type that command/data.py says it is."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator
from typing import Any

from confext_helpers.command import data

# The objects of each verb. Where `build` refuses a tree, it prints others.
VERBS: dict[str, tuple[Any, ...]] = {
    "list": (data.Unit,),
    "status": (data.Service,),
    "which": (data.Origin,),
    "cat": (data.Content,),
    "diff": (data.Diff,),
    "inspect": (data.Image,),
    "verify": (data.Verdict,),
    "build": (data.Build, data.Offence),
}
# These hold what is in files; all other text says something.
_CONTENTS = ("content", "diff")
# What stands for "not known" elsewhere.
_INSTEAD_OF_NULL = ("", "-", "unknown", -1)


def keys(kind: Any) -> dict[str, Any]:
    """The keys of a typed dictionary, and their types."""
    return dict(typing.get_type_hints(kind))


def parts(kind: Any) -> Iterator[Any]:
    """All typed dictionaries that a type is made of, itself included."""
    if typing.is_typeddict(kind):
        yield kind
    for inner in keys(kind).values() if typing.is_typeddict(kind) else typing.get_args(kind):
        yield from parts(inner)


def problems(value: object, kind: Any, where: str = "") -> list[str]:
    """What in `value` is not of the type `kind`, or says in another way than by null that it is not known."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if typing.is_typeddict(kind):
        if not isinstance(value, dict):
            return [f"{where} is no object"]
        wanted = keys(kind)
        found = [f"{where}.{key} is there, or is not" for key in sorted(value.keys() ^ wanted.keys())]
        for key in wanted.keys() & value.keys():
            found += problems(value[key], wanted[key], f"{where}.{key}")
        return found
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in inner:
            return []
        return min((problems(value, one, where) for one in inner if one is not type(None)), key=len)
    if origin is list:
        if not isinstance(value, list):
            return [f"{where} is no array"]
        return [problem for at, one in enumerate(value) for problem in problems(one, inner[0], f"{where}[{at}]")]
    if origin is dict:
        same = isinstance(value, dict) and all(isinstance(one, str) for one in (*value.keys(), *value.values()))
        return [] if same else [f"{where} is no object of strings"]
    if type(value) is not kind:
        return [f"{where} is {value!r} and no {kind.__name__}"]
    if value in _INSTEAD_OF_NULL and where.rpartition(".")[2] not in _CONTENTS:
        return [f"{where} is {value!r} instead of null"]
    return []


def check(verb: str, objects: Any) -> Any:
    """Return `objects`; fail unless they are what `verb` prints."""
    assert isinstance(objects, list)
    for one in objects:
        tried = [problems(one, kind) for kind in VERBS[verb]]
        assert min(tried, key=len) == [], f"{verb}: {tried}"
    return objects
