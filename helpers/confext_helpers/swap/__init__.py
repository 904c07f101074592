# SPDX-License-Identifier: LGPL-2.1-or-later
"""How one `/etc` takes the place of another, and what that changes."""
