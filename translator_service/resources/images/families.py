"""Families and public image projects: the templates that their words, or the operator, mean."""

from __future__ import annotations

import re
from functools import lru_cache

from translator_service.cloudstack.rows import Row
from translator_service.gce.naming import slug
from translator_service.resources.images.templates import about, is_trusted, state_of, templates
from translator_service.scope import Scope

# Images of a public project that is not mapped. Clients ask twenty such projects in a row.
_MOST = 500
# Google's families name the processor only to tell it from another one.
_PROCESSORS = ("amd64", "x86")


# Systems that templates name otherwise than the public project does.
_SYSTEMS = {"rhel": ("rhel", "red-hat"), "suse": ("suse", "sles")}


# Google's families by what is in a slug: a system, then a version, and what tells it from others of that version.
_FAMILIES = tuple(
    (system, re.compile(rf"(?<![a-z]){pattern}"))
    for system, pattern in (
        ("debian", r"debian(?:-gnu-linux)?-?(\d+)"),
        ("ubuntu", r"ubuntu(?:-server)?-?(\d\d-?\d\d)(?!\d)(?:-\d+)?(?:-(lts))?"),
        ("centos", r"centos(?:-linux)?-(stream)-?(\d+)"),
        ("centos", r"centos(?:-linux)?-?(\d+)"),
        ("rocky-linux", r"rocky-linux-?(\d+)"),
        ("almalinux", r"almalinux-?(\d+)"),
        ("rhel", r"rhel-?(\d+)"),
        ("sles", r"sles-?(\d+)"),
        ("opensuse-leap", r"opensuse-leap()"),
        ("fedora", r"fedora(?:-linux|-server|-cloud)*-?(\d+)"),
        ("windows", r"windows-(?:server-)?(\d{4})(?:-(r2))?"),
    )
)

_BITS = re.compile(r"-(?:(?:32|64)-?bit|x86(?:-64)?|amd64|arm64|aarch64)(?![a-z0-9])")
_UP_TO_VERSION = re.compile(r".*?[0-9](?![a-z0-9])|.*")


def offered(scope: Scope, project: str) -> list[Row]:
    """What there is in a public project."""
    families = scope.names.image_projects.get(project)
    if families is None:
        return [row for _, row in templates(scope).offered if row.get("isready") and is_of(row, project)][:_MOST]
    found = [row for family in families for row in of_family(scope, family, project, mapped=True)]
    return list({row["id"]: row for row in found}.values())


def of_family(scope: Scope, family: str, project: str = "", *, mapped: bool = False) -> list[Row]:
    """The ready templates of a family that may be used: those that were made for it here; else as the operator maps
    it, else by its words. Those that are shown with it first, then the newest, then the smallest.

    project: a public one; else the caller's own templates count too. mapped: the operator put the family into that
    project; else what is found by words must have the project's system in its name.
    """
    known = templates(scope)
    everything = known.offered if project else known
    ready = [row for _, row in everything if row.get("isready") and state_of(row) == "ACTIVE"]
    pattern = scope.names.families.get(family)
    if not project and (made := [row for row in ready if _made_for(row) == family]):
        found = made
    elif pattern is not None:
        found = [row for row in ready if not _made_for(row) and _is_mapped(pattern, row)]
    else:
        words = _words(family)
        found = [
            row
            for row in ready
            if is_trusted(row)
            and not about(row)
            and _has(row, words)
            and (not project or mapped or is_of(row, project))
        ]
    found.sort(key=lambda row: int(row.get("size") or 0))
    found.sort(key=lambda row: str(row.get("created", "")), reverse=True)
    # Windows 2012 R2 has the words of 2012 too, and a family of its own.
    found.sort(key=lambda row: family_of(scope, row) != family)
    return found


def _made_for(row: Row) -> str:
    """The family that an image was made for here."""
    family = about(row).get("family")
    return family if isinstance(family, str) and is_trusted(row) else ""


def _words(family: str) -> list[str]:
    joined = re.sub(r"(?<=[0-9])-(?=[0-9])", "", family.lower())
    return [word for word in joined.split("-") if word and word not in _PROCESSORS]


def _is_mapped(pattern: str, row: Row) -> bool:
    """Whether the operator's template id, or name, or regular expression of names, means this template."""
    if pattern == row["id"]:
        return True
    if not is_trusted(row):
        return False
    if pattern == row["name"]:
        return True
    try:
        return re.fullmatch(pattern, row["name"], re.IGNORECASE) is not None
    except re.error:
        return False


def is_of(row: Row, project: str) -> bool:
    """Whether a template's name has the system of a public project: `debian` for `debian-cloud`."""
    system = project.partition("-")[0]
    return any(re.search(rf"(?<![a-z]){word}", slug(row["name"])) for word in _SYSTEMS.get(system, (system,)))


def _has(row: Row, words: list[str]) -> bool:
    """Whether the template's name has all these words in this order, as whole words: `1204` is `12-04`, `1` is not."""
    name, position = slug(row["name"]), 0
    for word in words:
        match = re.compile(_word(word)).search(name, position)
        if match is None:
            return False
        position = match.end()
    return bool(words)


def _word(word: str) -> str:
    if word.isdecimal():
        # Not inside a version: the 6 of CentOS 5.6 is not CentOS 6.
        return rf"(?<![0-9])(?<![0-9]-){'-?'.join(word)}(?![0-9])"
    return rf"(?<![a-z]){re.escape(word)}(?![a-z])"


def family_of(scope: Scope, row: Row) -> str:
    """The family of a template, by which it is found: the one it was made for here, the operator's, the one that
    Google has for the system in its name, or the words of that."""
    if made := _made_for(row):
        return made
    for family, pattern in scope.names.families.items():
        if _is_mapped(pattern, row):
            return family
    if about(row) or not is_trusted(row):
        return ""
    found = _family_of_name(row["name"])
    # Those that the operator gives to a public project by their words alone. The longest says most.
    listed = {family for families in scope.names.image_projects.values() for family in families}
    meant = [family for family in listed if family not in scope.names.families and _has(row, _words(family))]
    if meant and found not in meant:
        return max(meant, key=lambda family: (len(family), family))
    return found if found not in scope.names.families else ""


@lru_cache(4096)
def _family_of_name(name: str) -> str:
    """`debian-12` for `Linux Debian GNU/Linux 12 (bookworm)`, `acme-appliance-3` for `ACME Appliance 3.1 64-bit`; ""
    where that is not found again by its words."""
    text = slug(name)
    for system, pattern in _FAMILIES:
        if match := pattern.search(text):
            parts = [part for part in match.groups() if part]
            family = "-".join([system, *(part.replace("-", "") if part[0].isdigit() else part for part in parts)])
            if _has({"name": name}, _words(family)):
                return family
            break
    # Of another system: up to the first number, so that versions that follow are of one family.
    match = _UP_TO_VERSION.match(_BITS.sub("", text))
    assert match is not None
    family = match[0]
    return family if _has({"name": name}, _words(family)) else ""
