# SPDX-License-Identifier: LGPL-2.1-or-later
"""Read confext images as files: their contents, their integrity, and their signers.

No module here mounts anything or needs root. `verdict.py` implements `unit-confext verify`, `dissect.py` finds the
parts of an image, `signers.py` verifies the signature without reading the whole image.
"""
