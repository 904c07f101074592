# SPDX-License-Identifier: LGPL-2.1-or-later
"""A reporter of the generator's that keeps what it is told, each complaint once, with the line that it would print."""

from __future__ import annotations

from confext_generator.report import Complaint, Reporter


class Recorder(Reporter):
    """Attributes: `lines`, and `complaints`, to which they belong."""

    __slots__ = ("complaints", "lines")

    def __init__(self, *, debugging: bool = False) -> None:
        self.lines: list[str] = []
        self.complaints: list[Complaint] = []
        super().__init__(emit=self.lines.append, debugging=debugging)

    def warn(self, complaint: Complaint) -> None:
        super().warn(complaint)
        self._keep(complaint)

    def debug(self, complaint: Complaint) -> None:
        super().debug(complaint)
        self._keep(complaint)

    def _keep(self, complaint: Complaint) -> None:
        if len(self.lines) > len(self.complaints):
            self.complaints.append(complaint)

    @property
    def codes(self) -> list[tuple[str, str, bytes]]:
        """Effect, code and path of each complaint."""
        return [(complaint.effect, complaint.code, complaint.path) for complaint in self.complaints]
