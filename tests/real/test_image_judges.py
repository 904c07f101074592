# SPDX-License-Identifier: LGPL-2.1-or-later
"""systemd itself as the judge of what `unit-confext verify` accepts: partition tables, and the JSON of a signature.

What is accepted here has to be accepted there. The other way round there are differences, and there may be.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from confext_helpers.image import certificates, contents, policy, signedhash, verdict
from confext_helpers.image.verdict import Request
from fuzz import corpus, ddi, tables
from lab.machine import Machine

pytestmark = pytest.mark.real

TABLES = 300
TESTER = ddi.identity("tester")
HASH = "ab" * 32
_DISSECT = """
dissect() {
    systemd-dissect --validate --image-policy="$2" /run/tables/$1.raw 2>&1 || echo "refused: $1 $2"
}
"""
GOOD = f'"rootHash":"{HASH}","signature":"AAAA"'


def test_partition_tables(bare_machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the same image policy, systemd-dissect takes each image that verify calls good."""
    monkeypatch.setattr(contents, "open_contents", lambda source, kind: corpus.any_contents())
    anchors = [certificates.parse(TESTER.der)]
    script, refused = [], []
    for number in range(TABLES):
        drawn = tables.draw(number, TESTER)
        path = tmp_path / "demo.raw"
        path.write_bytes(drawn.raw)
        request = Request(anchors, policy.parse(drawn.policy), None, ddi.NATIVE, ddi.NOW)
        if not verdict.verify(str(path), request).good:
            refused.append(number)
            continue
        bare_machine.write(f"/run/tables/{number}.raw", drawn.raw)
        script.append(f"dissect {number} '{drawn.policy}'")
    # Enough of them that it means something.
    assert min(len(script), len(refused)) > TABLES // 3
    # And one that both refuse, so that it is seen that systemd-dissect does.
    bare_machine.write("/run/tables/nothing.raw", bytes(100_000))
    said = bare_machine.sh(_DISSECT + "\n".join([*script, "dissect nothing '*'"])).splitlines()
    assert [line for line in said if line != "OK"] == [
        "/run/tables/nothing.raw: Couldn't identify a suitable partition table or file system.", "refused: nothing *",
    ]  # fmt: skip


# Superblocks, as far as libblkid needs no more of them, beside that of a squashfs.
_STRAYS = (
    (4086, b"SWAP-SPACE"), (4086, b"S1SUSPEND"), (8182, b"SWAPSPACE2"), (32769, b"CD001"), (1040, b"\x7f\x13"),
    (1024, b"H+"), (65588, b"ReIsErFs"), (510, b"\x55\xaa"), (1030, b"44"), (257, b"ustar"), (4096, b"LUKS\xba\xbe"),
    (130048, b"\xfcN+\xa9"),
)  # fmt: skip


def test_superblocks(bare_machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What could be two things is none for libblkid, nor for us; without a partition table, where all of it is seen."""
    monkeypatch.setattr(contents, "open_contents", lambda source, kind: corpus.any_contents())
    path = tmp_path / "demo.raw"
    script: list[str] = []
    refused: list[str] = []
    for number, (offset, magic) in enumerate(_STRAYS):
        raw = bytearray(ddi.squashfs(1 << 18))
        raw[offset : offset + len(magic)] = magic
        path.write_bytes(raw)
        bare_machine.write(f"/run/tables/stray-{number}.raw", bytes(raw))
        good = verdict.verify(str(path), Request([], policy.parse("*"), None, ddi.NATIVE, ddi.NOW)).good
        (script if good else refused).append(f"dissect stray-{number} '*'")
    assert bare_machine.sh(_DISSECT + "\n".join(script)).splitlines() == ["OK"] * len(script)
    assert "refused" in bare_machine.sh(_DISSECT + "\n".join(refused))
    assert len(script) > 3


# Of a field of any name, which may be anything.
_VALUES = [
    "null", "true", "tru", "1", "-1", "01", "1.", "1.5", "1e5", "1e999", "0e999999999", "-", "NaN", "-Infinity", "+1",
    "18446744073709551615", "18446744073709551616", "9" * 400, "[]", "[1,]", "{}", '{"a":1,"a":2}', "'x'", '""',
    '"\\x"',
    '"\\ud800"', '"\\udc00\\ud800"', '"\\ud83d\\ude00"', '"\\u0000"', '"\\uffff"', '"\\ufdd0"', '"\\ud83f\\udfff"',
    '"\uffff"', '"\x7f"', '"\t"', '"\x01"', '"\u00e4"', '"\\u007f"', '"\\/"', '"' + "x" * 5000 + '"', "[" * 9 + "]" * 9,
    "[" * 2100 + "]" * 2100, "[" + "1," * 300 + "1]",
]  # fmt: skip
_TEXTS = [
    *(f'{{"x":{value},{GOOD}}}'.encode() for value in _VALUES), f"{{{GOOD}}}".encode(), f" \t\r\n{{{GOOD}}}\n".encode(),
    f"{{{GOOD}}}x".encode(), f"{{{GOOD},}}".encode(), f"{{{GOOD}}}{{}}".encode(), f"\ufeff{{{GOOD}}}".encode(),
    f"\v{{{GOOD}}}".encode(), f"\u00a0{{{GOOD}}}".encode(), f"[{{{GOOD}}}]".encode(), f"{{{GOOD},{GOOD}}}".encode(),
    f'{{"x":"\xe4",{GOOD}}}'.encode("latin-1"), f'{{"x":"\ud800",{GOOD}}}'.encode("utf-8", "surrogatepass"),
    b'{"x":"\xf4\x90\x80\x80",' + GOOD.encode() + b"}", b'{"x":"\xc0\xae",' + GOOD.encode() + b"}",
    f"// comment\n{{{GOOD}}}".encode(), f"{{{GOOD}}}".encode("utf-16"), f"{{'rootHash':'{HASH}'}}".encode(), b"", b"{",
    f"{{x:1,{GOOD}}}".encode(), f'{{1:1,{GOOD}}}'.encode(),
]  # fmt: skip
# What varlinkctl cannot say, or says before it parses.
_ASKED = [text for text in _TEXTS if b"\0" not in text and text]

_ASK = """
import json, subprocess, sys
for text in json.load(open("/run/texts")):
    command = [b"varlinkctl", b"call", b"/run/nowhere", b"a.b.C", bytes.fromhex(text)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True)
    print("no" if b"Failed to parse parameters" in done.stderr else "yes")
"""


def test_json(bare_machine: Machine) -> None:
    """What is read in a signature partition, systemd's parser reads as well; varlinkctl has the same one."""
    bare_machine.write("/run/texts", json.dumps([text.hex() for text in _ASKED]))
    bare_machine.write("/run/ask.py", _ASK)
    theirs = bare_machine.run("python3", "/run/ask.py").stdout.split()
    assert len(theirs) == len(_ASKED)
    assert min(theirs.count("yes"), theirs.count("no")) > 10

    def ours(text: bytes) -> bool:
        try:
            return signedhash.parse(text).root_hash.hex() == HASH
        except ValueError:
            return False

    taken = [text for text in _TEXTS if ours(text)]
    assert len(taken) > 10
    assert [text for text, said in zip(_ASKED, theirs, strict=True) if said == "no" and text in taken] == []


_CHECK = """
import sys
sys.path[:0] = ["/run/host/share/helpers", "/run/host/share/generator"]
from confext_helpers.stage import refusals
from confext_helpers.errors import ConfextError
for path in sys.argv[1:]:
    try:
        print(refusals.check_signers([path], "root=signed"))
    except ConfextError as error:
        print(error.problem)
"""


def test_block_devices(bare_machine: Machine) -> None:
    """A layer may be one, or a link to one, and is looked at as well; with the libraries of this Debian."""
    expired = ddi.identity("expired", years=(2000, 2001))
    bare_machine.write("/etc/verity.d/expired.crt", expired.pem)
    bare_machine.write("/etc/verity.d/tester.crt", TESTER.pem)
    bare_machine.write("/run/check.py", _CHECK)
    for name, raw in {"good": ddi.image(TESTER), "old": ddi.image(expired), "unsigned": ddi.image()}.items():
        bare_machine.write(f"/run/blocks/{name}", raw.raw)
    said = bare_machine.sh("""
cd /run/blocks; mkdir links; devices=
trap 'for device in $devices; do losetup -d $device; done' EXIT
for name in good old unsigned; do
    device=$(losetup -f --show -r $name); devices="$devices $device"; ln -s $device links/$name.raw
done
python3 /run/check.py $devices links/*.raw
""").splitlines()
    old = "the signer's certificate is not valid now: CN=expired expired on 2001-01-01 00:00 UTC"
    none = "the image policy asks for a signature, and there is none"
    assert said == ["True", old, none] * 2
