# SPDX-License-Identifier: LGPL-2.1-or-later
"""What happens at a reload: the command that unit-confext-restack@.service runs."""
