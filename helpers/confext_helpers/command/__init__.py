# SPDX-License-Identifier: LGPL-2.1-or-later
"""The command `unit-confext`, with which people and orchestrators look at, verify and build confexts.

`main.py` parses the command line with the tables in `options.py` and calls `run()` of the verb's module in `verbs/`.
"""
