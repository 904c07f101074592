# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the service thinks of its future `/etc`: the `[X-Confext]` section and the commands of `Check=`."""
