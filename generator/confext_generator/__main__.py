# SPDX-License-Identifier: LGPL-2.1-or-later
"""Start the generator, as a script (`python3 -I -S .../confext_generator/__main__.py`) or with `python3 -m`.

Python compiles a script anew at every start, so this file is minimal; the package's modules are loaded byte-compiled.
The shell script runs this file because `-m` and `python3 DIRECTORY` load runpy, which costs more than the whole
generator.
"""

import gc
import posix as os
import sys

if not __package__:
    sys.path.insert(0, __file__.rpartition("/")[0] + "/..")

# The process exits before there is garbage worth collecting, and each collection takes time.
gc.disable()

from confext_generator.cli import main  # noqa: E402

if __name__ == "__main__":
    status = main(sys.argv[1:])
    sys.stdout.flush()
    # Nothing is left to clean up; finalizing the interpreter would take a tenth of the whole run.
    os._exit(status)
