"""What the hook finds out about images that systemd does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from confext_helpers import images
from confext_helpers.errors import ConfextError
from confext_helpers.image import trust
from fuzz import ddi

EXPIRED = ddi.identity("expired", years=(2000, 2001))
OPEN = "verity+signed+encrypted+unprotected+absent"


@pytest.fixture
def image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An image by a signer whose time is over, but who is trusted."""
    (tmp_path / "demo.raw").write_bytes(ddi.image(EXPIRED).raw)
    (tmp_path / "trust.pem").write_bytes(EXPIRED.pem)
    anchors = trust.load([str(tmp_path / "trust.pem")])
    monkeypatch.setattr(trust, "load", lambda _: anchors)
    return str(tmp_path / "demo.raw")


@pytest.mark.parametrize(
    "policy",
    [
        "root=signed", "root=signed:usr=unprotected", "swap=unprotected:root=signed", "root=signed:=unprotected",
        "root=signed+absent", "=signed",
    ],
)  # fmt: skip
def test_signer_whose_time_is_over(image: str, policy: str) -> None:
    with pytest.raises(ConfextError, match="out of its time"):
        images.check_signers("foo.service", [image], policy)


@pytest.mark.parametrize(
    "policy", ["", f"root={OPEN}:usr={OPEN}", f"root={OPEN}:usr=signed", "root=verity+signed", "root=absent:=signed"]
)
def test_signature_that_nobody_asked_for(image: str, policy: str) -> None:
    images.check_signers("foo.service", [image], policy)
