# SPDX-License-Identifier: LGPL-2.1-or-later
"""Confext images as files: what is in them, whether they are whole, and who signed them.

Nothing here mounts anything or needs to be root. `verdict.py` is what `unit-confext verify` asks, `dissect.py` finds
the parts of an image, `signers.py` says who signed one without reading all of it.
"""
