# SPDX-License-Identifier: LGPL-2.1-or-later
"""The corpus: every mutated image has exactly the findings that it had when it was put there."""

from __future__ import annotations

from pathlib import Path

import pytest

from confext_helpers.image import contents, verdict
from confext_helpers.image.findings import Code
from confext_helpers.image.verdict import Protection
from fuzz import corpus


@pytest.fixture(autouse=True)
def _no_tools(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contents, "open_contents", lambda source, kind: corpus.any_contents())


def test_the_image_itself(tmp_path: Path) -> None:
    (tmp_path / "demo.raw").write_bytes(corpus.image().raw)
    found = verdict.verify(str(tmp_path / "demo.raw"), corpus.request())
    assert (found.findings, found.protection) == ([], Protection.SIGNED)


def test_cases(tmp_path: Path) -> None:
    base, asked = corpus.image(), corpus.request()
    known = list(corpus.cases())
    assert [corpus.look(tmp_path / "demo.raw", case, base, asked) for case in known] == known


def test_the_corpus_has_what_can_be_wrong_with_an_image() -> None:
    """But for what needs other files, another time, or other contents than a mutation makes."""
    seen = {code for case in corpus.cases() for code in case.codes}
    elsewhere = {
        Code.UNREADABLE, Code.SIDECAR, Code.CONTENTS, Code.CONTENTS_TOOL, Code.RELEASE_MISSING, Code.RELEASE_MALFORMED,
        Code.RELEASE_MISMATCH, Code.SIGNATURE_EXPIRED, Code.ENCRYPTED, Code.SIGNATURE_ALGORITHM, Code.EXPOSED,
        Code.SIGNATURE_ANCHOR,
    }  # fmt: skip
    assert set(Code) - seen <= elsewhere
