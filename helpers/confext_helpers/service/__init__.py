# SPDX-License-Identifier: LGPL-2.1-or-later
"""What systemd and the kernel say about one service, and the notes about the service between reloads."""
