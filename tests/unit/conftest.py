# SPDX-License-Identifier: LGPL-2.1-or-later
"""Fixtures of the unit tests."""

from lab.ownplace import own_path

__all__ = ["own_path"]
