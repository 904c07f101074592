# SPDX-License-Identifier: LGPL-2.1-or-later
"""The outside world, each part of it behind one module: kernel, manager, journal, programs, slow storage.

Nothing here knows what a service, an image or a layer is to this project.
"""
