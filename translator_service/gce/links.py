"""The one builder and the one reader of resource links.

Out: `https://HOST/compute/v1/projects/P/zones/Z/instances/I`, always absolute. In: every spelling that clients send:
any host, any API version, `projects/P/...`, `zones/Z/...`, a leading or double slash, a region left empty, a bare name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import quote, unquote, urlsplit

from gstack.kernel.errors import invalid

_SCOPES = ("zones", "regions")
# What a path may hold as it is (RFC 3986, 3.3): gcutil prints the ends of links as names.
_PLAIN = "@:!$&'()*+,;="
# Terraform takes a region from a zone's name, and leaves it empty where that has a single dash.
_NO_REGION = re.compile(r"(?:^|(?<=/))regions//+(?=subnetworks/)")


@dataclass(frozen=True)
class Reference:
    """What a link or a part of one names. scope: "zones/z", "regions/r", "global" or "" when it was not told."""

    name: str
    collection: str = ""
    scope: str = ""
    project: str = ""

    @property
    def zone(self) -> str:
        return self.scope.removeprefix("zones/") if self.scope.startswith("zones/") else ""

    @property
    def region(self) -> str:
        return self.scope.removeprefix("regions/") if self.scope.startswith("regions/") else ""


@dataclass(frozen=True)
class Links:
    """Links of one project. base: scheme, host and API version, as `https://www.googleapis.com/compute/v1`."""

    base: str
    project: str

    @property
    def root(self) -> str:
        return f"{self.base}/projects/{quote(self.project, safe=_PLAIN)}"

    def of(self, *path: str) -> str:
        """`of("zones", "z", "instances", "i")`; without arguments the project itself."""
        return "/".join((self.root, *(quote(part, safe="/" + _PLAIN) for part in path)))

    def path(self, *path: str) -> str:
        """The same without scheme, host and version, as error messages name resources."""
        return "/".join((f"projects/{self.project}", *path))


def parse(text: str, field: str) -> Reference:
    """Read a reference. Raises 400 naming the field when it is none.

    Names are decoded twice: gcloud encodes the last segment of a link once more (`My%2520Image`).
    """
    try:
        path = urlsplit(text).path if "://" in text else text
    except ValueError:
        raise invalid(field, f"'{text}'. The URL is malformed.") from None
    parts = [unquote(unquote(part)) for part in _NO_REGION.sub("", path).split("/") if part]
    if "projects" in parts:
        parts = parts[parts.index("projects") :]
    elif len(parts) > 2 and parts[0] == "compute":
        parts = parts[2:]
    if not parts or any(not part.strip() or part in (".", "..") for part in parts):
        raise invalid(field, f"'{text}'. The URL is malformed.")
    project = ""
    if parts[0] == "projects":
        if len(parts) < 3:
            raise invalid(field, f"'{text}'. The URL is malformed.")
        project, parts = parts[1], parts[2:]
    scope = ""
    if parts[0] == "global" and len(parts) > 1:
        scope, parts = "global", parts[1:]
    elif parts[0] in _SCOPES and len(parts) > 2:
        scope, parts = f"{parts[0]}/{parts[1]}", parts[2:]
    if len(parts) == 1:
        return Reference(parts[0], "", scope, project)
    if len(parts) == 3 and parts[:2] == ["images", "family"]:
        return Reference(parts[2], "imageFamilyViews", scope, project)
    if len(parts) == 2:
        return Reference(parts[1], parts[0], scope, project)
    raise invalid(field, f"'{text}'. The URL is malformed.")
