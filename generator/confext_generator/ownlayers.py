# SPDX-License-Identifier: LGPL-2.1-or-later
"""The versions in a unit's own ExtensionImages= and ExtensionDirectories=, for 258 and 259 only.

These refresh a service natively at each reload if any of its extensions is a `.v/` path
(exec_context_has_vpicked_extensions() in execute.c), which takes all mounts below `/etc` off, and they have no switch
for it. So the drop-in takes the unit's own settings back and repeats them, with the newest version in the place of each
such path. Everything else is repeated as it was written.
"""

from __future__ import annotations

from confext_generator import entrynames, names, vpick, words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from confext_generator.tree import Tree


class Inexact(Exception):
    """What systemd would make of it cannot be told here; the text says why."""


def resolve_images(tree: Tree, unit: bytes, value: bytes) -> bytes:
    """Return the ExtensionImages= `value` with versions for `.v/` paths, itself if there is none; raises Inexact.

    As config_parse_extension_images() of load-fragment.c: words, of which each is split at colons then.
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
    """Return the ExtensionDirectories= `value` with versions for `.v/` paths, itself if there is none; raises Inexact.

    As config_parse_namespace_path_strv() of load-fragment.c.
    """
    found = []
    is_same = True
    for word in _split(value, escapes=True):
        bare = word.removeprefix(b"-").removeprefix(b"+")
        path = _path(unit, bare)
        if not path:
            # Specifiers are to be seen again.
            found.append(words.quote_word(word).replace(b"%%", b"%"))
            continue
        is_same = False
        picked = _pick(tree, path, image=False)
        if picked:
            found.append(words.quote_word(word[: len(word) - len(bare)] + picked))
        elif not word.startswith(b"-"):
            raise Inexact("holds no version for this machine")
    return value if is_same else b" ".join(found)


def may_name_versions(value: bytes) -> bool:
    """Return whether there may be a `.v/` path in `value`, at first sight."""
    return b".v" in value or b"%" in value or b"\\" in value


def _split(value: bytes, *, escapes: bool) -> list[bytes]:
    found = []
    while value:
        try:
            word, value = words.first_word(value, escapes=escapes)
        except ValueError:
            break  # systemd ignores the rest, and keeps what came before.
        found.append(word)
    return found


def _source(word: bytes) -> tuple[bytes, bytes, bytes]:
    """Return the path in `word`, escapes resolved, the colon after it, and the rest as it is; raises Inexact."""
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
    """Return the `.v/` path that `text` means, empty if it is none; raises Inexact."""
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
        return b""  # systemd ignores it.
    return path


def _expand(unit: bytes, text: bytes) -> tuple[bytes, bool]:
    """Return `text` with the specifiers that are known here expanded (systemd.unit(5)), and whether these are all."""
    prefix, instance = names.split(unit)
    known = {b"%%": b"%", b"%p": prefix}
    if instance != b"":  # A template's are its instances'.
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
    """Return `text`, which came out of the splitting into words, so that it comes out again; raises Inexact.

    What is in it is looked at once more, with C escapes, so these can stand for what ends a word.
    """
    special = (b" ", b"\t", b'"', b"'")
    if b"\\" in text and any(c in text for c in special):
        raise Inexact("has quotes and escapes at once")
    for c in special:
        text = text.replace(c, b"\\x%02x" % ord(c))
    return text
