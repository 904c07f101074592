# SPDX-License-Identifier: LGPL-2.1-or-later
"""unit-confext-generator: turn `<unit>.confext.d/` directories into drop-ins for systemd.

The data goes one way, one module per step:

    unitdirs  what is there: unit directories, unit names, aliases, `.confext.d/` directories
    sources   which of those directories belong to which unit
    settings  what the unit already says; unitfile reads one file, settings puts the files in systemd's order
    layers    what lies in the directories; entrynames, access, vpick and vercmp have the rules
    decide    what the drop-in has to say
    render    how that is written down so that systemd reads exactly it
    write     the only step that touches the disk

cli puts the steps together; tree is the file system below `--root=`; names and words know systemd's
syntax, systemdversion its version; report takes what there is to complain about, and complaints words it, which
is loaded only then.

It runs inside every daemon-reload and at boot before anything else, so it is written for a quick start:
nothing but `sys`, `stat` and builtin modules is imported, not even `typing` or `dataclasses` (15 ms, twice what
Python itself takes to start); a test holds the list.  What the modules call `os` is its builtin half, `posix`,
which has the system calls; the other half takes a tenth of a run with one unit, so it is imported where it is
needed, which is hardly ever.  For the same reason records are plain classes with `__slots__`, read-only by
convention: the step that made one is the only one to assign to it.  Paths, names and file contents are `bytes`
from end to end, because that is what the kernel and systemd deal in, whatever the locale is.
"""
