# SPDX-License-Identifier: LGPL-2.1-or-later
"""The outside world, each part behind one module: kernel, manager, journal, programs, slow storage.

Modules here know nothing of this project's services, images and layers.
"""
