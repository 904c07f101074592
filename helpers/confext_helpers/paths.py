# SPDX-License-Identifier: LGPL-2.1-or-later
"""Paths and names that several modules agree on."""

# What the hook keeps and mounts things in.
RUN_DIRECTORY = "/run/unit-confext"
ETC = "/etc"


# The generator's drop-ins are in it, and systemd makes it anew whenever it loads units; their settings do not change
# otherwise.
GENERATED = "/run/systemd/generator"


SIDECARS = (".verity", ".roothash", ".roothash.p7s", ".usrhash", ".usrhash.p7s")
