# SPDX-License-Identifier: LGPL-2.1-or-later
"""The checks that come with the package: what each well-known service thinks of good and broken images, in Debian."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from lab import images, services
from lab.machine import Machine

SHIPPED = Path(__file__).parents[2] / "units"
DROPIN = "50-unit-confext.conf"
MEND = "mend the configuration in the image and reload again"
ZONE = "$TTL 60\n@ IN SOA ns root 1 60 60 60 60\n@ IN NS ns\n"


@dataclass(frozen=True, slots=True)
class Service:
    """A service of Debian's.

    Attributes:
        unit: as it is reloaded, which may be an alias.
        path: the file below `/etc` that comes with the image.
        content: of this file, with `VERSION` for something that it has to accept.
        broken: files that it does not accept in the image, by what it says about them.
        more: other files of the image.
        host: what is needed to start it here, by path.
    """

    unit: str
    path: str
    content: str
    broken: Mapping[str, Mapping[str, str]]
    more: Mapping[str, str] = field(default_factory=dict)
    host: Mapping[str, str] = field(default_factory=dict)

    def good(self, version: str) -> dict[str, str]:
        """The files of an image that it accepts."""
        return {**self.more, self.path: self.content.replace("VERSION", version)}


SERVICES = {
    "nginx": Service(
        "nginx.service", "nginx/conf.d/lab.conf",
        'server { listen 127.0.0.1:8080; return 200 "VERSION"; }\n',
        {'unknown directive "retrun" in /etc/nginx/conf.d/lab.conf:1': {
            "nginx/conf.d/lab.conf": "server { retrun 200; }\n",
        }},
    ),
    "apache2": Service(
        "apache2.service", "apache2/conf-enabled/lab.conf",
        "ServerName VERSION.lab.example\n",
        {"Invalid command 'SreverName'": {"apache2/conf-enabled/lab.conf": "SreverName v3.lab.example\n"}},
    ),
    "ssh": Service(
        "sshd.service", "ssh/sshd_config.d/lab.conf",
        "VersionAddendum VERSION\n",
        {"Bad configuration option: VersionAdendum": {"ssh/sshd_config.d/lab.conf": "VersionAdendum v3\n"}},
        host={"/etc/systemd/system/sshd.service": "-> /usr/lib/systemd/system/ssh.service"},
    ),
    "haproxy": Service(
        "haproxy.service", "haproxy/haproxy.cfg",
        "frontend lab\n mode http\n bind 127.0.0.1:8081\n timeout client 1s\n http-request deny if { path VERSION }\n",
        {"unknown keyword 'moed' in 'frontend' section": {"haproxy/haproxy.cfg": "frontend lab\n moed http\n"}},
    ),
    "named": Service(
        "named.service", "bind/db.lab",
        f"{ZONE}ns IN A 127.0.0.1\nVERSION IN A 127.0.0.1\n",
        {
            "NS 'ns.lab.example' has no address records": {"bind/db.lab": ZONE},
            "/etc/bind/named.conf.local:1: unknown option 'zoen'": {"bind/named.conf.local": "zoen;\n"},
        },
        more={"bind/named.conf.local": 'zone "lab.example" { type primary; file "/etc/bind/db.lab"; };\n'},
    ),
    "unbound": Service(
        "unbound.service", "unbound/unbound.conf.d/lab.conf",
        'server:\n  interface: 127.0.0.1\n  local-data: "VERSION.lab.example. A 127.0.0.1"\n',
        {"/etc/unbound/unbound.conf.d/lab.conf:2: error:": {
            "unbound/unbound.conf.d/lab.conf": "server:\n  intreface: 127.0.0.1\n",
        }},
    ),
    "dnsmasq": Service(
        "dnsmasq.service", "dnsmasq.d/lab.conf",
        "listen-address=127.0.0.1\nbind-interfaces\naddress=/VERSION.lab.example/127.0.0.1\n",
        {"bad option at line 1 of /etc/dnsmasq.d/lab.conf": {"dnsmasq.d/lab.conf": "adress=/v3/127.0.0.1\n"}},
    ),
    "postfix": Service(
        "postfix.service", "postfix/main.cf",
        "compatibility_level = 3.9\nmyhostname = VERSION.lab.example\ninet_interfaces = loopback-only\n",
        {
            "missing '=' after attribute name": {"postfix/main.cf": "myhostname v3.lab.example\n"},
            "/etc/postfix/master.cf: line 1: bad field count": {"postfix/master.cf": "smtp inet n\n"},
            "fatal: chdir(/proc/none)": {
                "postfix/main.cf": "compatibility_level = 3.9\nqueue_directory = /proc/none\n",
            },
        },
    ),
    "chrony": Service(
        "chrony.service", "chrony/conf.d/lab.conf",
        "local stratum 9\n# VERSION\n",
        {"at line 1 in file /etc/chrony/conf.d/lab.conf": {
            "chrony/conf.d/lab.conf": "locla stratum 9\n",
        }},
        # The clock is everybody's: chronyd is started in spite of the container, but not to set it. With its
        # ConfigurationDirectory= it has the host's /etc/chrony, and it restricts its devices, see the README.
        host={
            "/etc/default/chrony": 'DAEMON_OPTS="-x"\n',
            "/etc/systemd/system/chrony.service.d/lab.conf":
                "[Unit]\nConditionVirtualization=\n[Service]\nConfigurationDirectory=\n"
                "[X-Confext]\nUnsafeDeviceAllow=yes\n",
        },
    ),
}  # fmt: skip


@pytest.fixture(params=list(SERVICES))
def name(machine: Machine, request: pytest.FixtureRequest) -> Iterator[str]:
    """The name of a service, which is stopped in the end: several of them want the same port."""
    yield str(request.param)
    machine.systemctl("stop", f"{request.param}.service")


def main_pid(machine: Machine, unit: str) -> int:
    """The service's main process, and that there is one."""
    pid = int(machine.show(unit, "MainPID"))
    assert pid > 0
    return pid


def programs(name: str) -> set[str]:
    """The programs that the drop-in of a service runs."""
    lines = (SHIPPED / f"{name}.service.d" / DROPIN).read_text().splitlines()
    return {line.partition("=")[2].lstrip(":!+").split()[0] for line in lines if line.startswith("Check=")}


def test_all_are_tested() -> None:
    assert {path.parent.name for path in SHIPPED.glob("*/*")} == {f"{name}.service.d" for name in SERVICES}


@pytest.mark.real
def test_service(machine: Machine, name: str) -> None:
    service, real, image = SERVICES[name], f"{name}.service", f"{images.STORE}/{name}.raw"
    for path, content in service.host.items():
        if content.startswith("-> "):
            machine.run("ln", "-sfn", content[3:], path)
        else:
            machine.write(path, content)

    def reload(files: Mapping[str, str]) -> tuple[bool, list[str]]:
        """Reload with these files in the image; whether that is a success, and what the hook says about it."""
        images.build(machine, image, files)
        before = len(machine.journal("-u", real, "-t", "unit-confext").splitlines())
        done = machine.systemctl("reload", service.unit, check=False)
        said = machine.journal("-u", real, "-t", "unit-confext").splitlines()[before:]
        # unbound goes to its directory by itself.
        works_below = [line for line in said if "works in a directory below /etc" in line]
        assert not works_below or name == "unbound"
        return done.returncode == 0, [line for line in said if line not in works_below]

    def seen() -> str:
        """What the service sees of its file."""
        return machine.path(f"/proc/{main_pid(machine, real)}/root/etc/{service.path}").read_text()

    images.build(machine, image, service.good("v1"))
    services.set_entries(machine, [real], {f"10-{name}.raw": image})
    machine.systemctl("daemon-reload")
    assert f"/{real}.d/{DROPIN}" in machine.show(real, "DropInPaths")
    machine.systemctl("start", service.unit)
    pid = main_pid(machine, real)
    assert seen() == service.good("v1")[service.path]

    good = service.good("v2")
    taken, said = reload(good)
    assert (taken, len(said)) == (True, 1)
    assert said[0].startswith(f"{real}: /etc re-stacked: {name}.raw replaced; ")
    assert (main_pid(machine, real), seen()) == (pid, good[service.path])

    # The commands are shown without their quotes; the programs are the same.
    program = "|".join(map(re.escape, programs(name)))
    begin = f"{re.escape(real)}: /etc is unchanged, the check '(?:{program})( .*)?' exited with status [0-9]+: "
    for message, files in service.broken.items():
        accepted, said = reload({**good, **files})
        assert not accepted
        assert len(said) == 1
        match = re.fullmatch(f"{begin}(.*); {MEND}", said[0])
        assert match is not None, said
        assert message in match[2]
        assert (main_pid(machine, real), seen()) == (pid, good[service.path])
        assert machine.show(real, "ActiveState") == "active"
    assert DROPIN not in machine.journal("_PID=1")
