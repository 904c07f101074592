# SPDX-License-Identifier: LGPL-2.1-or-later
"""The future `/etc`: the unit in which systemd builds it, and what is refused before and after that."""
