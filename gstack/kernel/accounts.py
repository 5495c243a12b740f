"""The default service account of a project: its address says which project it is, so nobody has to be asked."""

from __future__ import annotations

import re

_ADDRESS = re.compile(r"([1-9][0-9]{0,18})-compute@developer\.gserviceaccount\.com")


def default_service_account(project: int) -> str:
    """The address, as `projects.get` of Compute Engine tells it. project: its number."""
    return f"{project}-compute@developer.gserviceaccount.com"


def project_of(address: str) -> str:
    """The number of the project whose default service account it is; "" for any other address."""
    found = _ADDRESS.fullmatch(address)
    return found[1] if found else ""
