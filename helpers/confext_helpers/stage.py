"""The stage: a short-lived transient unit whose `/etc` is the one that a restart would give the service.

systemd itself builds it, from the very properties that the service has: dissection, dm-verity, image policies,
`.v/` directories, release files and every sandbox setting are its business. All that this module does is to hand
those properties over, and to keep the mount namespace alive for as long as it is needed.

Its process is the dynamic loader of the host, which is told to run what comes out of a pipe that the hook holds. It
waits there for a program that never comes, and it is the only one that is ever executed in the stage: whoever can
write into the service's root directory could slip a library into any other (ld.so(8), `/etc/ld.so.preload`), which
would then run as root outside of the service's sandbox. For the same reason, nobody but root may be able to change
where the loader's path leads (lookup.py). To be told to end, it is sent a signal. If the hook dies, however it dies,
there is an end of file instead, the loader fails, the stage goes away and its OnFailure= unit finishes what was begun
(mounts.finish()).

Neither has the service's process any business with the stage's, even if both are root's. The latter has a capability
that lets nobody trace it who has less (ptrace(2), "Ptrace access mode checking").
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import select
import time
from collections.abc import Iterator
from typing import NamedTuple

from confext_helpers import images, lookup
from confext_helpers.bus import Manager, Properties, Value
from confext_helpers.errors import ConfextError

RUN_DIRECTORY = "/run/unit-confext"
# Where the stage has the host's loader and /proc.
LOADER = f"{RUN_DIRECTORY}/loader"
PROC = f"{RUN_DIRECTORY}/proc"
NAME_PREFIX = "unit-confext-stage-"
RECOVER_UNIT = "unit-confext-recover@{}.service"
TIMEOUT_SEC = 90

# capabilities(7)
_CAP_SYS_PTRACE = 1 << 19

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

# Of these, those that name layers, in the order of the stack.
LAYER_PROPERTIES = ("ExtensionImages", "ExtensionDirectories")

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


def _with_strict_names(layers: dict[str, Value]) -> dict[str, Value]:
    """The same, but layers that are there may not be missing, so that systemd looks at their release files (images.py).

    Args:
        layers: ExtensionImages= and ExtensionDirectories=, as far as they are set.
    """
    strict: dict[str, Value] = {}
    for name, (kind, value) in layers.items():
        assert isinstance(value, list)
        strict[name] = kind, [
            (item[0], item[1] and not images.is_there(str(item[0])), *item[2:])
            if isinstance(item, tuple)
            else item.removeprefix("-" if images.is_there(str(item).lstrip("-+")) else "")
            for item in value
        ]
    return strict


def nosuid_directories(properties: Properties) -> list[str]:
    """The mounts below `/etc` that systemd makes nosuid for a dynamic user only.

    The stage has no DynamicUser= (see above), so its ConfigurationDirectory= mounts lack that flag.
    """
    if not properties.get("DynamicUser", ("b", False))[1]:
        return []
    directories = properties.get("ConfigurationDirectory", ("as", []))[1]
    assert isinstance(directories, list)
    return [f"/etc/{directory}" for directory in directories]


@functools.cache
def _host_loader() -> str:
    """The path of the host's dynamic loader: that of this very process."""
    with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as maps:
        for line in maps:
            path = "/" + line.rstrip("\n").partition("/")[2]
            if path.rpartition("/")[2].startswith(("ld-linux", "ld64", "ld.so")):
                return path
    raise ConfextError("the host has no dynamic loader of the GNU C library")


def build_properties(unit: str, properties: Properties, stdin: int, stdout: int) -> list[tuple[str, Value]]:
    """The properties of the stage of `unit`, for StartTransientUnit()."""
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
        ("CapabilityBoundingSet", ("t", _CAP_SYS_PTRACE)),
        ("StandardInputFileDescriptor", ("h", stdin)),
        ("StandardOutputFileDescriptor", ("h", stdout)),
        ("StandardError", ("s", "null")),
        ("ExecStart", ("a(sasb)", [(LOADER, [LOADER, f"{PROC}/self/fd/0"], False)])),
        ("BindReadOnlyPaths", ("a(ssbt)", [*bound, (_host_loader(), LOADER, False, 0), ("/proc", PROC, False, 0)])),
    ]
    hidden = shaping.pop("InaccessiblePaths", ("as", []))[1]
    assert isinstance(hidden, list)
    # These hide nothing of /etc, but where the stage has its loader.
    hidden = [path for path in hidden if path.lstrip("-+").rstrip("/") not in ("/run", RUN_DIRECTORY)]
    if hidden:
        stage.append(("InaccessiblePaths", ("as", hidden)))
    if "NoExecPaths" in shaping:
        executable = shaping.pop("ExecPaths", ("as", []))[1]
        assert isinstance(executable, list)
        stage.append(("ExecPaths", ("as", [*executable, LOADER])))
    layers = {name: shaping[name] for name in LAYER_PROPERTIES if name in shaping}
    return [*stage, *(shaping | _with_strict_names(layers)).items()]


class Stage(NamedTuple):
    """A stage that is up.

    Attributes:
        name: its unit name.
        root: its root directory, as seen from here.
        namespace: descriptor of its mount namespace.
        pidfd: of its process.
        pipe: what that waits on.
    """

    name: str
    root: str
    namespace: int
    pidfd: int
    pipe: int

    def close(self) -> None:
        """Have its process end, and let go; the rest of the stage goes by itself."""
        import signal  # By now all that was urgent is done.

        # It may have been killed. Its mounts live on for as long as the descriptor of its namespace does.
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGTERM)
            # Root may have stopped it, even where it has no other power over it.
            signal.pidfd_send_signal(self.pidfd, signal.SIGCONT)
        for fd in (self.pipe, self.pidfd, self.namespace):
            os.close(fd)


class Pending(NamedTuple):
    """A stage that is being started; wait() has to be called.

    Attributes:
        name: its unit name.
        unit: the service that it is a stage of.
        properties: those of that service.
        ready: closed at the other end if the stage ends.
        pipe: what its process will wait on.
    """

    name: str
    unit: str
    properties: Properties
    ready: int
    pipe: int

    def wait(self, manager: Manager) -> Stage:
        """Wait until the stage's `/etc` is there.

        Raises:
            ConfextError: it could not be started; the reason is what systemd logged about it.
        """
        try:
            if not _is_up(self.pipe, self.ready):
                from confext_helpers import failure  # It reads the journal, which only this one needs.

                raise failure.of_stage(manager, self.name, self.unit, self.properties)
            return self._open(manager.main_pid(self.name))
        except BaseException:
            os.close(self.pipe)
            raise
        finally:
            os.close(self.ready)

    def _open(self, pid: int) -> Stage:
        """Take hold of the stage's process, once it is sure that it is the loader."""
        try:
            pidfd = os.pidfd_open(pid)
            try:
                if not os.path.samestat(os.stat(f"/proc/{pid}/exe"), os.stat(_host_loader())):
                    raise ProcessLookupError
                namespace = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
            except BaseException:
                os.close(pidfd)
                raise
        except OSError:
            raise ConfextError("the stage ended before it was used", unit=self.unit, hint="reload again") from None
        return Stage(self.name, f"/proc/{pid}/root", namespace, pidfd, self.pipe)


def begin(manager: Manager, unit: str, properties: Properties) -> Pending:
    """Have the manager start the stage of the service `unit`.

    Raises:
        ConfextError: the manager does not want to.
    """
    lookup.check(unit, properties, LOADER)
    os.makedirs(PROC, mode=0o755, exist_ok=True)
    name = f"{NAME_PREFIX}{os.getpid()}-{time.monotonic_ns()}.service"
    stdin, pipe = os.pipe()
    ready, stdout = os.pipe()
    try:
        # One byte fills it. That there is space again will show that the loader has read it.
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, os.sysconf("SC_PAGE_SIZE"))
        os.write(pipe, b"\0")
        manager.start_transient(name, build_properties(unit, properties, stdin, stdout))
    except BaseException:
        os.close(ready)
        os.close(pipe)
        raise
    finally:
        os.close(stdin)
        os.close(stdout)
    return Pending(name, unit, properties, ready, pipe)


def _is_up(pipe: int, ready: int) -> bool:
    """Wait until the stage's process has read from the pipe; return whether it did not end before it could."""
    poll = select.poll()
    poll.register(pipe, select.POLLOUT)
    poll.register(ready, select.POLLIN)
    return poll.poll((TIMEOUT_SEC + 10) * 1000) == [(pipe, select.POLLOUT)]


def layer_paths(properties: Properties) -> list[str]:
    """The layers of a service's stack, bottom to top."""
    paths = []
    for name in LAYER_PROPERTIES:
        value = properties.get(name, ("", []))[1]
        assert isinstance(value, list)
        paths += [str(item[0]) if isinstance(item, tuple) else str(item).lstrip("-+") for item in value]
    return paths
