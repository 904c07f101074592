# SPDX-License-Identifier: LGPL-2.1-or-later
"""Find out what a running service has on `/etc`: which layers, since when, and whether their files changed since.

The source is the kernel. Each confext has a release file, so the release files in the service's `/etc` name the layers
that run (service/releases.py), and the overlay in its mountinfo says how many there must be. Each name is matched with
the loaded layer from which systemd would accept it. An overlay does not tell the order of its layers, so they are
listed in the order in which they are loaded; layers that are not loaded any more come last.

Whether the file of a layer was replaced is known from its change time, which nobody can set, and from the loop devices:
an image keeps its loop device for as long as it runs. Only the time of the last swap is not known to the kernel. The
hook notes it for the processes of that moment; for any other process, its start counts. What is not known is None.
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
    """The number of layers in an overlay that systemd mounted."""
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
    """Whether the file of a running image changed since `stacked`, and the image's loop device; None: not known."""
    file = os.path.realpath(layer.file)
    candidates = [one for one in attached if one.file == file and one.may_have(os.path.dirname(file))]
    # What runs may be any version in the `.v/` directory. The generator picks the version where systemd does not.
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
    if fingerprint.last_change_ns(layer.path) > stacked.usec * 1000:
        if stacked.certain or current == {False}:
            return True, loop
        # A hook that was killed may have swapped /etc after this change. If only one image uses the loop device, the
        # device tells.
        return (False if current == {True} else None), loop
    # If a parent directory was replaced, the change time proves nothing, but the loop device does: except with a root
    # hash, as images with the same one may share a device.
    if stat.S_ISREG(status.st_mode) and not layer.root_hash:
        return True not in current, loop
    return False, loop


def _compare_directory(layer: Layer, release: Release, stacked: Since) -> tuple[bool | None, bool]:
    """Whether a running directory changed since `stacked`, and whether `layer.file` is still that directory."""
    if not any(one.key[1:] == release.key[1:] for one in _releases_of(f"{layer.file}/etc")):
        return True, False
    if fingerprint.last_change_ns(layer.path) > stacked.usec * 1000:
        return (True if stacked.certain else None), True
    return False, True


def start_of(service: Service, view: View) -> int:
    """When the process started, in microseconds since the epoch: comparable with change times of files."""
    started = service.properties.start_usec
    if service.properties.main_pid == view.process.pid and started:
        return started
    ticks = int(view.process.key.partition(":")[2])
    with open("/proc/stat", encoding="ascii") as file:
        boot = next(int(line.split()[1]) for line in file if line.startswith("btime "))
    return boot * 1_000_000 + ticks * 1_000_000 // os.sysconf("SC_CLK_TCK")


def last_swap(unit: str) -> LastSwap | None:
    """The hook's note about the last swap; None if there is none.

    The note is read without the lock, which a reload holds until it ends. A rename replaces the note, so it is whole.
    """
    # Notes() would create the lock file.
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
    # The first run of the hook creates the lock file.
    if not os.path.exists(f"{RUN_DIRECTORY}/{service.name}.lock"):
        return Since(start, False, True)
    note = last_swap(service.name)
    if note is None:
        return Since(start, False, False)
    if view.process.key in note.processes:
        return Since(note.usec, True, True)
    # The last swap was for an earlier process; one for this process would have replaced the note.
    return Since(start, False, True)


def _base_changed(service: Service, stacked: Since) -> bool | None:
    """Whether anything below the layers changed since the `/etc` of a service was stacked; None if not known.

    The overlay may not show such a change: see service/fingerprint.py.
    """
    # Nothing records when exactly the overlay was mounted at the start of a service.
    note = last_swap(service.name) if stacked.by_swap else None
    return fingerprint.base(service.properties).base != note.fingerprint.base if note is not None else None


def read(service: Service, view: View) -> RunningStack:
    """The layers that `service` runs, and those that are loaded."""
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
    # Without an overlay, the service sees the host's /etc as it is now.
    changed = _base_changed(service, stacked) if view.overlay is not None else False
    # A layer that was removed from the disk may still run.
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
    """Whether a layer that does not run has no files for `/etc`: a sysext in the unit's own settings."""
    if layer.release or not layer.source or not is_there(layer.layer.path):
        return False
    from confext_helpers.view.layerfiles import open_layer  # Seldom needed.

    files = open_layer(layer)
    return files is not None and not files.has(ETC)


def _in_doubt(
    service: Service, view: View, loaded: list[Layered], stacked: Since, attached: list[Loop]
) -> RunningStack:
    """The layers, if their release files do not tell which ones run."""
    from confext_helpers.view import layerfiles, witnesses  # Seldom needed.

    guesses: dict[str, Running] = {}
    for layer in loaded:
        name = layer_name(layer.file)
        own = _releases_of(f"{layer.file}/etc") if not layer.image and not patience.is_silent(layer.path) else []
        release = Release(base_name(name) or name, 0, own[0].key if own else ())
        guesses[layer.path] = _running(layer.path, layer.image, release, stacked, attached)
    # An image that was removed can be read from its loop device, if it runs.
    there = {path for path, guess in guesses.items() if is_there(path) or (guess.image and guess.source)}
    files = {path: layerfiles.open_layer(guesses[path]) for path in guesses if path in there}
    # A sysext in the unit's own settings may have no files in /etc.
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
    """The loaded layers, for a service that runs none of them."""
    kinds = image_paths(properties)
    layers = [load_layer(path) for path in properties.layers]
    return [
        Running(layer, layer.path in kinds, source=layer.file if not patience.is_silent(layer.path) else "")
        for layer in layers
    ]


def image_paths(properties: ServiceProperties) -> set[str]:
    """The paths of the layers that are images."""
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
