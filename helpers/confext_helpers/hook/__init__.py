# SPDX-License-Identifier: LGPL-2.1-or-later
"""The hook: the command that unit-confext-restack@.service runs before a service's own reload."""
