# SPDX-License-Identifier: LGPL-2.1-or-later
"""Names and numbers shared by several modules."""

from __future__ import annotations

VERSION = "0.1.0"

# Hint for an unexpected error, that is, for a bug of this project.
BUGS = "please report it, see BUGS in unit-confext(1)"

# Hint for a file that others can write.
ROOTS_ALONE = "chown root:root, chmod go-w"

# Prefix of the names of this project's own units.
PROJECT_PREFIX = b"unit-confext-"

# The unit whose reload re-stacks a service, before the service itself is reloaded.
RESTACK_UNIT = PROJECT_PREFIX + b"restack@%n.service"

# The unit that checks who can write the layers, right before a service starts.
ACCESS_UNIT = PROJECT_PREFIX + b"access@%n.service"

# The longest unit name that fits into the name of RESTACK_UNIT (UNIT_NAME_MAX of systemd is 255).
UNIT_NAME_MAX = 255 - len(RESTACK_UNIT.replace(b"%n", b""))

# "zz-" sorts after the usual names of drop-ins, so systemd reads this one last.
DROPIN = b"zz-unit-confext.conf"

# The oldest systemd that accepts confexts in ExtensionImages=.
OLDEST_SYSTEMD = 255

# The last systemd that accepts a command whose path ends in "/." or "/..".
DOT_PATHS_SYSTEMD = 255

# The first systemd that picks the newest version in a `.v/` directory.
VPICK_SYSTEMD = 256

# The first systemd that runs a command line that starts with "|" in a shell.
SHELL_PREFIX_SYSTEMD = 258

# The first systemd with RefreshOnReload=.
REFRESH_ON_RELOAD_SYSTEMD = 260

# Files beside an image that systemd itself looks for: verity_settings_load() in dissect-image.c.
SIDECAR_SUFFIXES = (b".verity", b".roothash", b".roothash.p7s", b".usrhash", b".usrhash.p7s")
