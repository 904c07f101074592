# SPDX-License-Identifier: LGPL-2.1-or-later
"""`unit-confext which`: which layer a file that a service sees comes from, and what it hides."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from confext_helpers.command.exitcodes import Exit
from confext_helpers.command.output import Color, Output, printable
from confext_helpers.command.verbs.status import layer_as_data, signature_of
from confext_helpers.errors import ConfextError
from confext_helpers.image import trust
from confext_helpers.image.certificates import Certificate
from confext_helpers.system import patience
from confext_helpers.system.bus import Manager
from confext_helpers.view import running
from confext_helpers.view.layerfiles import open_layer
from confext_helpers.view.origin import Finder, Kind, Link, Origin, Place, walk
from confext_helpers.view.services import Service, find, need_root, seen

# How long all of it may take.
_SECONDS = 20.0


def run(arguments: argparse.Namespace, output: Output) -> int:
    """Say where the file comes from.

    Raises:
        ConfextError: it is not there, the service does not run, or this is not root.
    """
    need_root(arguments.verb)
    anchors = trust.load(arguments.trust)
    unit, path = arguments.operands
    with Manager() as manager:
        service = find(manager, unit)
    patience.silent(service.properties.layers)
    try:
        data = patience.attempt(lambda: _look(service, path, anchors), _SECONDS)
    except TimeoutError as error:
        raise ConfextError(f"it cannot be looked at: {error}", unit=service.name, path=path) from None
    if output.json != "off":
        output.data([data])
    else:
        _show(data, output)
    return Exit.OK


def _look(service: Service, path: str, anchors: Sequence[Certificate]) -> dict[str, object]:
    with seen(service) as view, walk(view, path, service.name) as (place, links):
        stack = running.read(service, view)
        finder = Finder(view, stack, service.properties, service.properties.base, open_layer)
        data = _as_data(place, finder.find(place), anchors)
        data["links"] = [_link(link, finder.find(link.place)) for link in links]
    return {"unit": service.name, "path": path, **data}


def _as_data(place: Place, origin: Origin, anchors: Sequence[Certificate]) -> dict[str, object]:
    layer = mount = None
    if origin.layer is not None:
        layer = layer_as_data(origin.layer)
        layer |= {"changed": origin.layer.changed, "enforced": origin.layer.enforced}
        layer |= signature_of(origin.layer, anchors)
    if origin.kind is Kind.MOUNT and place.mount is not None:
        mount = {"point": place.mount.point, "setting": origin.setting or None, "source": origin.source}
    return {
        "resolved": place.path,
        "from": origin.kind,
        "layer": layer,
        "mount": mount,
        "evidence": origin.evidence or None,
        # Of a directory, all layers that have it: nothing is hidden.
        "hidden": [layer_as_data(one) for one in origin.hidden] if origin.kind is not Kind.MERGED else [],
        "merged": [layer_as_data(one) for one in origin.hidden] if origin.kind is Kind.MERGED else [],
        "host": origin.hides_host,
        "unsure": [layer_as_data(one) for one in origin.unsure],
        "links": [],
    }


def _link(link: Link, origin: Origin) -> dict[str, object]:
    return {
        "path": link.path,
        "target": link.target,
        "from": origin.kind,
        "layer": layer_as_data(origin.layer) if origin.layer is not None else None,
        "evidence": origin.evidence or None,
    }


def _label(layer: object) -> str:
    assert isinstance(layer, dict)
    return printable(layer["file"] or layer["path"] or layer["label"])


def _labels(layers: object) -> str:
    assert isinstance(layers, list)
    return ", ".join(_label(one) for one in layers)


def _show(data: dict[str, object], output: Output) -> None:
    links = data["links"]
    assert isinstance(links, list)
    for link in links:
        where = f" ({_label(link['layer'])})" if link["layer"] else ""
        output.line(f"{printable(link['path'])} -> {printable(link['target'])}{where}")
    layer, mount = data["layer"], data["mount"]
    path = printable(data["resolved"])
    match data["from"]:
        case Kind.LAYER:
            assert isinstance(layer, dict)
            output.line(f"{path}: from {_label(layer)}", Color.GREEN)
            if layer["changed"]:
                output.line("  it is not the same on disk any more; this is the one that runs")
            _show_signature(layer, output)
        case Kind.HOST:
            output.line(f"{path}: no layer's; it is there without them")
        case Kind.MOUNT:
            assert isinstance(mount, dict)
            by = mount["setting"] or "the service's sandbox"
            output.line(f"{path}: mounted over all layers at {printable(mount['point'])} by {printable(by)}")
        case Kind.MERGED:
            output.line(f"{path}: a directory, merged from {_labels(data['merged']) or 'no layer'}")
        case _:
            output.line(f"{path}: it cannot be known which layer it is from", Color.YELLOW)
    if data["hidden"]:
        output.line(f"  hidden below it: {_labels(data['hidden'])}")
    if data["host"] and data["from"] is Kind.LAYER:
        output.line("  hidden below it: the one that is there without layers")
    if data["unsure"]:
        output.line(f"  not known to have it or not: {_labels(data['unsure'])}", Color.YELLOW)


def _show_signature(layer: dict[str, object], output: Output) -> None:
    found = layer["signers"]
    assert isinstance(found, list)
    by = ", ".join(printable(one["subject"]) for one in found)
    words = {
        "trusted": f"signed by {by}", "untrusted": f"signed by {by}, which is not trusted", "unsigned": "not signed",
    }  # fmt: skip
    output.line(f"  {words.get(str(layer['signature']), 'it is not known who signed it')}")
    if by and layer["enforced"] is False:
        output.line("  nothing holds its data to that, since it runs without dm-verity", Color.YELLOW)
