# SPDX-License-Identifier: LGPL-2.1-or-later
"""Look at services: what runs, what is loaded, what is on disk, where a file comes from. Changes nothing."""
