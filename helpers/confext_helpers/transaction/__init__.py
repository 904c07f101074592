# SPDX-License-Identifier: LGPL-2.1-or-later
"""The transaction, which is one reload from start to end: the only place where its steps are ordered.

`prepare` builds and judges the future `/etc`, `commit` puts it in place, `confirm` asks how the service's own reload
ended. The hook does all three. `unit-confext diff` only does `prepare`, and so refuses what the hook refuses.
"""
