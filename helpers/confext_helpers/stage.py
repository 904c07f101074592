"""The stage: a short-lived transient unit whose `/etc` is the one that a restart would give the service.

systemd itself builds it, from the very properties that the service has: dissection, dm-verity, image policies,
`.v/` directories, release files and every sandbox setting are its business. All that this module does is to hand
those properties over, and to keep the mount namespace alive for as long as it is needed.

Its process is a shell of the host that says its PID and then waits for a line on a pipe that the hook holds. If the
hook dies, however it dies, the pipe is closed, the shell fails, the stage goes away and its OnFailure= unit finishes
what was begun (mounts.finish()). The shell has no business with the service: it runs as root without capabilities
and not as the service's user, which could otherwise trace it and be out of its sandbox.

A service may have a root directory without a shell in it, or forbid to execute what it does not need. So the host's
`/usr` is bound into the stage at a place of its own, and the dynamic loader in there is called by its path.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import time
from collections.abc import Iterator
from typing import NamedTuple

from confext_helpers import images
from confext_helpers.bus import Manager, Properties, Value
from confext_helpers.errors import ConfextError

RUN_DIRECTORY = "/run/unit-confext"
HOST_USR = f"{RUN_DIRECTORY}/usr"
NAME_PREFIX = "unit-confext-stage-"
RECOVER_UNIT = "unit-confext-recover@{}.service"
TIMEOUT_SEC = 90

_MS_REC = 16384

# Every property that shapes /etc, and nothing that has an effect beyond the mounts of the stage: RuntimeDirectory=,
# StateDirectory= and their like are removed or change owner with the unit that has them. ConfigurationDirectory= does
# neither (systemd.exec(5)). See build_properties() for those that need a word more.
SHAPING_PROPERTIES = (
    "RootDirectory",
    "RootImage",
    "RootImageOptions",
    "RootImagePolicy",
    "RootHash",
    "RootHashPath",
    "RootHashSignature",
    "RootHashSignaturePath",
    "RootVerity",
    "RootMStack",
    "MountAPIVFS",
    "MountFlags",
    "MountImages",
    "MountImagePolicy",
    "ExtensionImages",
    "ExtensionImagePolicy",
    "ExtensionDirectories",
    "BindPaths",
    "BindReadOnlyPaths",
    "TemporaryFileSystem",
    "ReadWritePaths",
    "ReadOnlyPaths",
    "InaccessiblePaths",
    "ExecPaths",
    "NoExecPaths",
    "ProtectSystem",
    "NoNewPrivileges",  # makes every mount nosuid
    "ConfigurationDirectory",
    "ConfigurationDirectoryMode",
)  # fmt: skip

_UNSET: tuple[object, ...] = ("", [], b"", False, "no", 0)


def _shaping(properties: Properties) -> Iterator[tuple[str, Value]]:
    """The properties to copy that are set at all."""
    has_root = any(properties[name][1] for name in ("RootDirectory", "RootImage") if name in properties)
    for name in SHAPING_PROPERTIES:
        value = properties.get(name)
        if value is None or value[1] in _UNSET:
            continue
        if name == "MountAPIVFS" and not has_root:
            continue
        yield name, value


def shaping_properties(properties: Properties) -> dict[str, Value]:
    """The part of a service's `properties` (from Manager.service_properties()) that its `/etc` depends on."""
    return dict(_shaping(properties))


def nosuid_directories(properties: Properties) -> list[str]:
    """The mounts below `/etc` that systemd makes nosuid for a dynamic user only.

    The stage has no DynamicUser= (see above), so its ConfigurationDirectory= mounts lack that flag.
    """
    if not properties.get("DynamicUser", ("b", False))[1]:
        return []
    directories = properties.get("ConfigurationDirectory", ("as", []))[1]
    assert isinstance(directories, list)
    return [f"/etc/{directory}" for directory in directories]


def _host_shell() -> tuple[str, list[str]]:
    """The loader and the first arguments that start the host's shell from HOST_USR.

    The loader and the directory of the C library are those of this very process, which runs on the host.
    """
    loader = library = ""
    with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as maps:
        for line in maps:
            path = line.rstrip("\n").partition("/")[2]
            name = path.rpartition("/")[2]
            if name.startswith(("ld-linux", "ld-musl", "ld64", "ld.so")):
                loader = "/" + path
            elif name.startswith(("libc.so", "libc.musl")):
                library = "/" + path.rpartition("/")[0]
    shell = os.path.realpath("/bin/sh")
    for path in (loader, shell):
        if not path.startswith("/usr/"):
            raise ConfextError("the host's shell and dynamic loader are not below /usr", path=path)
    library = library or loader.rpartition("/")[0]
    words = [loader, library, shell]
    loader, library, shell = (HOST_USR + word.removeprefix("/usr") for word in words)
    return loader, [loader, "--library-path", library, shell]


def build_properties(unit: str, properties: Properties, stdin: int, stdout: int) -> list[tuple[str, Value]]:
    """The properties of the stage of `unit`, for StartTransientUnit()."""
    loader, arguments = _host_shell()
    # systemd takes `$$` for an escaped `$` in any command line (systemd.service(5), "Command lines").
    arguments += ["-c", "echo $$$$ && read -r _"]
    shaping = shaping_properties(properties)
    bound = shaping.pop("BindReadOnlyPaths", ("a(ssbt)", []))[1]
    assert isinstance(bound, list)
    stage: list[tuple[str, Value]] = [
        ("Description", ("s", f"Future /etc of {unit}")),
        ("DefaultDependencies", ("b", False)),
        ("CollectMode", ("s", "inactive-or-failed")),
        ("OnFailure", ("as", [RECOVER_UNIT.format(unit)])),
        ("Type", ("s", "exec")),
        ("LogLevelMax", ("i", 5)),
        ("TimeoutStartUSec", ("t", TIMEOUT_SEC * 1_000_000)),
        ("PrivateMounts", ("b", True)),
        ("CapabilityBoundingSet", ("t", 0)),
        ("StandardInputFileDescriptor", ("h", stdin)),
        ("StandardOutputFileDescriptor", ("h", stdout)),
        ("ExecStart", ("a(sasb)", [(loader, arguments, False)])),
        ("BindReadOnlyPaths", ("a(ssbt)", [*bound, ("/usr", HOST_USR, False, _MS_REC)])),
    ]
    if "NoExecPaths" in shaping:
        executable = shaping.pop("ExecPaths", ("as", []))[1]
        assert isinstance(executable, list)
        stage.append(("ExecPaths", ("as", [*executable, HOST_USR])))
    return [*stage, *shaping.items()]


class Stage(NamedTuple):
    """A stage that is up.

    Attributes:
        name: its unit name.
        root: its root directory, as seen from here.
        namespace: descriptor of its mount namespace.
        pipe: what its process waits on.
    """

    name: str
    root: str
    namespace: int
    pipe: int

    def close(self) -> None:
        """Tell its process that all is well, and let go; the stage ends by itself."""
        # It may have been killed. Its mounts live on for as long as the descriptor of its namespace does.
        with contextlib.suppress(BrokenPipeError):
            os.write(self.pipe, b"\n")
        os.close(self.pipe)
        os.close(self.namespace)


class Pending(NamedTuple):
    """A stage that is being started; wait() has to be called.

    Attributes:
        name: its unit name.
        unit: the service that it is a stage of.
        properties: those of that service.
        ready: where its process will say its PID.
        pipe: what its process will wait on.
    """

    name: str
    unit: str
    properties: Properties
    ready: int
    pipe: int

    def wait(self) -> Stage:
        """Wait until the stage's `/etc` is there.

        Raises:
            ConfextError: it could not be started; the reason is what systemd logged about it.
        """
        try:
            pid = _read_pid(self.ready)
            if pid is None:
                raise _failure(self.name, self.unit, self.properties)
            namespace = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        except BaseException:
            os.close(self.pipe)
            raise
        finally:
            os.close(self.ready)
        return Stage(self.name, f"/proc/{pid}/root", namespace, self.pipe)


def begin(manager: Manager, unit: str, properties: Properties) -> Pending:
    """Have the manager start the stage of the service `unit`.

    Raises:
        ConfextError: the manager does not want to.
    """
    os.makedirs(HOST_USR, mode=0o755, exist_ok=True)
    name = f"{NAME_PREFIX}{os.getpid()}-{time.monotonic_ns()}.service"
    stdin, pipe = os.pipe()
    ready, stdout = os.pipe()
    try:
        manager.start_transient(name, build_properties(unit, properties, stdin, stdout))
    except BaseException:
        os.close(ready)
        os.close(pipe)
        raise
    finally:
        os.close(stdin)
        os.close(stdout)
    return Pending(name, unit, properties, ready, pipe)


def _read_pid(ready: int) -> int | None:
    """The PID that the stage's process says, or None if it ended before it could."""
    said = b""
    poll = select.poll()
    poll.register(ready, select.POLLIN)
    while not said.endswith(b"\n"):
        if not poll.poll((TIMEOUT_SEC + 10) * 1000):
            return None
        data = os.read(ready, 64)
        if not data:
            return None
        said += data
    return int(said)


# What systemd means by the errors that it returns for an image (dissect-image.c), where strerror(3) is no help.
_MEANINGS = {
    errno.ENOPKG: "no partition table or file system that systemd knows is in it",
    errno.ESTALE: "its extension-release file does not match this system",
    errno.ERFKILL: "the image policy does not allow it as it is",
    errno.ENOMSG: "it has no extension-release file",
    errno.EMEDIUMTYPE: "it is no image of the kind that is needed here",
    errno.EPROTONOSUPPORT: "the kernel cannot activate its partitions, see systemd-dissect(1)",
    errno.ENOKEY: "its signature is by nobody who is trusted, or it has none",
    errno.EKEYREJECTED: "its signature is by nobody who is trusted",
    errno.EBADMSG: "its dm-verity data does not match",
}
# What it says of a bad signature may be no more than that, where the kernel did not want it either.
_SAY_NOTHING = tuple(os.strerror(number) for number in (errno.EBUSY, errno.EINVAL, errno.EIO))
_MOUNT_POINT = "/unit-extensions/"


def layer_paths(properties: Properties) -> list[str]:
    """The layers of a service's stack, bottom to top."""
    paths = []
    for name in ("ExtensionImages", "ExtensionDirectories"):
        value = properties.get(name, ("", []))[1]
        assert isinstance(value, list)
        paths += [str(item[0]) if isinstance(item, tuple) else str(item).lstrip("-+") for item in value]
    return paths


def explain(lines: list[str], layers: list[str]) -> tuple[str, str]:
    """Say why a stage could not be started, from what was logged about it.

    Args:
        lines: systemd's messages, oldest first.
        layers: from layer_paths(). systemd mounts the layer number N at `.../unit-extensions/N`, counting those
            that are there.

    Returns:
        The reason, and the path of the layer that it is about, or an empty one.
    """
    for line in lines:
        what, _, reason = line.partition("Failed to set up mount namespacing: ")
        if what or not reason:
            continue
        place, _, text = reason.rpartition(": ")
        for number, meaning in _MEANINGS.items():
            if text == os.strerror(number):
                text = f"{meaning} ({text})"
        index = place.rpartition(_MOUNT_POINT)[2]
        present = [layer for layer in layers if os.path.exists(layer)]
        if _MOUNT_POINT in place and index.isdecimal() and int(index) < len(present):
            return text, present[int(index)]
        return (f"{place}: {text}" if place else text), ""
    return (lines[0] if lines else "the stage ended before it was up"), ""


def _failure(name: str, unit: str, properties: Properties) -> ConfextError:
    from confext_helpers.journal import messages_about

    reason, path = explain(messages_about(name), layer_paths(properties))
    if path and reason.endswith(_SAY_NOTHING):
        reason = images.signature_problem(path) or reason
    hint = "replace it and reload again" if path else f"see journalctl -u {name}"
    problem = f"the new one cannot be built: {reason}"
    return ConfextError(problem, unit=unit, path=path, hint=hint)
