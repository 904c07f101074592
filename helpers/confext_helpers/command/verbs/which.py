# SPDX-License-Identifier: LGPL-2.1-or-later
"""`unit-confext which`: show which layer a file in a service's `/etc` comes from, and what the file hides."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from confext_helpers.command import data
from confext_helpers.command.exitcodes import Exit
from confext_helpers.command.output import Color, Output, printable
from confext_helpers.command.verbs.status import with_signature
from confext_helpers.errors import ConfextError
from confext_helpers.image import trust
from confext_helpers.image.certificates import Certificate
from confext_helpers.system import patience
from confext_helpers.system.bus import Manager
from confext_helpers.view import running
from confext_helpers.view.layerfiles import open_layer
from confext_helpers.view.origin import Finder, Kind, Link, Origin, Place, walk
from confext_helpers.view.services import Service, find, need_root, view_of

# The timeout for looking at the service, in seconds.
_SECONDS = 20.0


def run(arguments: argparse.Namespace, output: Output) -> int:
    """Show where the file comes from.

    Raises:
        ConfextError: the file does not exist, the service is not running, or the caller is not root.
    """
    need_root(arguments.verb)
    anchors = trust.load(arguments.trust)
    unit, path = arguments.operands
    with Manager() as manager:
        service = find(manager, unit)
    with service:
        patience.silent(service.properties.layers)
        try:
            found = patience.attempt(lambda: _look(service, path, anchors), _SECONDS)
        except TimeoutError as error:
            raise ConfextError(f"it cannot be looked at: {error}", unit=service.name, path=path) from None
    if output.json != "off":
        output.data([found])
    else:
        _show(found, output)
    return Exit.OK


def _look(service: Service, path: str, anchors: Sequence[Certificate]) -> data.Origin:
    with view_of(service) as view, walk(view, path, service.name) as (place, links):
        stack = running.read(service, view)
        finder = Finder(view, stack, service.properties, service.properties.base, open_layer)
        origin = finder.find(place)
        followed = [_link(link, finder.find(link.place)) for link in links]
        return _as_data(service.name, path, place, origin, followed, anchors)


def _as_data(
    unit: str, path: str, place: Place, origin: Origin, links: list[data.Link], anchors: Sequence[Certificate]
) -> data.Origin:
    layer = _layer(origin)
    if layer is not None and origin.layer is not None:
        layer = with_signature(layer, origin.layer, anchors)
    mount: data.Mount | None = None
    if origin.kind is Kind.MOUNT and place.mount is not None:
        mount = {"point": place.mount.point, "setting": origin.setting or None, "source": origin.source or None}
    below = [data.of_running(one) for one in origin.hidden]
    return {
        "unit": unit,
        "path": path,
        "resolved": place.path,
        "from": origin.kind if origin.kind is not Kind.UNKNOWN else None,
        "layer": layer,
        "mount": mount,
        "evidence": origin.evidence or None,
        # A directory is merged from all layers that have one; it hides nothing.
        "hidden": below if origin.kind is not Kind.MERGED else [],
        "merged": below if origin.kind is Kind.MERGED else [],
        "host": origin.hides_host,
        "unsure": [data.of_running(one) for one in origin.unsure],
        "links": links,
    }


def _layer(origin: Origin) -> data.Layer | None:
    return data.of_running(origin.layer) if origin.layer is not None else None


def _link(link: Link, origin: Origin) -> data.Link:
    return {
        "path": link.path,
        "target": link.target,
        "from": origin.kind if origin.kind is not Kind.UNKNOWN else None,
        "layer": _layer(origin),
        "evidence": origin.evidence or None,
    }


def _label(layer: data.Layer) -> str:
    return printable(layer["file"] or layer["path"] or layer["label"])


def _labels(layers: Sequence[data.Layer]) -> str:
    return ", ".join(_label(one) for one in layers)


def _show(found: data.Origin, output: Output) -> None:
    for link in found["links"]:
        where = f" ({_label(link['layer'])})" if link["layer"] else ""
        output.line(f"{printable(link['path'])} -> {printable(link['target'])}{where}")
    layer, mount = found["layer"], found["mount"]
    path = printable(found["resolved"])
    if layer is not None:
        output.line(f"{path}: from {_label(layer)}", Color.GREEN)
        if layer["changed"]:
            output.line("  the layer on disk is another one by now; this one runs")
        _show_signature(layer, output)
    elif mount is not None:
        by = mount["setting"] or "the service's sandbox"
        output.line(f"{path}: mounted over all layers at {printable(mount['point'])} by {printable(by)}")
    elif found["from"] == Kind.HOST:
        output.line(f"{path}: not from a layer, but from the /etc below all layers")
    elif found["from"] == Kind.MERGED:
        output.line(f"{path}: a directory, merged from {_labels(found['merged']) or 'no layer'}")
    else:
        output.line(f"{path}: it cannot be known which layer it is from", Color.YELLOW)
    if found["hidden"]:
        output.line(f"  hidden below it: {_labels(found['hidden'])}")
    if found["host"] and layer is not None:
        output.line("  hidden below it: the file in the /etc below all layers")
    if found["unsure"]:
        output.line(f"  these may have it, too: {_labels(found['unsure'])}", Color.YELLOW)


def _show_signature(layer: data.Layer, output: Output) -> None:
    by = ", ".join(printable(one["subject"]) for one in layer["signers"] or ())
    words = {
        "trusted": f"signed by {by}", "untrusted": f"signed by {by}, which is not trusted", "unsigned": "not signed",
    }  # fmt: skip
    output.line(f"  {words.get(layer['signature'] or '', 'it is not known who signed it')}")
    if by and layer["enforced"] is False:
        output.line("  the signature does not protect its data, since it runs without dm-verity", Color.YELLOW)
