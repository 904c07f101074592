# SPDX-License-Identifier: LGPL-2.1-or-later
"""The types of the JSON that each verb prints: unit-confext(1), "JSON", has the same keys, and an example of each.

None, null in JSON, always means: not known, does not exist, or not looked at by this verb. All verbs print a layer with
the same keys.
"""

from __future__ import annotations

from typing import TypedDict

from confext_helpers.service import layers
from confext_helpers.view.runningstack import Running


class Signer(TypedDict):
    """Who signed an image."""

    subject: str | None
    issuer: str | None
    fingerprint: str | None
    not_before: str | None
    not_after: str | None
    digest: str | None
    trusted: bool
    valid: bool
    anchor: str | None


class Layer(TypedDict):
    """A layer."""

    label: str
    name: str
    version: str | None
    kind: str | None
    path: str | None
    file: str | None
    state: str | None
    running: bool | None
    loaded: bool | None
    on_disk: bool | None
    changed: bool | None
    enforced: bool | None
    root_hash: str | None
    signature: str | None
    signers: list[Signer] | None


class Entry(TypedDict):
    """An entry of a `.confext.d/`, in `list`."""

    name: str
    path: str
    verdict: str
    layer: Layer | None
    reason: str | None
    code: str | None


class Unit(TypedDict):
    """An object of `list`."""

    unit: str | None
    directories: list[str]
    problem: str | None
    code: str | None
    warnings: list[str]
    replaced_by: str | None
    daemon_reload_needed: bool | None
    entries: list[Entry]


class Service(TypedDict):
    """An object of `status`."""

    unit: str
    active_state: str
    pid: int | None
    since: str | None
    since_is: str | None
    namespaces: int
    in_host_namespace: bool
    complete: bool | None
    base_changed: bool | None
    reload_result: str | None
    differs: bool | None
    reasons: list[str]
    commands: list[str]
    layers: list[Layer] | None


class Mount(TypedDict):
    """A mount of the service's sandbox, in `which`."""

    point: str
    setting: str | None
    source: str | None


Link = TypedDict(
    "Link", {"path": str, "target": str, "from": str | None, "layer": Layer | None, "evidence": str | None}
)

Origin = TypedDict(
    "Origin",
    {
        "unit": str,
        "path": str,
        "resolved": str,
        "from": str | None,
        "layer": Layer | None,
        "mount": Mount | None,
        "evidence": str | None,
        "hidden": list[Layer],
        "merged": list[Layer],
        "host": bool | None,
        "unsure": list[Layer],
        "links": list[Link],
    },
)


class Content(TypedDict):
    """An object of `cat`."""

    path: str
    resolved: str
    size: int
    encoding: str
    content: str


class Layers(TypedDict):
    """The layers that a reload would change, in `diff`."""

    added: list[Layer]
    replaced: list[Layer]
    removed: list[Layer]


class Side(TypedDict):
    """A file, before or after, in `diff`."""

    kind: str
    mode: str
    uid: int
    gid: int
    size: int
    target: str | None


class File(TypedDict):
    """A file that a reload would change, in `diff`."""

    path: str
    change: str
    layer: Layer | None
    before: Side | None
    after: Side | None
    diff: str | None


class Diff(TypedDict):
    """The object of `diff`."""

    unit: str
    daemon_reload_needed: bool
    differs: bool | None
    base_changed: bool | None
    refused: str | None
    layers: Layers | None
    files: list[File] | None


class Finding(TypedDict):
    """What is wrong with an image."""

    code: str
    message: str


class Partition(TypedDict):
    """A partition, in `inspect`."""

    number: int
    type: str
    type_uuid: str
    uuid: str
    label: str | None
    offset: int
    size: int
    flags: list[str]
    used: bool


class Verity(TypedDict):
    """The superblock of a hash tree, in `inspect`."""

    algorithm: str
    data_block_size: int
    hash_block_size: int
    data_blocks: int
    salt: str | None


class Certificate(TypedDict):
    """A certificate that came with a signature, in `inspect`."""

    subject: str
    fingerprint: str
    not_after: str


class Image(TypedDict):
    """An object of `inspect`."""

    path: str
    size: int | None
    partition_table: str | None
    sector_size: int | None
    disk_uuid: str | None
    partitions: list[Partition] | None
    file_system: str | None
    verity: Verity | None
    root_hash: str | None
    root_hash_from: str | None
    signers: list[Signer] | None
    certificates: list[Certificate] | None
    release_file: str | None
    release: dict[str, str] | None
    etc: list[str] | None
    allowed: bool | None
    findings: list[Finding]


class Verdict(TypedDict):
    """An object of `verify`."""

    path: str
    good: bool
    protection: str | None
    root_hash: str | None
    signers: list[Signer] | None
    release: dict[str, str] | None
    findings: list[Finding]


class Build(TypedDict):
    """The object of `build`."""

    output: str
    format: str
    name: str
    files: int
    content: int
    release: str
    signed_by: str | None
    left_out: list[str]
    mode: str | None
    private: list[str]
    size: int | None
    root_hash: str | None
    time: str | None


class Offence(TypedDict):
    """An object of `build` where the tree is refused."""

    path: str
    problem: str
    hint: str


def of_layer(layer: layers.Layer, image: bool | None) -> Layer:
    """A layer of which nothing is known but what a start would mount.

    Args:
        image: whether the layer is an image, not a directory; None if that is not known.
    """
    return {
        "label": layer.label,
        "name": layer.name,
        "version": layer.version or None,
        "kind": {True: "image", False: "directory", None: None}[image],
        "path": layer.path or None,
        "file": layer.file or None,
        "state": None,
        "running": None,
        "loaded": None,
        "on_disk": None,
        "changed": None,
        "enforced": None,
        "root_hash": layer.root_hash or None,
        "signature": None,
        "signers": None,
    }


def of_running(running: Running) -> Layer:
    """A layer as it runs, or would run. The signature is left out."""
    found = of_layer(running.layer, running.image)
    found["label"] = running.label
    found["version"] = running.version or None
    if running.release:
        found["file"] = running.file or None
    if not running.source:
        found["root_hash"] = None  # The root hash is that of the file that replaced the image.
    found["running"] = bool(running.release) if running.certain else None
    found["loaded"] = bool(running.layer.path)
    found["changed"] = running.changed
    found["enforced"] = running.enforced
    return found
