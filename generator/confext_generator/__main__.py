# SPDX-License-Identifier: LGPL-2.1-or-later
"""Start the generator, as a script (`python3 -I -S .../confext_generator/__main__.py`) or with `python3 -m`.

This file is compiled at every start, as Python does with scripts, so it only finds the package, whose modules
are loaded byte-compiled.  `-m` and `python3 DIRECTORY` go through runpy, which costs more than the whole
generator.
"""

import gc
import posix as os
import sys

if not __package__:
    sys.path.insert(0, __file__.rpartition("/")[0] + "/..")

# This ends before there is anything to collect, and looking for it takes time.
gc.disable()

from confext_generator.cli import main  # noqa: E402

if __name__ == "__main__":
    status = main(sys.argv[1:])
    sys.stdout.flush()
    # Nothing is left to clean up; taking the interpreter apart would be a tenth of the whole run.
    os._exit(status)
