# SPDX-License-Identifier: LGPL-2.1-or-later
"""The verbs of the command, one module each."""
