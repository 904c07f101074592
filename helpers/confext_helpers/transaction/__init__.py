# SPDX-License-Identifier: LGPL-2.1-or-later
"""One reload from its start to its end: the only place where its steps are ordered.

`prepare` asks all that is asked of a future `/etc`, `commit` puts it in place, `confirm` says what the service's own
reload made of it. The hook does all three. `unit-confext diff` does the first, and so judges as the hook does.
"""
