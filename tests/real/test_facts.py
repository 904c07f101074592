# SPDX-License-Identifier: LGPL-2.1-or-later
"""The facts about systemd that the design rests on, each kept as a test; unit-confext is not installed here.

A test that fails after an upgrade of systemd says which part of the design is to be looked at again: the numbers are
those of DESIGN.md. Where versions differ, both ways are written down.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lab import images, services
from lab import machine as lab_machine
from lab.images import STORE, Format
from lab.machine import Machine
from lab.requirements import need
from lab.sleepers import build_versions, define, drop_in, image, read, reload_error, start_status

EXIT_NAMESPACE = "226"
NOTIFIER = "/usr/lib/lab/notifier.py"

# Says when it has read its configuration again, but takes the signal for it only after a SIGUSR1; or never takes it.
NOTIFIER_TEXT = """\
import os, signal, socket, sys, time

def notify(text):
    address = os.environ["NOTIFY_SOCKET"]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.connect("\\0" + address[1:] if address.startswith("@") else address)
        sender.send(text.encode())

if "--uncaught" in sys.argv:
    notify("READY=1")
    signal.pause()
signal.signal(signal.SIGHUP, lambda *_: None)
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP, signal.SIGUSR1})
notify("READY=1")
signal.sigwait({signal.SIGUSR1})
signal.sigwait({signal.SIGHUP})
notify(f"RELOADING=1\\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
notify("READY=1")
signal.pause()
"""


@pytest.fixture(scope="module")
def copied_forky() -> Iterator[Machine]:
    """A forky whose root is no overlay, since systemd's own refresh does not work on one."""
    need(lab_machine.missing_capability())
    with Machine("forky", copy=True) as machine:
        yield machine


@pytest.mark.real
@pytest.mark.parametrize("bare_machine", ["trixie"], indirect=True)
def test_f1_systemd_257_refreshes_no_confext_on_reload(bare_machine: Machine) -> None:
    versions = build_versions(bare_machine, "f1", 1)
    images.build(bare_machine, image("f1-plain"), {"plain": "v1"})
    define(bare_machine, "f1.service", f"ExtensionImages={versions} {image('f1-plain')}\nExecReload=/usr/bin/true")
    assert start_status(bare_machine, "f1.service") == ""
    build_versions(bare_machine, "f1", 2)
    images.build(bare_machine, image("f1-plain"), {"plain": "v2"})
    assert reload_error(bare_machine, "f1.service") == ""
    assert read(bare_machine, "f1.service", "/etc/demo/a") == "v1"
    assert read(bare_machine, "f1.service", "/etc/plain") == "v1"
    assert start_status(bare_machine, "f1.service") == ""
    assert read(bare_machine, "f1.service", "/etc/demo/a") == "v2"
    assert read(bare_machine, "f1.service", "/etc/plain") == "v2"


@pytest.mark.real
def test_f1_systemd_262_refreshes_versions_but_no_plain_image(copied_forky: Machine) -> None:
    versions = build_versions(copied_forky, "f1", 1)
    images.build(copied_forky, image("f1-plain"), images.pair("v1"))
    define(copied_forky, "f1.service", f"ExtensionImages={versions}\nExecReload=/usr/bin/true")
    define(copied_forky, "f1-plain.service", f"ExtensionImages={image('f1-plain')}\nExecReload=/usr/bin/true")
    for unit in ("f1.service", "f1-plain.service"):
        assert start_status(copied_forky, unit) == ""
    build_versions(copied_forky, "f1", 2)
    images.build(copied_forky, image("f1-plain"), images.pair("v2"))
    for unit in ("f1.service", "f1-plain.service"):
        assert reload_error(copied_forky, unit) == ""
    assert read(copied_forky, "f1.service", "/etc/demo/a") == "v2"
    assert read(copied_forky, "f1-plain.service", "/etc/demo/a") == "v1"


@pytest.mark.real
@pytest.mark.parametrize("off", ["no", "~extensions"])
def test_f2_systemd_262_can_be_told_not_to_refresh(copied_forky: Machine, off: str) -> None:
    versions = build_versions(copied_forky, "f2-off", 1)
    define(
        copied_forky,
        "f2-off.service",
        f"ExtensionImages={versions}\nExecReload=/usr/bin/true\nRefreshOnReload={off}",
    )
    assert start_status(copied_forky, "f2-off.service") == ""
    started_with = read(copied_forky, "f2-off.service", "/etc/demo/a")
    images.build(copied_forky, f"{versions}/f2-off_9.raw", images.pair("v9"))
    assert reload_error(copied_forky, "f2-off.service") == ""
    assert read(copied_forky, "f2-off.service", "/etc/demo/a") == started_with == "v1"
    copied_forky.path(f"{versions}/f2-off_9.raw").unlink()


@pytest.mark.real
def test_f2_refresh_of_systemd_262_uncovers_inaccessible_paths(copied_forky: Machine) -> None:
    versions = build_versions(copied_forky, "f2", 1)
    settings = f"ExtensionImages={versions}\nExecReload=/usr/bin/true\nInaccessiblePaths=/etc/demo/secret"
    define(copied_forky, "f2.service", settings)
    assert start_status(copied_forky, "f2.service") == ""
    assert read(copied_forky, "f2.service", "/etc/demo/secret") == ""
    build_versions(copied_forky, "f2", 2)
    assert reload_error(copied_forky, "f2.service") == ""
    assert read(copied_forky, "f2.service", "/etc/demo/secret") == "secret v2"


@pytest.mark.real
@pytest.mark.parametrize("bare_machine", ["forky"], indirect=True)
def test_refresh_of_systemd_262_fails_on_an_overlay(bare_machine: Machine) -> None:
    versions = build_versions(bare_machine, "overlay", 1)
    # It is not the refresh that says that it failed: the reload waits for it until its time is up.
    settings = f"ExtensionImages={versions}\nExecReload=/usr/bin/true\nTimeoutStartSec=4"
    define(bare_machine, "overlay.service", settings)
    assert start_status(bare_machine, "overlay.service") == ""
    build_versions(bare_machine, "overlay", 2)
    assert "failed" in reload_error(bare_machine, "overlay.service")
    assert read(bare_machine, "overlay.service", "/etc/demo/a") == "v1"


ALLOW = """\
DeviceAllow=/dev/loop-control rw
DeviceAllow=/dev/mapper/control rw
DeviceAllow=block-loop rwm
DeviceAllow=block-blkext rwm
DeviceAllow=block-device-mapper rwm
"""


@pytest.mark.real
@pytest.mark.parametrize("restriction", ["PrivateDevices=yes", "DevicePolicy=closed"])
def test_f4_restricted_devices_need_loop_devices_allowed(bare_machine: Machine, restriction: str) -> None:
    images.build(bare_machine, image("f4"), images.pair("v1"))
    define(bare_machine, "f4.service", f"ExtensionImages={image('f4')}\n{restriction}")
    assert start_status(bare_machine, "f4.service") == EXIT_NAMESPACE
    define(bare_machine, "f4.service", f"ExtensionImages={image('f4')}\n{restriction}\n{ALLOW}")
    assert start_status(bare_machine, "f4.service") == ""
    assert read(bare_machine, "f4.service", "/etc/demo/a") == "v1"


@pytest.mark.real
@pytest.mark.parametrize("restriction", ["PrivateDevices=no", "PrivateDevices=yes"])
def test_f5_mounts_modules_and_udev_are_not_waited_for(bare_machine: Machine, restriction: str) -> None:
    waits = {}
    for setting in ("ExtensionImages", "RootImage"):
        unit = f"f5-{setting}.service"
        define(bare_machine, unit, f"{setting}={image('f5')}\n{restriction}")
        after = bare_machine.show(unit, "After").split()
        waits[setting] = ("modprobe@loop.service" in after, "systemd-udevd.service" in after)
        assert image("f5") not in bare_machine.show(unit, "RequiresMountsFor").split()
    # For the modules of a RootImage=, too, systemd waits only where it has to allow the devices.
    modules = restriction == "PrivateDevices=yes"
    assert waits == {"ExtensionImages": (False, False), "RootImage": (modules, True)}


@pytest.mark.real
def test_f7_changed_source_directory_asks_for_daemon_reload(bare_machine: Machine) -> None:
    directory = bare_machine.path("/etc/f7.d")
    directory.mkdir()
    define(bare_machine, "f7.service", "ExecReload=/usr/bin/true\n[Unit]\nSourcePath=/etc/f7.d")
    bare_machine.systemctl("start", "f7.service")
    assert bare_machine.systemctl("reload", "f7.service").stderr == ""
    for change in ((directory / "x.raw").touch, (directory / "x.raw").unlink):
        assert bare_machine.show("f7.service", "NeedDaemonReload") == "no"
        change()
        assert bare_machine.show("f7.service", "NeedDaemonReload") == "yes"
        assert "daemon-reload" in bare_machine.systemctl("reload", "f7.service").stderr
        bare_machine.systemctl("daemon-reload")


@pytest.mark.real
def test_f8_notify_reload_is_signalled_before_exec_reload_by_257_and_after_it_by_262(bare_machine: Machine) -> None:
    bare_machine.write(NOTIFIER, NOTIFIER_TEXT)
    # The signal is blocked, so that it can be seen pending for as long as the command takes.
    script = "grep ShdPnd /proc/$MAINPID/status >/run/lab-f8; kill -USR1 $MAINPID"
    text = f"[Service]\nType=notify-reload\nExecStart=python3 {NOTIFIER}\nExecReload=/bin/sh -c '{script}'\n"
    bare_machine.write("/etc/systemd/system/f8.service", text)
    bare_machine.systemctl("daemon-reload")
    bare_machine.systemctl("start", "f8.service")
    bare_machine.systemctl("reload", "f8.service")
    pending = int(bare_machine.path("/run/lab-f8").read_text().split()[1], 16)
    assert bool(pending & 1) == (bare_machine.version < 259)


@pytest.mark.real
def test_f8_systemd_262_starts_no_notify_reload_service_without_a_handler(bare_machine: Machine) -> None:
    bare_machine.write(NOTIFIER, NOTIFIER_TEXT)
    text = f"[Service]\nType=notify-reload\nExecStart=python3 {NOTIFIER} --uncaught\n"
    bare_machine.write("/etc/systemd/system/f8-uncaught.service", text)
    bare_machine.systemctl("daemon-reload")
    bare_machine.systemctl("start", "f8-uncaught.service", check=False)
    found = bare_machine.show("f8-uncaught.service", "Result"), bare_machine.show("f8-uncaught.service", "ActiveState")
    assert found == (("success", "active") if bare_machine.version < 260 else ("protocol", "failed"))


@pytest.mark.real
@pytest.mark.parametrize(
    ("settings", "topmost"),
    [
        ("ExtensionImages={one} {two}", "two"),
        ("ExtensionImages={two} {one}", "one"),
        ("ExtensionImages={two}\nExtensionImages={one}", "one"),
        ("ExtensionDirectories={here}\nExtensionImages={one} {two}", "here"),
    ],
)
def test_f9_layers_are_ordered_bottom_to_top_and_directories_last(
    bare_machine: Machine, settings: str, topmost: str
) -> None:
    layers = {"one": image("f9-one"), "two": image("f9-two"), "here": f"{STORE}/f9-here"}
    for version, path in layers.items():
        kind = Format.DIRECTORY if version == "here" else Format.EROFS
        images.build(bare_machine, path, {"layer": version}, kind)
    define(bare_machine, "f9.service", settings.format(**layers))
    assert start_status(bare_machine, "f9.service") == ""
    assert read(bare_machine, "f9.service", "/etc/layer") == topmost


@pytest.mark.real
def test_f10_release_file_is_named_after_the_path_given(bare_machine: Machine) -> None:
    images.build(bare_machine, image("f10"), images.pair("v1"))
    images.build(bare_machine, image("f10-wrong"), images.pair("v1"), name="f10")
    bare_machine.sh(f"""
        ln -s {image("f10")} {image("f10-link")}
        mkdir {STORE}/f10
        ln -s {image("f10-wrong")} {STORE}/f10/f10.raw
    """)
    found = {}
    for path in (image("f10"), image("f10-wrong"), image("f10-link"), f"{STORE}/f10/f10.raw"):
        define(bare_machine, "f10.service", f"ExtensionImages={path}")
        found[path] = start_status(bare_machine, "f10.service")
    assert found == {
        image("f10"): "",
        image("f10-wrong"): EXIT_NAMESPACE,
        image("f10-link"): EXIT_NAMESPACE,
        f"{STORE}/f10/f10.raw": "",
    }


@pytest.mark.real
def test_f11_dash_ignores_a_missing_image_but_no_corrupt_one(bare_machine: Machine) -> None:
    bare_machine.write(image("f11-corrupt"), "no file system\n" * 1000)
    found = {}
    for value in ("-/missing.raw", "/missing.raw", f"-{image('f11-corrupt')}"):
        define(bare_machine, "f11.service", f"ExtensionImages={value}")
        found[value] = start_status(bare_machine, "f11.service")
    assert found == {
        "-/missing.raw": "",
        "/missing.raw": EXIT_NAMESPACE,
        f"-{image('f11-corrupt')}": EXIT_NAMESPACE,
    }


@pytest.mark.real
@pytest.mark.parametrize("prefix", ["", "+"], ids=["confined", "full privileges"])
def test_f12_each_command_has_its_own_namespace_with_new_layers(bare_machine: Machine, prefix: str) -> None:
    out = "/run/lab-f12"
    images.build(bare_machine, image("f12"), images.pair("v1"))
    script = f"readlink /proc/self/ns/mnt >{out}; cat /etc/demo/a /srv/f12/file >>{out}"
    bare_machine.write("/srv/f12-source/file", "bound")
    bare_machine.path("/srv/f12").mkdir(exist_ok=True)
    settings = f"ExtensionImages={image('f12')}\nBindPaths=/srv/f12-source:/srv/f12\n"
    define(bare_machine, "f12.service", f"{settings}ExecReload={prefix}/bin/sh -c '{script}'")
    assert start_status(bare_machine, "f12.service") == ""
    images.build(bare_machine, image("f12"), images.pair("v2"))
    assert reload_error(bare_machine, "f12.service") == ""
    namespace, layer, bound = bare_machine.path(out).read_text().split()
    main_process = bare_machine.show("f12.service", "MainPID")
    others = [bare_machine.run("readlink", f"/proc/{pid}/ns/mnt").stdout.strip() for pid in ("1", main_process)]
    assert namespace not in others
    assert (layer, bound) == ("v2", "bound")
    assert read(bare_machine, "f12.service", "/etc/demo/a") == "v1"


@pytest.mark.real
@pytest.mark.parametrize("prefix", ["", "+"], ids=["confined", "full privileges"])
def test_f12_corrupt_image_fails_a_command_before_it_runs(bare_machine: Machine, prefix: str) -> None:
    images.build(bare_machine, image("f12-later"), images.pair("v1"))
    settings = f"ExtensionImages={image('f12-later')}\nExecReload={prefix}/usr/bin/touch /run/lab-f12-later"
    define(bare_machine, "f12-later.service", settings)
    assert start_status(bare_machine, "f12-later.service") == ""
    assert reload_error(bare_machine, "f12-later.service") == ""
    bare_machine.path("/run/lab-f12-later").unlink()
    bare_machine.path(image("f12-later")).unlink()
    bare_machine.write(image("f12-later"), "no file system\n" * 1000)
    assert "failed" in reload_error(bare_machine, "f12-later.service")
    assert not bare_machine.path("/run/lab-f12-later").exists()
    assert "status=226/NAMESPACE" in bare_machine.journal("-u", "f12-later.service")
    assert bare_machine.show("f12-later.service", "ActiveState") == "active"


@pytest.mark.real
def test_f12_full_privileges_do_not_work_with_root_image_on_257_and_run_in_the_image_on_262(
    bare_machine: Machine,
) -> None:
    services.prepare(bare_machine)
    settings = services.SETTINGS["root-image"]
    define(bare_machine, "f12-root.service", f"{settings}ExecReload=/usr/bin/true")
    assert start_status(bare_machine, "f12-root.service") == ""
    assert reload_error(bare_machine, "f12-root.service") == ""
    define(bare_machine, "f12-root.service", f"{settings}ExecReload=+/usr/bin/cat /etc/hostname")
    works = reload_error(bare_machine, "f12-root.service") == ""
    assert works == (bare_machine.version >= 258)
    said = (
        "rooted"
        if works
        else "f12-root.service: Failed at step NAMESPACE spawning /usr/bin/cat: No such file or directory"
    )
    assert said in bare_machine.journal("-u", "f12-root.service").splitlines()


LOG = "/run/lab-jobs"


def define_helper(machine: Machine, name: str, command: str) -> tuple[str, str]:
    """Write a service, and a helper that is up while it is and reloaded before it is; return both names."""
    main, helper = f"{name}.service", f"{name}-helper.service"
    machine.sh(f"rm -f {LOG}")
    text = f"[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStop=/usr/bin/true\nExecReload=/bin/sh -c '{command}'\n"
    machine.write(f"/etc/systemd/system/{helper}", text)
    define(machine, main, f"ExecReload=/bin/sh -c 'echo main >>{LOG}'")
    machine.systemctl("start", main)
    drop_in(machine, main, f"[Unit]\nAfter={helper}\nUpholds={helper}\nPropagatesReloadTo={helper}\n")
    services.eventually(lambda: machine.show(helper, "ActiveState") == "active")
    return main, helper


@pytest.mark.real
def test_upheld_unit_is_started_after_daemon_reload_and_after_each_start(bare_machine: Machine) -> None:
    main, helper = define_helper(bare_machine, "upheld", "true")
    bare_machine.systemctl("stop", main, helper)
    bare_machine.systemctl("start", main)
    services.eventually(lambda: bare_machine.show(helper, "ActiveState") == "active")


@pytest.mark.real
def test_propagated_reload_runs_first_if_ordered_first(bare_machine: Machine) -> None:
    jobs = "systemctl list-jobs --no-legend --plain first.service"
    main, _ = define_helper(bare_machine, "first", f"echo helper >>{LOG}; {jobs} >>{LOG}")
    bare_machine.systemctl("reload", main)
    lines = bare_machine.path(LOG).read_text().splitlines()
    assert [line.split()[0] for line in lines if "first.service" not in line] == ["helper", "main"]
    (job,) = [line.split() for line in lines if "first.service" in line]
    assert job[1:] == [main, "reload", "waiting"]


@pytest.mark.real
def test_failed_propagated_reload_does_not_stop_the_reload(bare_machine: Machine) -> None:
    main, helper = define_helper(bare_machine, "carry-on", f"echo helper >>{LOG}; exit 1")
    bare_machine.systemctl("reload", main)
    assert bare_machine.path(LOG).read_text().split() == ["helper", "main"]
    assert bare_machine.show(helper, "ActiveState") == "active"


@pytest.mark.real
def test_cancelled_reload_job_fails_systemctl_reload(bare_machine: Machine) -> None:
    jobs = "systemctl list-jobs --no-legend --plain cancelled.service"
    main, helper = define_helper(bare_machine, "cancelled", f"set -- $({jobs}); echo $$1 >>{LOG}; systemctl cancel $$1")
    before = bare_machine.show(main, "MainPID")
    done = bare_machine.systemctl("reload", main, check=False)
    assert done.returncode != 0
    assert "canceled" in done.stderr.lower()
    assert "main" not in bare_machine.path(LOG).read_text()
    assert bare_machine.show(main, "MainPID") == before
    assert {bare_machine.show(unit, "ActiveState") for unit in (main, helper)} == {"active"}


@pytest.mark.real
def test_directory_below_etc_cannot_be_a_layer(bare_machine: Machine) -> None:
    images.build(bare_machine, "/etc/below", images.pair("v1"), Format.DIRECTORY)
    images.build(bare_machine, f"{STORE}/below", images.pair("v1"), Format.DIRECTORY)
    found = {}
    for path in ("/etc/below", f"{STORE}/below"):
        define(bare_machine, "below.service", f"ExtensionDirectories={path}")
        found[path] = start_status(bare_machine, "below.service")
    assert found == {"/etc/below": EXIT_NAMESPACE, f"{STORE}/below": ""}
    # Not of the unit alone: if the executor ends before journald looks, journald does not know whose message it is.
    assert "Too many levels of symbolic links" in bare_machine.journal()
