# SPDX-License-Identifier: LGPL-2.1-or-later
"""What systemd and the kernel say about one service, and what is remembered about it between reloads."""
