# SPDX-License-Identifier: LGPL-2.1-or-later
"""The root file systems that the tests boot: built once, kept in a cache, never changed.

A tree is keyed by everything that it is made of (suite, packages, the recipe in this file), so that a changed
recipe makes a new tree and an unchanged one costs nothing. mmdebstrap does the work; this module only says what
goes in and what has to be true of a tree that boots unattended.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

SUITES = {"trixie": 257, "forky": 262}

PACKAGES = (
    # systemd and what its images need
    "systemd", "systemd-sysv", "systemd-container", "systemd-repart", "systemd-resolved", "dbus", "udev", "kmod",
    "cryptsetup-bin", "e2fsprogs", "erofs-utils", "squashfs-tools", "fdisk", "libnss-myhostname", "polkitd",
    # what unit-confext runs on
    "python3", "python3-systemd", "python3-pyparsing", "python3-cryptography", "python3-jeepney",
    # tools of the tests
    "procps", "iproute2", "curl", "strace", "openssl", "make", "busybox-static",
    # real services
    "nginx-light", "openssh-server", "haproxy", "apache2", "bind9", "unbound", "dnsmasq", "postfix", "chrony",
    "rsyslog", "cron", "lighttpd", "redis-server", "memcached", "prometheus-node-exporter", "vsftpd", "squid",
    "mosquitto", "stunnel4", "nfs-kernel-server", "smartmontools", "lldpd",
)  # fmt: skip

# Runs inside the new tree. Nothing but the bare system may start by itself: a test starts what it looks at.
RECIPE = r"""
set -eu
root="$1"
echo 0123456789abcdef0123456789abcdef >"$root/etc/machine-id"
mkdir -p "$root/etc/systemd/system-preset"
echo 'disable *' >"$root/etc/systemd/system-preset/00-lab.preset"
chroot "$root" systemctl preset-all >/dev/null 2>&1
for unit in systemd-firstboot.service systemd-networkd.service systemd-networkd.socket systemd-resolved.service \
    systemd-timesyncd.service getty.target console-getty.service systemd-vconsole-setup.service \
    systemd-networkd-wait-online.service systemd-hwdb-update.service apt-daily.timer apt-daily-upgrade.timer; do
    ln -sfn /dev/null "$root/etc/systemd/system/$unit"
done
find "$root/etc/init.d" -mindepth 1 -delete
find "$root/etc" -path '*/rc[0-6S].d/*' -delete
chroot "$root" systemctl set-default multi-user.target >/dev/null 2>&1
echo 'RateLimitBurst=0' | sed '1i [Journal]' >"$root/etc/systemd/journald.conf"
rm -rf "$root/usr/share/doc" "$root/usr/share/locale" "$root/var/lib/apt/lists" "$root/var/cache/apt"
mkdir -p "$root/var/lib/confexts" "$root/srv"
"""

# What a virtual machine boots. Modules are loaded from a directory, so that no initrd is needed.
KERNEL = "linux-image-cloud-amd64"

POLICY = 'printf "#!/bin/sh\\nexit 101\\n" >"$1/usr/sbin/policy-rc.d"; chmod 755 "$1/usr/sbin/policy-rc.d"'


def cache_directory() -> Path:
    """Where the trees are kept: $UNIT_CONFEXT_CACHE, or a directory below /var/cache."""
    return Path(os.environ.get("UNIT_CONFEXT_CACHE", "/var/cache/unit-confext"))


def mirror() -> str | None:
    """The Debian mirror that this machine uses itself, or None for mmdebstrap's default."""
    if given := os.environ.get("UNIT_CONFEXT_MIRROR"):
        return given
    if shutil.which("apt-get") is None:
        return None
    listed = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", "Origin: Debian"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    candidates = [uri for uri in listed.stdout.split() if "security" not in uri]
    return candidates[0] if candidates else None


def _key(suite: str, more: tuple[str, ...]) -> str:
    made_of = "\n".join([suite, *PACKAGES, *more, RECIPE, POLICY])
    return f"{suite}-{hashlib.sha256(made_of.encode()).hexdigest()[:12]}"


def path_of(suite: str, more: tuple[str, ...] = ()) -> Path:
    """The path that the tree of `suite` has once it is built, with `more` packages in it."""
    return cache_directory() / _key(suite, more)


def ensure(suite: str, more: tuple[str, ...] = ()) -> Path:
    """Return the tree of `suite`, building it first where it is missing (about a minute, needs the network).

    Args:
        suite: see SUITES.
        more: packages that it has besides PACKAGES; such a tree is one of its own.

    Raises:
        RuntimeError: mmdebstrap is not there, or failed; the message has the end of its output.
    """
    target = path_of(suite, more)
    with _locked(suite, target) as is_there:
        if not is_there:
            _build(suite, target, more)
    return target


def kernel_path_of(suite: str) -> Path:
    """The path that the kernel of `suite` has once it was fetched."""
    return cache_directory() / f"kernel-{suite}-{hashlib.sha256(KERNEL.encode()).hexdigest()[:12]}"


def ensure_kernel(suite: str) -> Path:
    """Return the directory with the kernel of `suite`, fetching it first where it is missing (some seconds).

    In it are `vmlinuz` and `tree`, which has the modules and nothing else in it, to lie over a root file system.

    Raises:
        RuntimeError: as from ensure().
    """
    target = kernel_path_of(suite)
    with _locked(suite, target) as is_there:
        if not is_there:
            _fetch_kernel(suite, target)
    return target


@contextlib.contextmanager
def _locked(suite: str, target: Path) -> Iterator[bool]:
    """Keep others from building what belongs to `suite`; yield whether `target` is there already."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with open(target.parent / f".{suite}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield target.is_dir()


def _mmdebstrap(suite: str, tree: Path, *options: str) -> None:
    if shutil.which("mmdebstrap") is None:
        raise RuntimeError("mmdebstrap is not installed (apt-get install mmdebstrap)")
    # A mirror of a testing suite may be older than its own Valid-Until; the signature still counts.
    valid = '--aptopt=Acquire::Check-Valid-Until "false"'
    command = ["mmdebstrap", "--mode=root", valid, *options, suite, str(tree)]
    if (uri := mirror()) is not None:
        command.append(uri)
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"mmdebstrap failed for {suite}:\n{done.stderr[-4000:]}")


def _fetch_kernel(suite: str, target: Path) -> None:
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{suite}-") as scratch:
        fetched = Path(scratch) / "fetched"
        _mmdebstrap(suite, fetched, "--variant=extract", f"--include={KERNEL}")
        (modules,) = (fetched / "usr/lib/modules").iterdir()
        kernel = Path(scratch) / "kernel"
        (kernel / "tree/usr/lib/modules").mkdir(parents=True)
        # Older packages have it in /boot, newer ones beside the modules.
        images = [fetched / f"boot/vmlinuz-{modules.name}", modules / "vmlinuz"]
        next(image for image in images if image.exists()).rename(kernel / "vmlinuz")
        modules.rename(kernel / "tree/usr/lib/modules" / modules.name)
        kernel.rename(target)


def _build(suite: str, target: Path, more: tuple[str, ...]) -> None:
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{suite}-") as scratch:
        tree = Path(scratch) / "root"
        recipe = Path(scratch) / "recipe.sh"
        recipe.write_text(RECIPE)
        _mmdebstrap(
            suite, tree, "--variant=minbase", f"--include={','.join((*PACKAGES, *more))}", f"--essential-hook={POLICY}",
            f'--customize-hook=sh {recipe} "$1"',
        )  # fmt: skip
        tree.chmod(0o755)
        tree.rename(target)


def main(argv: list[str]) -> int:
    """Build the trees of the suites named, or of all; print their paths."""
    for suite in argv or list(SUITES):
        print(ensure(suite), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
