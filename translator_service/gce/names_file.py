"""The operator's name map: one TOML file, `names_file` in the settings.

[zones]           # CloudStack zone name -> GCE zone name
"CH-GV2" = "europe-west6-a"
[regions]         # GCE zone name -> GCE region name, where it is not the zone's without its suffix
[machine_types]   # CloudStack service offering name -> GCE machine type name
"Medium" = "e2-medium"
[disk_types]      # CloudStack disk offering name -> GCE disk type name
"Gold" = "pd-ssd"
[families]        # image family -> name of a featured template (or a regular expression), or the id of any template
"debian-12" = "Linux Debian 12 .*"
[image_projects]  # public image project -> families it offers; [] is none
"debian-cloud" = ["debian-12"]
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from pathlib import Path

# Projects that clients ask for images without being told to (gcutil, gcloud, libcloud).
PUBLIC_IMAGE_PROJECTS = (
    "centos-cloud", "coreos-cloud", "cos-cloud", "debian-cloud", "fedora-cloud", "fedora-coreos-cloud",
    "opensuse-cloud", "oracle-linux-cloud", "rhel-cloud", "rhel-sap-cloud", "rocky-linux-accelerator-cloud",
    "rocky-linux-cloud", "suse-byos-cloud", "suse-cloud", "suse-sap-cloud", "ubuntu-os-accelerator-images",
    "ubuntu-os-cloud", "ubuntu-os-pro-cloud", "windows-cloud", "windows-sql-cloud", "google", "google-containers",
)  # fmt: skip


@dataclass(frozen=True)
class NameMap:
    zones: dict[str, str] = field(default_factory=dict)
    regions: dict[str, str] = field(default_factory=dict)
    machine_types: dict[str, str] = field(default_factory=dict)
    disk_types: dict[str, str] = field(default_factory=dict)
    families: dict[str, str] = field(default_factory=dict)
    image_projects: dict[str, list[str]] = field(default_factory=dict)

    def is_public(self, project: str) -> bool:
        return project in PUBLIC_IMAGE_PROJECTS or project in self.image_projects

    def region(self, zone: str) -> str:
        """The region of a GCE zone name: the name without its last `-suffix`."""
        return self.regions.get(zone) or zone.rpartition("-")[0] or zone


def load(path: Path | None) -> NameMap:
    """Raises ValueError naming the file when it does not parse or has an unknown table."""
    if path is None:
        return NameMap()
    try:
        return NameMap(**tomllib.loads(path.read_text()))
    except (tomllib.TOMLDecodeError, TypeError, OSError) as error:
        raise ValueError(f"names file {path}: {error}") from None
