# SPDX-License-Identifier: LGPL-2.1-or-later
"""Replace `.v/` paths in a unit's own ExtensionImages= and ExtensionDirectories= by versions, for systemd 258 and 259.

If any extension of a service is a `.v/` path, 258 and 259 refresh the service natively at each reload
(exec_context_has_vpicked_extensions() in execute.c). That refresh takes off all mounts below `/etc`, and no setting
turns it off. So the drop-in resets the unit's own settings and repeats them, with each `.v/` path replaced by its
newest version and everything else as it was written.
"""

from __future__ import annotations

from confext_generator import entrynames, names, vpick, words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from confext_generator.tree import Tree


class Inexact(Exception):
    """The generator cannot tell how systemd would read the value; the text says why."""


def resolve_images(tree: Tree, unit: bytes, value: bytes) -> bytes:
    """Return the ExtensionImages= `value` with `.v/` paths replaced by versions; raises Inexact.

    A value without `.v/` paths is returned as it is. `value` is parsed like in config_parse_extension_images() of
    load-fragment.c: split into words, then each word at colons.
    """
    found = []
    is_same = True
    for word in _split(value, escapes=False):
        source, colon, options = _source(word)
        prefix = b"-" if source.startswith(b"-") else b""
        path = _path(unit, source.removeprefix(b"-"))
        if not path:
            found.append(_quote(word) or b'""')
            continue
        is_same = False
        picked = _pick(tree, path, image=True)
        if picked:
            found.append(prefix + words.escape_image(picked) + colon + _quote(options))
        elif not prefix:
            raise Inexact("holds no version for this machine")
    return value if is_same else b" ".join(found)


def resolve_directories(tree: Tree, unit: bytes, value: bytes) -> bytes:
    """Return the ExtensionDirectories= `value` with `.v/` paths replaced by versions; raises Inexact.

    A value without `.v/` paths is returned as it is. `value` is parsed like in config_parse_namespace_path_strv() of
    load-fragment.c.
    """
    found = []
    is_same = True
    for word in _split(value, escapes=True):
        named = word.removeprefix(b"-").removeprefix(b"+")
        path = _path(unit, named)
        if not path:
            # Specifiers have to stay specifiers: undo the doubling of "%".
            found.append(words.quote_word(word).replace(b"%%", b"%"))
            continue
        is_same = False
        picked = _pick(tree, path, image=False)
        if picked:
            found.append(words.quote_word(word[: len(word) - len(named)] + picked))
        elif not word.startswith(b"-"):
            raise Inexact("holds no version for this machine")
    return value if is_same else b" ".join(found)


def may_name_versions(value: bytes) -> bool:
    """Return whether `value` may contain a `.v/` path: a cheap check, with false positives."""
    return b".v" in value or b"%" in value or b"\\" in value


def _split(value: bytes, *, escapes: bool) -> list[bytes]:
    found = []
    while value:
        try:
            word, value = words.first_word(value, escapes=escapes)
        except ValueError:
            break  # systemd ignores the rest of the value and keeps the words before.
        found.append(word)
    return found


def _source(word: bytes) -> tuple[bytes, bytes, bytes]:
    """Return the path in `word` with escapes resolved, the colon after the path, and the unchanged rest.

    Raises Inexact.
    """
    source = bytearray()
    at = 0
    while at < len(word) and word[at : at + 1] != b":":
        if word[at : at + 1] != b"\\":
            source.append(word[at])
            at += 1
        elif word[at + 1 : at + 2] in (b"\\", b":"):
            source.append(word[at + 1])
            at += 2
        elif word[at + 1 : at + 2] == b"x" and len(word) > at + 3:
            try:
                source.append(int(word[at + 2 : at + 4], 16))
            except ValueError:
                raise Inexact("has an escape that is not understood") from None
            at += 4
        else:
            raise Inexact("has an escape that is not understood")
    return bytes(source), word[at : at + 1], word[at + 1 :]


def _path(unit: bytes, text: bytes) -> bytes:
    """Return the `.v/` path that `text` stands for, empty if `text` is no such path; raises Inexact."""
    path, is_known = _expand(unit, text)
    path = b"/" + b"/".join(part for part in path.split(b"/") if part and part != b".")
    if not vpick.is_versioned(path):
        if not is_known and text[-2:-1] == b"%":
            raise Inexact("ends in a specifier that is not known here")
        return b""
    if not is_known:
        raise Inexact("has a specifier that is not known here")
    is_taken = text.startswith((b"/", b"%")) and b".." not in path.split(b"/")
    if not is_taken or path.startswith(entrynames.API_FILE_SYSTEMS):
        return b""  # systemd ignores such a path.
    return path


def _expand(unit: bytes, text: bytes) -> tuple[bytes, bool]:
    """Return `text` with known specifiers (systemd.unit(5)) expanded, and whether there were no others."""
    prefix, instance = names.split(unit)
    known = {b"%%": b"%", b"%p": prefix}
    if instance != b"":  # In a template, the values of these depend on the instance.
        known |= {b"%n": unit, b"%N": unit.removesuffix(names.SERVICE), b"%i": instance or b""}
    found = []
    is_known = True
    at = 0
    while at < len(text):
        step = 2 if text[at : at + 1] == b"%" else 1
        part = text[at : at + step]
        is_known = is_known and (step == 1 or part in known)
        found.append(known.get(part, part))
        at += step
    return b"".join(found), is_known


def _pick(tree: Tree, path: bytes, *, image: bool) -> bytes | None:
    try:
        picked = vpick.pick(tree, path, image=image)
    except OSError as e:
        raise Inexact(f"cannot be read now ({e.strerror or e})") from None
    if picked is not None and not entrynames.is_expressible(picked):
        raise Inexact("holds a name that cannot be written into a unit file")
    return picked


def _quote(text: bytes) -> bytes:
    """Return `text`, the result of splitting into words, quoted so that splitting returns it again; raises Inexact.

    systemd parses each word a second time and resolves C escapes then, so characters that would end a word can be
    written as C escapes.
    """
    special = (b" ", b"\t", b'"', b"'")
    if b"\\" in text and any(c in text for c in special):
        raise Inexact("has quotes and escapes at once")
    for c in special:
        text = text.replace(c, b"\\x%02x" % ord(c))
    return text
