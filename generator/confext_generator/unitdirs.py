# SPDX-License-Identifier: LGPL-2.1-or-later
"""List the units, aliases, drop-in directories and `.confext.d/` directories in the unit directories.

Each directory is listed once. Names are then resolved as by unit_file_build_name_map() and unit_file_find_fragment()
of systemd's unit-file.c: the first directory with a name wins; a symlink within the unit directories is an alias; a
symlink that leads out of them is a unit file of its own ("linked"); a symlink to /dev/null is a mask.
"""

from __future__ import annotations

import posix as os

from confext_generator import names
from confext_generator.report import Complaint
from confext_generator.tree import DEV_NULL

TYPE_CHECKING = False
if TYPE_CHECKING:
    from confext_generator.complaints import Code
    from confext_generator.report import Reporter
    from confext_generator.tree import Tree

# systemd.unit(5), "System Unit Search Path", without the generator directories, which are empty while generators run.
# True: `.confext.d/` directories count here. They count in directories that administrators and packages write to, not
# in those that systemd itself writes to.
_SEARCH_PATH = (
    (b"/etc/systemd/system.control", False),
    (b"/run/systemd/system.control", False),
    (b"/run/systemd/transient", False),
    (b"/etc/systemd/system", True),
    (b"/etc/systemd/system.attached", False),
    (b"/run/systemd/system", True),
    (b"/run/systemd/system.attached", False),
    (b"/usr/local/lib/systemd/system", True),
    (b"/usr/lib/systemd/system", True),
)

CONFEXT_SUFFIX = b".confext.d"

# systemd's limit on aliases of aliases.
_FOLLOW_MAX = 8


class Source:
    """One `.confext.d/` directory.

    `name` is the unit that it is named after, `rank` the index of its parent in the search path. `without_type` means
    that the directory's name lacks `.service`.
    """

    __slots__ = ("is_link", "name", "path", "rank", "without_type")

    def __init__(self, path: bytes, name: bytes, rank: int, without_type: bool, is_link: bool) -> None:
        self.path = path
        self.name = name
        self.rank = rank
        self.without_type = without_type
        self.is_link = is_link


def search_path(unit_path: str | None) -> list[tuple[bytes, bool]]:
    """Return the unit directories in order, each with whether `.confext.d/` directories count in it.

    `unit_path` is $SYSTEMD_UNIT_PATH, which replaces the default list, or is put before it if it ends in a colon.
    """
    found: dict[bytes, bool] = {}
    if unit_path is not None:
        from os import fsencode
        from os.path import abspath

        for part in fsencode(unit_path).split(b":"):
            if part:
                found.setdefault(abspath(part), True)
    if unit_path is None or unit_path.endswith(":"):
        for path, has_confexts in _SEARCH_PATH:
            found.setdefault(path, has_confexts)
    return list(found.items())


def _entries(tree: Tree, directory: bytes) -> list[os.DirEntry[bytes]]:
    """Return the entries of a directory, as many as can be read."""
    found: list[os.DirEntry[bytes]] = []
    try:
        with os.scandir(tree.real(directory)) as entries:
            for entry in entries:
                found.append(entry)  # list() would lose the entries before an error.
    except OSError:
        pass
    return found


class UnitDirs:
    """The contents of the unit directories."""

    __slots__ = ("_aliases", "_dropin_dirs", "_expanded", "_ids", "_instances", "passed_over", "sources", "tree")

    def __init__(self, tree: Tree, path: list[tuple[bytes, bool]], reporter: Reporter) -> None:
        """List the directories of `path`; raises nothing, unreadable directories count as empty."""
        self.tree = tree
        self.sources: list[Source] = []
        # `.confext.d/` directories not read because of a mask: (path, whether `path` is the mask itself).
        self.passed_over: list[tuple[bytes, bool]] = []
        # Unit name to the path of its unit file or, for an alias, to the name it is an alias of.
        self._ids: dict[bytes, bytes] = {}
        # Drop-in directory name, e.g. "foo.service.d", to (rank, path) of the directories of that name, in order.
        self._dropin_dirs: dict[bytes, list[tuple[int, bytes]]] = {}
        self._aliases: dict[bytes, list[bytes]] | None = None
        self._instances: dict[bytes, set[bytes]] | None = None
        self._expanded: list[bytes] | None = None

        masked: set[bytes] = set()
        for rank, (directory, has_confexts) in enumerate(path):
            links: list[bytes] = []
            confexts: list[tuple[bytes, bool, bool]] = []
            for entry in _entries(tree, directory):
                name = entry.name
                try:
                    if name.endswith(b".service"):
                        if entry.is_symlink():
                            links.append(name)
                        elif name not in self._ids and entry.is_file() and names.is_valid_service(name):
                            self._ids[name] = directory + b"/" + name
                    elif not name.endswith(b".d"):
                        continue
                    elif name.endswith(b".service.d") or name == b"service.d":
                        self._dropin_dirs.setdefault(name, []).append((rank, directory + b"/" + name))
                    elif has_confexts and name.endswith(CONFEXT_SUFFIX):
                        is_link = entry.is_symlink()
                        confexts.append((name, is_link, is_link or entry.is_dir()))
                except OSError:
                    continue  # The entry disappeared, or its file system is broken.
            for name in links:
                if name not in self._ids and names.is_valid_service(name):
                    self._add_link(path, directory, name)
            confexts.sort()
            for name, is_link, is_dir in confexts:
                if name in masked:
                    self._pass_over(directory, name, is_mask=False)
                    continue
                try:
                    is_mask = is_link and tree.chase(directory + b"/" + name) == DEV_NULL
                except OSError:
                    reporter.warn(Complaint("ignored", "loop", b"", directory + b"/" + name))
                    continue
                if is_mask:
                    masked.add(name)
                    self._pass_over(directory, name, is_mask=True)
                else:
                    self._add_source(directory, name, rank, is_link, is_dir, reporter)

    def _pass_over(self, directory: bytes, name: bytes, *, is_mask: bool) -> None:
        if not name.startswith(b"."):
            self.passed_over.append((directory + b"/" + name, is_mask))

    def _add_source(
        self, directory: bytes, name: bytes, rank: int, is_link: bool, is_dir: bool, reporter: Reporter
    ) -> None:
        """Add the `.confext.d/` directory called `name`, or report why it is ignored."""
        path = directory + b"/" + name
        stem = name[: -len(CONFEXT_SUFFIX)]
        if stem.startswith(b".") or not stem:
            reporter.debug(Complaint("ignored", "directory-hidden", b"", path))
            return
        suffix = stem.rpartition(b".")[2]
        without_type = suffix != b"service" or stem == suffix
        unit = stem + names.SERVICE if without_type else stem
        code: Code | None = None
        detail = ""
        if without_type and suffix in names.UNIT_TYPES:
            if stem == suffix:
                code, detail = "for-all-units", stem.decode()
            else:
                code, detail = "for-other-type", suffix.decode()
        elif not names.is_valid_service(unit):
            code = "no-unit-name"
        elif names.split(unit)[0].endswith(b"-"):
            # Every unit whose name starts with "foo-" reads the drop-in directory of a unit called foo-.service.
            code = "for-prefix"
        elif not is_dir:
            code = "not-a-directory"
        if code:
            reporter.warn(Complaint("ignored", code, b"", path, detail))
            return
        self.sources.append(Source(path, unit, rank, without_type, is_link))

    def _add_link(self, path: list[tuple[bytes, bool]], directory: bytes, name: bytes) -> None:
        """Map the symlink `name` as unit_file_resolve_symlink() does; ignore an invalid one."""
        link = directory + b"/" + name
        try:
            target = self.tree.readlink(link)
            if b"/" not in target:
                tail = target
            else:
                target = self.tree.follow(link, target)
                parent, _, tail = target.rpartition(b"/")
                parent = self.tree.chase(parent)
                if self._expanded is None:
                    self._expanded = self._expand([d for d, _ in path])
                if not any((parent + b"/").startswith(d) for d in self._expanded):
                    self._ids[name] = link
                    return
        except OSError:
            return
        if tail == name or not names.is_valid_service(tail):
            return
        instance, of_target = names.split(name)[1], names.split(tail)[1]
        if instance == of_target or (instance and of_target == b""):
            self._ids[name] = tail

    def _expand(self, directories: list[bytes]) -> list[bytes]:
        """Return the unit directories, as written and with symlinks resolved, each with a slash at the end."""
        found = dict.fromkeys(directories)
        for directory in directories:
            try:
                found[self.tree.chase(directory)] = None
            except OSError:
                continue  # A loop of symlinks contains no units.
        return [directory + b"/" for directory in found]

    def _find(self, name: bytes) -> bytes | None:
        """Return the unit file of exactly `name`, following aliases, as unit_ids_map_get() does."""
        current = name
        for _ in range(_FOLLOW_MAX):
            target = self._ids.get(current)
            if target is None:
                template = names.template_of(current) if current != name else None
                target = self._ids.get(template) if template else None
                if target is None:
                    return None
            if target.startswith(b"/"):
                return target
            current = target
        return None

    def fragment(self, name: bytes) -> bytes | None:
        """Return the path of the unit file that systemd loads for `name`, None if there is none.

        An instance without its own unit file has the template's.
        """
        found = self._find(name)
        if found is None:
            template = names.template_of(name)
            if template:
                found = self._find(template)
        return found

    def unit_id(self, name: bytes) -> bytes | None:
        """Return the main name of the unit `name`, which may be an alias; None if the unit has no unit file."""
        fragment = self.fragment(name)
        if fragment is None:
            return None
        main = fragment.rpartition(b"/")[2]
        instance = names.split(name)[1]
        return names.with_instance(main, instance) if instance and names.is_template(main) else main

    def aliases(self, unit: bytes) -> list[bytes]:
        """Return the other names of `unit`. They are sorted, because systemd's own order is that of a hash table."""
        if self._aliases is None:
            self._aliases = {}
            for name, target in self._ids.items():
                if not target.startswith(b"/"):
                    main = self.unit_id(name)
                    if main is not None and main != name:
                        self._aliases.setdefault(main, []).append(name)
        if b"@" not in unit:
            return sorted(self._aliases.get(unit, ()))
        found = set(self._aliases.get(unit, ()))
        instance = names.split(unit)[1]
        template = names.template_of(unit)
        if template and instance:
            for alias in self._aliases.get(template, ()):
                if names.is_template(alias):
                    alias = names.with_instance(alias, instance)
                    # An instance of the alias may have its own symlink to another unit.
                    if self.unit_id(alias) == unit:
                        found.add(alias)
        found.discard(unit)
        return sorted(found)

    def instances(self, template: bytes) -> list[bytes]:
        """Return the instances of `template` that have their own unit file, drop-in or `.confext.d/`."""
        if self._instances is None:
            self._instances = {}
            seen = [*self._ids, *(d[:-2] for d in self._dropin_dirs), *(s.name for s in self.sources)]
            for name in seen:
                if b"@" in name:
                    prefix, instance = names.split(name)
                    if instance and names.is_valid_service(name):
                        self._instances.setdefault(prefix + b"@" + names.SERVICE, set()).add(instance)
        found = set()
        for alias in (template, *self.aliases(template)):
            for read in names.dropin_names(alias):
                if names.is_template(read):
                    # For an instance of foo-x@.service, drop-ins may also be in foo-@bar.service.d/.
                    found |= {names.with_instance(alias, i) for i in self._instances.get(read, ())}
        units = {self.unit_id(name) for name in found}
        return sorted(u for u in units if u is not None and names.template_of(u) == template)

    def dropin_dirs(self, unit: bytes) -> list[bytes]:
        """Return the `.d/` directories that systemd reads for `unit`; the first file of a name wins."""
        found = []
        for name in (unit, *self.aliases(unit)):
            hits = []
            for distance, candidate in enumerate(names.dropin_names(name)):
                for rank, path in self._dropin_dirs.get(candidate + b".d", ()):
                    hits.append((rank, distance, path))
            hits.sort()
            found += [hit[2] for hit in hits]
        found += [path for _, path in self._dropin_dirs.get(b"service.d", ())]
        return found
