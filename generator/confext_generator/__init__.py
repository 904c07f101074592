# SPDX-License-Identifier: LGPL-2.1-or-later
"""unit-confext-generator: turn `<unit>.confext.d/` directories into drop-ins for systemd.

Data flows one way, one module per step:

    unitdirs  list the unit directories: units, aliases, drop-in directories, `.confext.d/` directories
    sources   map `.confext.d/` directories to units
    settings  read the settings of a unit; unitfile parses one file, settings merges the files in systemd's order
    layers    classify the entries of `.confext.d/`; the rules are in entrynames, access, vpick and vercmp
    decide    decide on the contents of the drop-in
    render    serialize the drop-in so that systemd reads back exactly what was decided
    write     write the file: the only step that touches the disk

cli runs the steps; tree is the file system below `--root=`; names and words implement systemd's syntax,
systemdversion finds systemd's version; report collects complaints; complaints has their wording and is loaded only
if there are any.

The generator runs inside every daemon-reload, and at boot before anything else, so it has to start quickly. Only
`sys`, `stat` and builtin modules are imported, not even `typing` or `dataclasses` (15 ms, twice the start-up time of
Python itself); a test checks the list. The modules import `posix` as `os`: `posix` is the builtin half of `os`, with
the system calls. The other half costs a tenth of a run with one unit, so the rare code that needs it imports it
locally. Records are plain classes with `__slots__` for the same reason. Records are read-only by convention: only the
step that creates a record assigns to it. Paths, names and file contents are `bytes` throughout, as in the kernel and
in systemd, so the locale does not matter.
"""
