# SPDX-License-Identifier: LGPL-2.1-or-later
"""The command `unit-confext`: what people and orchestrators see, verify and build confexts with.

`main.py` parses the command line by the tables in `options.py` and calls `run()` of the module in `verbs/` that
is named like the verb.
"""
