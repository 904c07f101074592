# SPDX-License-Identifier: LGPL-2.1-or-later
"""The stage, a unit in which systemd builds the future `/etc`, and what a reload refuses before and after that."""
