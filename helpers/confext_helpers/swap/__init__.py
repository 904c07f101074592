# SPDX-License-Identifier: LGPL-2.1-or-later
"""The swap: how a new `/etc` replaces the old one, and what changes by that."""
