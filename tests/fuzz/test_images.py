# SPDX-License-Identifier: LGPL-2.1-or-later
"""`inspect` and `verify` on mutated images: no traceback, no hang, no more than 256 MiB, and nothing false is believed.

As many images as $UNIT_CONFEXT_FUZZ says, 300 in the tests that are always run; `make fuzz` has 100,000. What is drawn
is the same each time, unless $UNIT_CONFEXT_FUZZ_SEED is given.
"""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from confext_helpers.command.verbs import inspect
from confext_helpers.errors import ConfextError
from confext_helpers.image import certificates, contents, der, dissect, policy, signature, verdict
from confext_helpers.image.bytesource import Source
from confext_helpers.image.contents import ContentsError
from confext_helpers.image.filesystems import Kind
from confext_helpers.image.findings import Code
from confext_helpers.image.signature import AlgorithmError
from confext_helpers.image.verdict import Protection, Request
from fuzz import corpus, ddi
from fuzz.mutations import MUTATIONS, Mutation, apply

COUNT = int(os.environ.get("UNIT_CONFEXT_FUZZ", "300"))
SEED = int(os.environ.get("UNIT_CONFEXT_FUZZ_SEED", "1"))
MEMORY_MAX_KIB = 256 << 10
DEADLINE_MS = 5000

TESTER = ddi.identity("tester")
ANCHOR = certificates.parse(TESTER.der)
SIGNED = ddi.image(TESTER)
REQUEST = Request([ANCHOR], policy.parse(policy.CONFEXT), None, ddi.NATIVE, ddi.NOW)
STRICT = dataclasses.replace(REQUEST, policy=policy.parse("root=signed+absent"))
SIGNATURE = ddi.sign(SIGNED.root_hash.hex().encode(), TESTER)

# hypothesis remembers all that it has drawn until a run of it ends, and would soon have most of the memory itself.
BATCH = 5000
BATCHES = range(-(-COUNT // BATCH))


def fuzz(batch: int, share: int = 1) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """One batch of COUNT / `share` examples."""
    count = max(40, min(COUNT, BATCH) // share)
    options = settings(max_examples=count, deadline=DEADLINE_MS, database=None, suppress_health_check=[
        HealthCheck.too_slow, HealthCheck.nested_given,
    ])  # fmt: skip
    return lambda test: seed(SEED * 1000 + batch)(options(test))


@pytest.fixture(autouse=True)
def _memory() -> Iterator[None]:
    yield
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Alone, as `make fuzz` runs it; among all other tests the process has their memory, too.
    if "UNIT_CONFEXT_FUZZ" in os.environ:
        assert used < MEMORY_MAX_KIB


@pytest.fixture
def no_tools(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file system has the right release file: what reads one is tested below."""
    monkeypatch.setattr(contents, "open_contents", lambda source, kind: corpus.any_contents())


def _look(path: Path, raw: bytes, request: Request) -> None:
    """Verify and inspect an image; whatever is believed has to be true."""
    path.write_bytes(raw)
    found = verdict.verify(str(path), request)
    if found.protection is Protection.SIGNED:
        with dissect.open_image(str(path), request.policy, request.native) as image:
            assert image.data is not None
            size = len(ddi.squashfs())
            assert image.data.read(0, size) == ddi.squashfs()
            assert image.root_hash == SIGNED.root_hash
    if request is STRICT:
        assert found.protection is Protection.SIGNED or not found.good
    else:
        assert found.protection is not Protection.VERITY or not found.good
    json.dumps(inspect.inspect(str(path), request, judged=False))


@pytest.mark.usefixtures("no_tools")
@pytest.mark.parametrize("batch", BATCHES)
def test_partitioned(tmp_path: Path, batch: int) -> None:
    @fuzz(batch)
    @given(MUTATIONS, st.booleans(), st.booleans())
    def look(mutations: list[Mutation], sealed: bool, strict: bool) -> None:
        _look(tmp_path / "demo.raw", apply(SIGNED, mutations, sealed=sealed), STRICT if strict else REQUEST)

    look()


@pytest.mark.usefixtures("no_tools")
@pytest.mark.parametrize("batch", BATCHES)
def test_sidecars(tmp_path: Path, batch: int) -> None:
    tree, root_hash = ddi.hash_tree(ddi.squashfs(), salt=b"\1" * 32)
    good = {"raw": ddi.squashfs(), "verity": tree, "roothash": root_hash.hex().encode(), "roothash.p7s": SIGNATURE}

    @fuzz(batch, 5)
    @given(MUTATIONS, st.one_of(st.just(b""), st.binary(max_size=80)), st.sampled_from(list(good)))
    def look(mutations: list[Mutation], text: bytes, which: str) -> None:
        whole = ddi.Ddi(good[which], {"head": (0, min(600, len(good[which])))}, b"")
        files = good | {which: text or apply(whole, mutations, sealed=False)}
        for name, raw in files.items():
            (tmp_path / f"demo.{name}").write_bytes(raw)
        _look(tmp_path / "demo.raw", files["raw"], STRICT)

    look()


@pytest.mark.parametrize("batch", BATCHES)
def test_signatures(batch: int) -> None:
    """A signature that still counts after a change has the signed parts that it had before."""
    (before,) = signature.parse(SIGNATURE).signers

    @fuzz(batch, 2)
    @given(MUTATIONS)
    def look(mutations: list[Mutation]) -> None:
        raw = apply(ddi.Ddi(SIGNATURE, {"all": (0, len(SIGNATURE))}, b""), mutations, sealed=False)
        try:
            parsed = signature.parse(raw)
        except (der.DerError, AlgorithmError):
            return
        _, findings = signature.verify(parsed, SIGNED.root_hash.hex().encode(), [ANCHOR], ddi.NOW)
        assert findings or parsed.signers == (before,)

    look()


@pytest.mark.skipif(shutil.which("unsquashfs") is None, reason="unsquashfs is not installed")
@pytest.mark.parametrize("batch", BATCHES)
def test_tools(tmp_path: Path, batch: int) -> None:
    """A damaged file system in front of the real tool: an answer or a finding."""
    image = ddi.Ddi(ddi.squashfs(4096), {"superblock": (0, 96), "all": (0, 303)}, b"")
    path = tmp_path / "demo.raw"

    @fuzz(batch, 100)
    @given(MUTATIONS)
    def look(mutations: list[Mutation]) -> None:
        path.write_bytes(apply(image, mutations, sealed=False))
        with open(path, "rb") as file:
            try:
                found = contents.open_contents(Source(file.fileno(), 0, path.stat().st_size), Kind.SQUASHFS)
                for entry in found.entries:
                    if entry.kind == "file":
                        found.read(entry.path)
            except ContentsError as error:
                assert error.finding.code is Code.CONTENTS

    look()


@pytest.mark.parametrize("batch", BATCHES)
def test_anything(tmp_path: Path, batch: int) -> None:
    @fuzz(batch, 20)
    @given(st.binary(max_size=9000))
    def look(raw: bytes) -> None:
        _look(tmp_path / "demo.raw", raw, STRICT)

    look()


@pytest.mark.usefixtures("no_tools")
def test_the_original_is_believed(tmp_path: Path) -> None:
    """Without this, all of the above would pass with a verify that refuses everything."""
    (tmp_path / "demo.raw").write_bytes(SIGNED.raw)
    assert verdict.verify(str(tmp_path / "demo.raw"), STRICT).good
    with pytest.raises(ConfextError):
        verdict.verify(str(tmp_path), STRICT)
