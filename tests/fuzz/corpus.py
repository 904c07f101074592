# SPDX-License-Identifier: LGPL-2.1-or-later
"""The corpus: one signed image, and mutations of it with the findings that each of them has to have.

`python -m fuzz.corpus COUNT` in tests/ draws so many mutations and adds those with a set of findings that is not in
the corpus yet; `python -m fuzz.corpus --new` makes the image anew and begins with an empty one.
"""

from __future__ import annotations

import json
import lzma
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from confext_helpers.image import contents, policy, trust, verdict
from confext_helpers.image.contents import Contents, Entry
from confext_helpers.image.verdict import Request
from fuzz import ddi
from fuzz.mutations import MUTATIONS, Mutation, apply

DIRECTORY = Path(__file__).parent / "cases"
IMAGE = DIRECTORY / "signed.raw.xz"
CERTIFICATE = DIRECTORY / "signer.crt"
CASES = DIRECTORY / "cases.json"
RELEASE = "/etc/extension-release.d/extension-release.demo"


class Case(NamedTuple):
    """One mutated image.

    Attributes:
        mutations: what is changed.
        sealed: whether the checksums of the partition table are mended afterwards.
        codes: of all findings, sorted, with a policy that asks for a signature.
        protection: what it is protected by.
    """

    mutations: list[Mutation]
    sealed: bool
    codes: list[str]
    protection: str


def any_contents() -> Contents:
    """A file system that is none, with the release file that is wanted: no tool is needed then."""
    return Contents((Entry(RELEASE, "file"),), lambda path: b"ID=_any\n")


def image() -> ddi.Ddi:
    """The image."""
    places: dict[str, Any] = json.loads(CASES.read_text())["places"]
    return ddi.Ddi(lzma.decompress(IMAGE.read_bytes()), {name: (at[0], at[1]) for name, at in places.items()}, b"")


def request() -> Request:
    """What the image is held to."""
    return Request(trust.load([str(CERTIFICATE)]), policy.parse("root=signed+absent"), None, ddi.NATIVE, ddi.NOW)


def cases() -> Iterator[Case]:
    """What is in the corpus."""
    for one in json.loads(CASES.read_text())["cases"]:
        mutations = [
            Mutation(kind, place, offset, value, bytes.fromhex(content))
            for kind, place, offset, value, content in one["mutations"]
        ]
        yield Case(mutations, one["sealed"], one["codes"], one["protection"])


def look(path: Path, case: Case, base: ddi.Ddi, asked: Request) -> Case:
    """The case with the findings and the protection that it has now."""
    path.write_bytes(apply(base, case.mutations, sealed=case.sealed))
    found = verdict.verify(str(path), asked)
    return case._replace(codes=sorted({one.code for one in found.findings}), protection=found.protection)


def _save(base: ddi.Ddi, all_cases: list[Case]) -> None:
    lines = [
        json.dumps({
            "codes": one.codes, "protection": one.protection, "sealed": one.sealed,
            "mutations": [[*mutation[:-1], mutation.content.hex()] for mutation in one.mutations],
        })
        for one in all_cases
    ]  # fmt: skip
    places = json.dumps(base.places)
    CASES.write_text(f'{{"places": {places},\n"cases": [\n' + ",\n".join(lines) + "\n]}\n")


def _extend(count: int) -> None:
    base, asked, known = image(), request(), list(cases())
    contents.open_contents = lambda source, kind: any_contents()
    seen = {(tuple(one.codes), one.protection) for one in known}
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "demo.raw"

        @settings(max_examples=count, deadline=None, database=None, phases=[Phase.generate],
                  suppress_health_check=list(HealthCheck))  # fmt: skip
        @given(MUTATIONS, st.booleans())
        def draw(mutations: list[Mutation], sealed: bool) -> None:
            found = look(path, Case(mutations, sealed, [], ""), base, asked)
            if (tuple(found.codes), found.protection) not in seen:
                seen.add((tuple(found.codes), found.protection))
                known.append(found)

        draw()
    _save(base, known)
    print(f"{len(known)} cases")


def _new() -> None:
    who = ddi.identity("tester")
    made = ddi.image(who)
    IMAGE.write_bytes(lzma.compress(made.raw, preset=9))
    CERTIFICATE.write_bytes(who.pem)
    _save(made, [])


if __name__ == "__main__":
    _new() if sys.argv[1] == "--new" else _extend(int(sys.argv[1]))
