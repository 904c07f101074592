# SPDX-License-Identifier: LGPL-2.1-or-later
"""The names and numbers that the rest agrees on, in one place."""

from __future__ import annotations

VERSION = "0.1.0"

# What to do about a fault of this project itself.
BUGS = "please report it, see BUGS in unit-confext(1)"

# What to do about what others can write.
ROOTS_ALONE = "chown root:root, chmod go-w"

# What the names of this project's own units begin with.
PROJECT_PREFIX = b"unit-confext-"

# The unit whose reload re-stacks a service, before the service itself is reloaded.
RESTACK_UNIT = PROJECT_PREFIX + b"restack@%n.service"

# The unit that looks at who can write the layers, right before a service starts.
ACCESS_UNIT = PROJECT_PREFIX + b"access@%n.service"

# The longest name of a unit that RESTACK_UNIT can be named after (UNIT_NAME_MAX of systemd is 255).
UNIT_NAME_MAX = 255 - len(RESTACK_UNIT.replace(b"%n", b""))

# Sorts after what people and packages name their drop-ins, so it is read last.
DROPIN = b"zz-unit-confext.conf"

# The oldest systemd that takes confexts in ExtensionImages=.
OLDEST_SYSTEMD = 255

# The last systemd that takes a command whose path ends in "/." or "/..".
DOT_PATHS_SYSTEMD = 255

# The first systemd that picks the newest version out of a `.v/` directory.
VPICK_SYSTEMD = 256

# The first systemd that runs a command line in a shell if it starts with "|".
SHELL_PREFIX_SYSTEMD = 258

# The first systemd with RefreshOnReload=.
REFRESH_ON_RELOAD_SYSTEMD = 260
