# SPDX-License-Identifier: LGPL-2.1-or-later
"""Check= commands run with all of the service's sandbox: each property is known, handed over, and has its effect."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from confext_helpers.checks import settinglists
from confext_helpers.service.properties import SHAPING_PROPERTIES
from lab import images, services
from lab.machine import Machine

pytestmark = pytest.mark.real

UNITS = "/etc/systemd/system"
PREFIX = "context-"
IMAGE = "/var/lib/confexts/context.raw"
# Runs in the machine with the modules that are installed there.
HEAD = """\
import json, sys
sys.path[:0] = ["/usr/lib/unit-confext"]; sys.path.append("/usr/lib/python3/dist-packages")
from confext_helpers.checks import run as checks
from confext_helpers.checks import settinglists
from confext_helpers.checks.commandline import Command
from confext_helpers.checks.section import CheckSettings
from confext_helpers.errors import ConfextError
from confext_helpers.service.properties import ServiceProperties
from confext_helpers.system.bus import Manager
"""
# What goes together, from systemd.exec(5) and systemd.resource-control(5). What a systemd does not know, it ignores.
SETTINGS = (
    ("AmbientCapabilities=CAP_NET_BIND_SERVICE", "CapabilityBoundingSet=CAP_CHOWN CAP_NET_BIND_SERVICE", "User=daemon"),
    ("AppArmorProfile=-lab", "SmackProcessLabel=lab", "SELinuxContext=a:b:c:s0"),
    ("PrivateBPF=yes", "BPFDelegateCommands=BPFMapCreate", "BPFDelegateMaps=BPFMapTypeArray"),
    ("BPFDelegatePrograms=BPFProgTypeXdp", "BPFDelegateAttachments=BPFFlowDissector", "BPFProgram=egress:/x"),
    ("BindLogSockets=yes", "BindNetworkInterface=lo", "CPUAffinity=0", "NUMAPolicy=bind", "NUMAMask=0"),
    ("CPUAffinity=numa", "NUMAPolicy=bind", "NUMAMask=0", "IgnoreSIGPIPE=no", "TimerSlackNSec=5us"),
    ("CPUSchedulingPolicy=fifo", "CPUSchedulingPriority=5", "CPUSchedulingResetOnFork=yes", "CoredumpFilter=0x13"),
    ("DeviceAllow=/dev/null rw", "DeviceAllow=char-pts", "DevicePolicy=closed", "DelegateNamespaces=mnt"),
    ("DynamicUser=yes", "StateDirectory=context", "LogsDirectory=context::ro"),
    ("Environment=A=b 'C=d e'", "EnvironmentFile=-/etc/none", "ExecSearchPath=/usr/bin:/bin"),
    ("User=daemon", "Group=audio", "SupplementaryGroups=video", "SetLoginEnvironment=no", "UMask=077"),
    ("IOSchedulingClass=realtime", "IOSchedulingPriority=3", "IOWeight=50", "StartupIOWeight=60"),
    ("IODeviceWeight=/dev/null 100", "IOReadBandwidthMax=/dev/null 1M", "IOWriteBandwidthMax=/dev/null 1M"),
    ("IOReadIOPSMax=/dev/null 9", "IOWriteIOPSMax=/dev/null 9", "IODeviceLatencyTargetSec=/dev/null 25ms"),
    ("IPAddressAllow=127.0.0.0/8 ::1", "IPAddressDeny=any", "IPIngressFilterPath=/x", "IPEgressFilterPath=/y"),
    ("IPCNamespacePath=/proc/1/ns/ipc", "NetworkNamespacePath=/proc/1/ns/net"),
    ("UserNamespacePath=/proc/1/ns/user", "PrivateUsers=no"),
    ("ImportCredential=foo.*", "ImportCredential=bar.*:x.", "LoadCredential=x:/etc/hostname", "SetCredential=y:abc"),
    ("LoadCredentialEncrypted=w:/etc/none", "SetCredentialEncrypted=z:eA==", "KeyringMode=shared", "LogNamespace=lab"),
    ("LimitAS=1G", "LimitCORE=0", "LimitCPU=100", "LimitDATA=1G", "LimitFSIZE=1G", "LimitLOCKS=5", "LimitMEMLOCK=1M"),
    ("LimitMSGQUEUE=1M", "LimitNICE=5", "LimitNOFILE=77:99", "LimitNPROC=50", "LimitRSS=1G", "LimitRTPRIO=5"),
    ("LimitRTTIME=500000", "LimitSIGPENDING=50", "LimitSTACK=1M", "Nice=5", "OOMScoreAdjust=5", "LimitNOFILE=20000"),
    ("LockPersonality=yes", "MemoryDenyWriteExecute=yes", "MemoryKSM=yes", "MemoryTHP=disable", "Personality=x86"),
    ("PAMName=login", "User=daemon", "PassEnvironment=FOO BAR", "UnsetEnvironment=X"),
    ("PrivateDevices=yes", "PrivateIPC=yes", "PrivateNetwork=yes", "PrivateTmp=yes", "JoinsNamespaceOf=x.service"),
    ("PrivatePIDs=yes", "PrivateTmp=disconnected", "ProtectControlGroups=private", "ProtectHostname=private:lab"),
    ("PrivateUsers=identity", "ProtectControlGroups=strict", "ProtectHostname=private", "ProtectHome=tmpfs"),
    ("PrivateUsers=full", "ProtectControlGroups=yes", "ProtectHostname=yes", "ProtectHome=yes"),
    ("PrivateUsers=managed", "User=", "Group=", "PAMName=", "DynamicUser=no", "ProtectHostname=yes:lab"),
    ("ProcSubset=pid", "ProtectProc=invisible"),
    ("ProtectClock=yes", "ProtectKernelLogs=yes", "ProtectKernelModules=yes", "ProtectKernelTunables=yes"),
    ("RestrictAddressFamilies=AF_UNIX", "RestrictFileSystems=tmpfs ext4", "RestrictNamespaces=~user"),
    ("RestrictAddressFamilies=~AF_INET", "RestrictFileSystems=~proc", "RestrictNamespaces=yes"),
    ("RestrictAddressFamilies=none", "RestrictNetworkInterfaces=lo", "RestrictRealtime=yes", "RestrictSUIDSGID=yes"),
    ("RestrictNetworkInterfaces=~lo", "SecureBits=noroot", "SocketBindAllow=tcp:80", "SocketBindDeny=any"),
    ("SystemCallArchitectures=native", "SystemCallFilter=@system-service", "SystemCallFilter=~@mount"),
    ("SystemCallFilter=~@mount:EIO", "SystemCallErrorNumber=EPERM", "SystemCallLog=@mount"),
    ("SystemCallFilter=~@swap", "SystemCallErrorNumber=kill", "SystemCallLog=~@mount", "NoNewPrivileges=yes"),
    ("WorkingDirectory=-/srv", "CPUQuota=50%", "CPUQuotaPeriodSec=50ms", "CPUWeight=50", "StartupCPUWeight=60"),
    ("WorkingDirectory=-~", "User=daemon", "CPUWeight=idle", "TasksMax=50", "Slice=context.slice"),
    ("CPUShares=100", "StartupCPUShares=200", "BlockIOWeight=100", "StartupBlockIOWeight=100", "MemoryLimit=1G"),
    ("AllowedCPUs=0", "AllowedMemoryNodes=0", "StartupAllowedCPUs=0", "StartupAllowedMemoryNodes=0"),
    ("MemoryMin=1M", "MemoryLow=2M", "MemoryHigh=500M", "MemoryMax=600M", "MemorySwapMax=1M", "MemoryZSwapMax=1M"),
    ("MemoryZSwapWriteback=no", "StartupMemoryLow=1M", "StartupMemoryHigh=500M", "StartupMemoryMax=600M"),
    ("StartupMemorySwapMax=1M", "StartupMemoryZSwapMax=1M", "NFTSet=cgroup:inet:lab:lab"),
)  # fmt: skip
# They take a block device; with 258 they are gone.
_LEGACY = {"BlockIODeviceWeight", "BlockIOReadBandwidth", "BlockIOWriteBandwidth"}

COMPARE = """
wanted = json.loads(sys.argv[1])
command = Command("/bin/sleep", ("/bin/sleep", "20"), ())
with Manager() as manager, open("/dev/null", "w") as output:
    said = {}
    for number, unit in enumerate(wanted):
        service = manager.service_properties(unit)
        around = checks.context(manager, unit, ServiceProperties(service))
        settings = CheckSettings((command,), 20_000_000)
        name = f"unit-confext-check-lab-{number}.service"
        asked = checks.build_properties(unit, ServiceProperties(service), around, settings, output.fileno())
        manager.start_transient(name, asked)
        check = manager.service_properties(name)
        names = settinglists.CONTEXT & service.keys()
        for of in (service, check):
            of["DeviceAllow"] = set(of["DeviceAllow"][1])  # Neither order nor number counts.
        differing = {one: [str(service[one]), str(check.get(one))] for one in names if service[one] != check.get(one)}
        every, of_check = manager.unit_properties(unit), manager.unit_properties(name)
        differing |= {one: [] for one in settinglists.UNIT_CONTEXT if every[one] != of_check[one]}
        said[unit] = [sorted(around), differing]
print(json.dumps(said))
"""
NAMES = """
with Manager() as manager:
    print(json.dumps([sorted(read(sys.argv[1])) for read in (manager.service_properties, manager.unit_properties)]))
"""


def inside(machine: Machine, script: str, *arguments: str) -> str:
    """What a script prints that uses the installed modules."""
    machine.write("/srv/context.py", HEAD + script)
    return machine.run("python3", "/srv/context.py", *arguments).stdout


def packed() -> list[list[str]]:
    """The lines of SETTINGS in as few units as say nothing twice."""
    units: list[list[str]] = []
    for lines in SETTINGS:
        names = {line.partition("=")[0] for line in lines}
        free = (unit for unit in units if names.isdisjoint(line.partition("=")[0] for line in unit))
        unit = next(free, None)
        if unit is None:
            units.append(unit := [])
        unit += lines
    return units


def test_every_property_is_known(machine: Machine) -> None:
    """A systemd that has another one turns this red: then somebody has to decide what it is."""
    machine.write(f"{UNITS}/{PREFIX}any.service", services.fragment("", "--idle"))
    machine.systemctl("daemon-reload")
    service, unit = json.loads(inside(machine, NAMES, f"{PREFIX}any.service"))
    lists = {
        "shapes /etc": set(SHAPING_PROPERTIES),
        "context": settinglists.CONTEXT | settinglists.LINKED | set(settinglists.KEPT),
        "state": settinglists.STATE,
        "other": settinglists.OTHER,
    }
    found = {name: [which for which, names in lists.items() if name in names] for name in service}
    assert {name: which for name, which in found.items() if len(which) != 1} == {}
    lists = {"context": settinglists.UNIT_CONTEXT, "other": settinglists.UNIT_OTHER}
    found = {name: [which for which, names in lists.items() if name in names] for name in unit}
    assert {name: which for name, which in found.items() if len(which) != 1} == {}


def test_all_of_the_context_is_handed_over(machine: Machine) -> None:
    """What the manager says of the unit of a check is what it says of the service, property by property."""
    wanted = []
    for number, lines in enumerate(packed()):
        unit = [line for line in lines if line.startswith("Joins")]
        service = [line for line in lines if not line.startswith("Joins")]
        text = "\n".join(["[Unit]", *unit, "[Service]", "ExecStart=/bin/sleep infinity", *service, ""])
        machine.write(f"{UNITS}/{PREFIX}{number}.service", text)
        wanted.append(f"{PREFIX}{number}.service")
    machine.systemctl("daemon-reload")
    said = json.loads(inside(machine, COMPARE, json.dumps(wanted)))
    machine.systemctl("kill", "--signal=KILL", "unit-confext-check-lab-*", check=False)
    machine.systemctl("reset-failed", check=False)
    assert {unit: differing for unit, (_, differing) in said.items() if differing} == {}
    # Everything that this systemd has was set somewhere, so that it was seen to come over.
    names = set(json.loads(inside(machine, NAMES, f"{PREFIX}0.service"))[0])
    handed = {name for around, _ in said.values() for name in around}
    superseded = {name for name in names if f"{name}Ex" in names}
    assert (settinglists.CONTEXT & names) - superseded - handed - _LEGACY == set()


# One line of facts about the sandbox that a process is in. Namespaces are the host's, or are not.
FACTS = r"""#!/bin/sh
host=$1
facts=$(grep -E '^(Uid|Gid|Groups|Cap[A-Z][a-z]+|NoNewPrivs|Seccomp|Speculation.*|Cpus_allowed):' /proc/self/status)
for kind in cgroup ipc net pid user uts; do
    case $host in
        *"$(readlink /proc/self/ns/$kind)"*) facts="$facts;$kind of the host" ;;
        *) facts="$facts;$kind of its own" ;;
    esac
done
for directory in /run/context /var/lib/context /var/log/context /proc/sys/kernel/domainname /sys/fs/cgroup /tmp; do
    test ! -w $directory || facts="$facts;writes $directory"
done
count() { wc -l | sed 's/^[0-9]$/few/; s/^[0-9][0-9]*$/many/'; }
facts="$facts;processes $(ls -d /proc/[0-9]* 2>/dev/null | count);devices $(ls /dev | count);homes $(ls -A /root 2>&1)"
facts="$facts;bound $(ls /mnt | count) $(ls /opt | count)"
facts="$facts;slice $(sed -n 's,^0::\(.*\)/[^/]*$,\1,p' /proc/self/cgroup);files $(ulimit -n);umask $(umask)"
facts="$facts;name $(uname -n);nice $(nice);oom $(cat /proc/self/oom_score_adj);where $PWD;is $WHO"
# At once, or the journal takes what two processes write for two lines.
echo "$(echo "$facts" | tr -s '\t\n' ' ;')"
"""
SANDBOXES = {
    "broad": (
        "User=daemon", "CapabilityBoundingSet=CAP_NET_RAW CAP_CHOWN", "AmbientCapabilities=CAP_NET_RAW",
        "NoNewPrivileges=yes", "SystemCallFilter=@system-service", "SystemCallLog=@mount", "PrivateNetwork=yes",
        "PrivateIPC=yes", "PrivateDevices=yes", "PrivateTmp=yes", "ProtectHome=yes", "ProtectKernelTunables=yes",
        "ProtectControlGroups=yes", "ProtectProc=invisible", "RestrictNamespaces=yes", "LimitNOFILE=77:99", "UMask=027",
        "CPUAffinity=0", "Nice=3", "OOMScoreAdjust=17", "WorkingDirectory=-/srv", "Environment=WHO=me",
        "Slice=context-facts.slice", "RuntimeDirectory=context", "StateDirectory=context", "LogsDirectory=context",
    ),
    "bound": ("BindPaths=/usr/lib:/mnt",),
    "bound read-only": ("BindReadOnlyPaths=/usr/lib:/opt",),
    "root": ("PrivateUsers=identity", "ProtectHostname=private:lab", "ProtectClock=yes", "LockPersonality=yes"),
    "processes": ("PrivatePIDs=yes", "ProtectControlGroups=private", "LogsDirectory=context::ro", "DynamicUser=yes"),
}  # fmt: skip


@pytest.fixture
def sandboxed(machine: Machine, request: pytest.FixtureRequest) -> Iterator[tuple[str, str]]:
    """A running service of one of SANDBOXES, and the facts that it has seen itself."""
    unit = f"{PREFIX}facts.service"
    machine.write("/srv/facts.sh", FACTS, 0o755)
    # Who sees all processes is to see many, whatever else happens to run.
    crowd = "for n in 1 2 3 4 5 6 7 8 9 10; do sleep infinity & done; wait"
    machine.sh(f"systemctl is-active -q {PREFIX}crowd || systemd-run -q --unit={PREFIX}crowd sh -c '{crowd}'")
    namespaces = machine.sh(
        "for kind in cgroup ipc net pid user uts; do readlink /proc/1/ns/$kind; done | tr '\\n' ' '"
    )
    # Its main process, since that is all that PrivatePIDs= is about on some versions.
    start = f"ExecStart=/bin/sh -c '/srv/facts.sh \"{namespaces}\"; exec sleep infinity'"
    settings = ["KillSignal=SIGKILL", "ExecReload=/bin/true", *SANDBOXES[request.param]]
    text = "\n".join(["[Service]", "SyslogIdentifier=facts", start, *settings, ""])
    check = f"[X-Confext]\nCheck=/bin/sh -c '/srv/facts.sh \"{namespaces}\"; exit 1'\n"
    machine.write(f"{UNITS}/{unit}", text + check)
    images.build(machine, IMAGE, images.pair("v1"))
    services.set_entries(machine, [unit], {"10-context.raw": IMAGE})
    machine.systemctl("daemon-reload")
    said_before = machine.journal("-u", unit, "-t", "facts")
    machine.systemctl("restart", unit)
    services.eventually(lambda: machine.journal("-u", unit, "-t", "facts") != said_before)
    yield unit, machine.journal("-u", unit, "-t", "facts").splitlines()[-1]
    machine.systemctl("stop", unit)


@pytest.mark.parametrize("sandboxed", SANDBOXES, indirect=True)
def test_check_sees_what_the_service_sees(machine: Machine, sandboxed: tuple[str, str]) -> None:
    unit, seen = sandboxed
    images.build(machine, IMAGE, images.pair("v2"))
    assert machine.systemctl("reload", unit, check=False).returncode == 1
    said = machine.journal("-u", unit, "-t", "unit-confext").splitlines()[-1]
    told = said.partition("exited with status 1: ")[2].rpartition("; mend the configuration")[0]
    assert [fact.strip() for fact in told.split(";")] == [fact.strip() for fact in seen.split(";")]


UNKNOWN = """
names = json.loads(sys.argv[1])
settinglists.SERVICE = settinglists.SERVICE - set(names)
settinglists.CONTEXT = settinglists.CONTEXT - set(names)
with Manager() as manager:
    try:
        around = checks.context(manager, sys.argv[2], ServiceProperties(manager.service_properties(sys.argv[2])))
        print(json.dumps(sorted(around)))
    except ConfextError as error:
        print(error)
"""


def test_what_is_not_known_is_refused_if_it_is_set(machine: Machine) -> None:
    """As on a newer systemd: a setting of commands, one of control groups, and what only tells how it is doing."""
    unit = f"{PREFIX}unknown.service"
    settings = (
        "[Service]\nExecStart=/bin/sleep infinity\nKillSignal=SIGKILL\nPrivateIPC=yes\nIPAddressDeny=10.0.0.0/8\n"
    )
    machine.write(f"{UNITS}/{unit}", settings)
    machine.systemctl("daemon-reload")
    machine.systemctl("start", unit)
    state = ["MainPID", "CPUUsageNSec", "ExecMainStartTimestamp", "NRestarts"]
    unset = ["PrivateNetwork", "IPAddressAllow", "MemoryMax", "NUMAMask", "StatusText"]
    known = json.loads(inside(machine, UNKNOWN, json.dumps([]), unit))
    assert {"PrivateIPC", "IPAddressDeny"} <= set(known)
    assert json.loads(inside(machine, UNKNOWN, json.dumps(state + unset), unit)) == known
    for name in ("PrivateIPC", "IPAddressDeny"):
        said = inside(machine, UNKNOWN, json.dumps([*state, *unset, name]), unit)
        assert said == (
            f"its checks cannot be run with all of its settings: {name}= is not known; remove this setting or the "
            "Check=, or update unit-confext\n"
        )
    machine.systemctl("stop", unit)
    left = machine.systemctl("list-units", "--all", "--no-legend", "unit-confext-check-*").stdout
    assert left == ""
