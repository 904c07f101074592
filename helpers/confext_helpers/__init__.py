# SPDX-License-Identifier: LGPL-2.1-or-later
"""What runs after the generator: the reload hook and the tools around it."""

from __future__ import annotations

__version__ = "0.1.0"
