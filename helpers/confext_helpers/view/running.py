# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a running service has on `/etc`: which layers, since when, and whether their files are still the same.

The kernel is asked. Each confext carries a release file, so the names of those files in the service's own `/etc` are
those of the layers that run (service/layers.py); the overlay in its mountinfo tells how many there must be. A name
belongs to the layer among the loaded ones that systemd would accept it from. Order is that of the loaded layers, since
an overlay does not tell its own; a layer that is not loaded any more has no known place and comes last.

Whether a file was replaced since is told by its change time, which nobody can set, and by the loop devices: the one
of an image that runs is there as long as it runs. The only thing that the kernel does not know is when `/etc` was
last swapped. That is read from the hook's note, if it is about this very process, and is the start of the process
otherwise. What cannot be known is None.
"""

from __future__ import annotations

import os
import stat

from confext_helpers.image.naming import base_name, is_there, layer_name, resolve
from confext_helpers.paths import ETC, RUN_DIRECTORY
from confext_helpers.service import fingerprint
from confext_helpers.service.layers import Layer, load_layer
from confext_helpers.service.notes import LastSwap, Notes
from confext_helpers.service.properties import ServiceProperties
from confext_helpers.service.releases import Layered, Release, lower_numbers, not_the_host_s, of_directory, of_etc, told
from confext_helpers.system import patience
from confext_helpers.system.loopdevices import Loop, is_verity, loops
from confext_helpers.system.mountinfo import Mount
from confext_helpers.view.runningstack import Running, RunningStack, Since, version_of
from confext_helpers.view.services import Service, View


def lower_count(overlay: Mount | None) -> int:
    """How many layers there are in an overlay of systemd's."""
    return len(lower_numbers(overlay.super_options)) if overlay is not None else 0


def releases(root: int) -> list[Release]:
    """The release files in the `/etc` below the directory with the descriptor `root`, by name."""
    try:
        etc = os.open("etc", os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=root)
    except OSError:
        return []
    try:
        return of_etc(etc)
    finally:
        os.close(etc)


def _compare_image(layer: Layer, stacked: Since, attached: list[Loop]) -> tuple[bool | None, Loop | None]:
    """Whether the file of a running image changed since, and the loop device that it runs from if that is known."""
    file = os.path.realpath(layer.file)
    candidates = [one for one in attached if one.file == file and one.may_have(os.path.dirname(file))]
    # Any of the versions in a `.v/` directory, which the generator has picked one of where systemd does not.
    versions = layer.path if layer.path != layer.file else os.path.dirname(layer.path)
    if layer.path != layer.file or (not candidates and versions.endswith(".v")):
        candidates = [one for one in attached if one.may_have(os.path.realpath(versions))]
    loop = candidates[0] if len(candidates) == 1 else None
    try:
        status = os.stat(file)
    except OSError:
        return True, loop
    if stat.S_ISBLK(status.st_mode):
        from confext_helpers.stage import limits  # Seldom needed.

        return limits.was_written_to(file, stacked.usec * 1000), None
    current = {one.file == file and not one.deleted for one in candidates}
    if fingerprint.changed(layer.path) > stacked.usec * 1000:
        if stacked.certain or current == {False}:
            return True, loop
        # It may have been there when a hook that could not say so swapped /etc. The device tells, where the image
        # has one to itself.
        return (False if current == {True} else None), loop
    # A directory on the way to it may be another one. Images with the same root hash may share a device.
    if stat.S_ISREG(status.st_mode) and not layer.root_hash:
        return True not in current, loop
    return False, loop


def _compare_directory(layer: Layer, release: Release, stacked: Since) -> tuple[bool | None, bool]:
    """Whether any file of a running directory changed since, and whether it is still the one of that name."""
    if not any(one.key[1:] == release.key[1:] for one in _releases_of(f"{layer.file}/etc")):
        return True, False
    if fingerprint.changed(layer.path) > stacked.usec * 1000:
        return (True if stacked.certain else None), True
    return False, True


def start_of(service: Service, view: View) -> int:
    """When the process started, in microseconds since the epoch: the clock of file systems."""
    started = service.properties.start_usec
    if service.properties.main_pid == view.process.pid and started:
        return started
    ticks = int(view.process.key.partition(":")[2])
    with open("/proc/stat", encoding="ascii") as file:
        boot = next(int(line.split()[1]) for line in file if line.startswith("btime "))
    return boot * 1_000_000 + ticks * 1_000_000 // os.sysconf("SC_CLK_TCK")


def last_swap(unit: str) -> LastSwap | None:
    """The hook's note about the last swap; None if there is none.

    Read without the lock, which a reload holds for as long as it takes; the note is replaced in one rename.
    """
    # Not to be made by looking.
    if not os.path.exists(f"{RUN_DIRECTORY}/{unit}.lock"):
        return None
    notes = Notes(unit)
    try:
        return notes.read_stack()
    finally:
        notes.__exit__()


def since(service: Service, view: View) -> Since:
    """When the `/etc` of a service was stacked."""
    start = start_of(service, view)
    # The lock is there from the first run of the hook on.
    if not os.path.exists(f"{RUN_DIRECTORY}/{service.name}.lock"):
        return Since(start, False, True)
    note = last_swap(service.name)
    if note is None:
        return Since(start, False, False)
    if view.process.key in note.processes:
        return Since(note.usec, True, True)
    # The last one was swapped for an earlier process: a swap for this one would have replaced the note.
    return Since(start, False, True)


def _base_changed(service: Service, stacked: Since) -> bool | None:
    """Whether anything happened in what lies below the layers since the `/etc` of a service was stacked.

    Its overlay may not show that: see service/fingerprint.py.
    """
    # When exactly a start has mounted it, nobody knows.
    note = last_swap(service.name) if stacked.by_swap else None
    return fingerprint.base(service.properties).base != note.identity.base if note is not None else None


def read(service: Service, view: View) -> RunningStack:
    """The layers that `service` has, and those that it would have."""
    paths = service.properties.layers
    base = service.properties.base
    seen: list[Release] = []
    if view.overlay is not None:
        etc = view.open_etc()
        try:
            seen = not_the_host_s(of_etc(etc), _releases_of(base) if base is not None else [])
        finally:
            os.close(etc)
    stacked, attached, kinds = since(service, view), loops(), image_paths(service.properties)
    # Without a stack, the host's own is seen.
    changed = _base_changed(service, stacked) if view.overlay is not None else False
    # What was removed from the disk may run.
    loaded = [Layered(path, resolve(path), path in kinds) for path in paths]
    matched = told(loaded, seen, lower_count(view.overlay))
    if matched is None:
        return _in_doubt(service, view, loaded, stacked, attached)._replace(base_changed=changed)
    layers = [_running(path, path in kinds, matched.get(path), stacked, attached) for path in paths]
    known = set(matched.values())
    layers += [
        Running(Layer(base_name(release.name) or release.name), None, release.name, device=release.device)
        for release in seen
        if release not in known
    ]
    return RunningStack([one for one in layers if not _is_none_of_etc(one)], stacked, True, changed)


def _is_none_of_etc(layer: Running) -> bool:
    """Whether a layer that does not run has nothing for `/etc`: a sysext that the unit has by itself."""
    if layer.release or not layer.source or not is_there(layer.layer.path):
        return False
    from confext_helpers.view.layerfiles import open_layer  # Seldom needed.

    files = open_layer(layer)
    return files is not None and not files.has(ETC)


def _in_doubt(
    service: Service, view: View, loaded: list[Layered], stacked: Since, attached: list[Loop]
) -> RunningStack:
    """The layers, where their release files do not tell them apart."""
    from confext_helpers.view import layerfiles, witnesses  # Seldom needed.

    guesses: dict[str, Running] = {}
    for layer in loaded:
        name = layer_name(layer.file)
        own = _releases_of(f"{layer.file}/etc") if not layer.image and not patience.is_silent(layer.path) else []
        release = Release(base_name(name) or name, 0, own[0].key if own else ())
        guesses[layer.path] = _running(layer.path, layer.image, release, stacked, attached)
    # Of what is gone, a loop device may be left.
    there = {path for path, guess in guesses.items() if is_there(path) or (guess.image and guess.source)}
    files = {path: layerfiles.open_layer(guesses[path]) for path in guesses if path in there}
    # Sysexts that the unit has by itself may have nothing for /etc.
    none = {path for path, found in files.items() if found is not None and not found.has(ETC)}
    candidates = {path: found for path, found in files.items() if path not in none}
    pictures = {layer.path for layer in loaded if layer.image}
    devices = witnesses.find(view, candidates, layerfiles.open_host(service.properties), pictures)
    complete = len(devices) == lower_count(view.overlay)
    layers = []
    for path in (path for path in guesses if path not in none):
        if path in devices:
            layers.append(guesses[path]._replace(device=devices[path]))
        elif complete or path not in candidates:
            layers.append(Running(guesses[path].layer, path in pictures, source=guesses[path].layer.file))
        else:
            layers.append(Running(guesses[path].layer, path in pictures, certain=False))
    return RunningStack(layers, stacked, complete)


def not_running(properties: ServiceProperties) -> list[Running]:
    """The layers of a service of which none runs."""
    kinds = image_paths(properties)
    layers = [load_layer(path) for path in properties.layers]
    return [
        Running(layer, layer.path in kinds, source=layer.file if not patience.is_silent(layer.path) else "")
        for layer in layers
    ]


def image_paths(properties: ServiceProperties) -> set[str]:
    """Those of its layers that are images."""
    return set(properties.image_layers)


def _releases_of(etc: str) -> list[Release]:
    return of_directory(etc)


def _running(path: str, image: bool, release: Release | None, stacked: Since, attached: list[Loop]) -> Running:
    layer = load_layer(path)
    if patience.is_silent(path):
        name, device = (release.name, release.device) if release is not None else ("", 0)
        return Running(layer, image, name, device=device)
    if release is None:
        return Running(layer, image, source=layer.file)
    if not image:
        changed, same = _compare_directory(layer, release, stacked)
        return Running(layer, False, release.name, layer.file, release.device, changed, layer.file if same else "")
    changed, loop = _compare_image(layer, stacked, attached)
    if version_of(release.name) not in ("", layer.version):
        changed = True
    file, source = layer.file, layer.file
    if changed is not False:
        file, source = (loop.file, loop.device) if loop is not None else ("", "")
    enforced = is_verity(loop.device) if loop is not None else None
    return Running(layer, True, release.name, file, release.device, changed, source, enforced)
