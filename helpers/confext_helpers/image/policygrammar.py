# SPDX-License-Identifier: LGPL-2.1-or-later
"""The grammar of image policies, with pyparsing: systemd.image-policy(7).

image_policy_from_string() in systemd's image-policy.c splits a policy at colons, a rule at its equals sign, and the
flags at plus signs; white space around a word does not count. What the words mean is policy.py's business.
"""

from __future__ import annotations

import pyparsing as pp

_SPACE = " \t\n\r"
# A word may be empty; what is not known is told from what is malformed only afterwards, as systemd does.
_WORD = pp.Regex(r"[^:+=\\\0]*").set_parse_action(lambda found: found[0].strip(_SPACE)).leave_whitespace()


def _several(what: pp.ParserElement, separator: str) -> pp.ParserElement:
    # Called delimited_list() before pyparsing 3.1, and given up under that name later.
    rest = pp.Literal(separator).leave_whitespace().suppress() + what
    return what + pp.ZeroOrMore(rest.leave_whitespace()).leave_whitespace()


_FLAGS = pp.Group(_several(_WORD, "+"))
_RULE = pp.Group(_WORD + pp.Literal("=").leave_whitespace().suppress() + _FLAGS)
_GRAMMAR = (_several(_RULE, ":") + pp.StringEnd().leave_whitespace()).leave_whitespace()
# Tabs are white space here, and not columns.
_GRAMMAR.parse_with_tabs()


def split(text: str) -> list[tuple[str, list[str]]] | int:
    """Split a policy into partitions and their flags, as they are written.

    Returns:
        The rules; or the column, the first being 1, in which something else is expected.
    """
    try:
        parsed = _GRAMMAR.parse_string(text)
    except pp.ParseException as error:
        return int(error.col)
    return [(str(name), [str(word) for word in words]) for name, words in parsed]
