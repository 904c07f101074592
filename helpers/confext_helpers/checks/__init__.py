# SPDX-License-Identifier: LGPL-2.1-or-later
"""The service's own checks of its future `/etc`: the `[X-Confext]` section and the commands of `Check=`."""
