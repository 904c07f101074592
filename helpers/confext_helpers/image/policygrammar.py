# SPDX-License-Identifier: LGPL-2.1-or-later
"""The grammar of image policies, with pyparsing: systemd.image-policy(7).

Like image_policy_from_string() in systemd's image-policy.c, the grammar splits a policy at colons, each rule at the
equals sign, and its flags at plus signs, and ignores white space around words. policy.py interprets the words.
"""

from __future__ import annotations

import pyparsing as pp

_SPACE = " \t\n\r"
# A word may be empty or unknown here: like systemd, policy.py checks the words only after the whole policy is split.
_WORD = pp.Regex(r"[^:+=\\\0]*").set_parse_action(lambda found: found[0].strip(_SPACE)).leave_whitespace()


def _several(what: pp.ParserElement, separator: str) -> pp.ParserElement:
    # pyparsing's own function for this is called delimited_list() only before 3.1, and that name was dropped later.
    rest = pp.Literal(separator).leave_whitespace().suppress() + what
    return what + pp.ZeroOrMore(rest.leave_whitespace()).leave_whitespace()


_FLAGS = pp.Group(_several(_WORD, "+"))
_RULE = pp.Group(_WORD + pp.Literal("=").leave_whitespace().suppress() + _FLAGS)
_GRAMMAR = (_several(_RULE, ":") + pp.StringEnd().leave_whitespace()).leave_whitespace()
# Keep tabs: expanding them to spaces would change the reported column.
_GRAMMAR.parse_with_tabs()


def split(text: str) -> list[tuple[str, list[str]]] | int:
    """Split a policy into partitions and their flags, as written.

    Returns:
        The rules; or, if the policy is malformed, the column of the error, starting at 1.
    """
    try:
        parsed = _GRAMMAR.parse_string(text)
    except pp.ParseException as error:
        return int(error.col)
    return [(str(name), [str(word) for word in words]) for name, words in parsed]
