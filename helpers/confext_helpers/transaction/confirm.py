# SPDX-License-Identifier: LGPL-2.1-or-later
"""Ask for the result of the service's own reload, which comes after the new `/etc` is in place."""

from __future__ import annotations

from typing import TYPE_CHECKING

from confext_helpers.service.properties import ServiceProperties

if TYPE_CHECKING:
    from confext_helpers.system.manager import ServiceManager


def reload_result(manager: ServiceManager, unit: str) -> str:
    """ReloadResult= of a service, org.freedesktop.systemd1(5): "success", or how the last reload failed."""
    return ServiceProperties(manager.service_properties(unit)).reload_result
