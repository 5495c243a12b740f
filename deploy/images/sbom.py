"""SBOMs of images, CycloneDX JSON: their Python distributions, as `cyclonedx-py` finds them, and Debian packages.

Usage: sbom.py PYTHON DPKG_STATUS IMAGE=FILE...
The images have the same in them but for the package of their service, which is a part of one distribution.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from email.parser import HeaderParser
from pathlib import Path
from typing import Any

from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL


def debian_packages(status: str) -> list[Component]:
    """What dpkg's status file lists as installed."""
    release = platform.freedesktop_os_release()
    packages = [HeaderParser().parsestr(one) for one in status.strip().split("\n\n")]
    return [
        Component(
            type=ComponentType.LIBRARY,
            name=one["Package"],
            version=one["Version"],
            bom_ref=f"deb:{one['Package']}:{one['Architecture']}",
            purl=PackageURL(
                "deb",
                "debian",
                one["Package"],
                one["Version"],
                {"arch": one["Architecture"], "distro": f"debian-{release.get('VERSION_ID', 'sid')}"},
            ),
        )
        for one in packages
        if one["Status"] == "install ok installed"
    ]


def python_itself(python: str) -> Component:
    """The official images bring a Python that is no Debian package."""
    version = subprocess.run([python, "-V"], check=True, capture_output=True, text=True).stdout.split()[1]
    return Component(
        type=ComponentType.PLATFORM,
        name="python",
        version=version,
        bom_ref=f"python=={version}",
        purl=PackageURL("generic", None, "python", version),
    )


def main(python: str, status: Path, targets: dict[str, Path]) -> None:
    find = [
        sys.executable,
        "-m",
        "cyclonedx_py",
        "environment",
        "--sv",
        "1.6",
        "--output-reproducible",
        "-o",
        "-",
        python,
    ]
    found = json.loads(subprocess.run(find, check=True, capture_output=True, text=True).stdout)
    others = {*debian_packages(status.read_text()), python_itself(python)}
    text = ""
    for image, target in targets.items():
        text = sbom(image, found, others)
        target.write_text(text)
    # They differ by a name, and looking at one takes as long as making all.
    if problem := JsonStrictValidator(SchemaVersion.V1_6).validate_str(text):
        raise SystemExit(f"the SBOM is not valid: {problem}")


def sbom(image: str, found: dict[str, Any], others: set[Component]) -> str:
    """found: what `cyclonedx-py` says; others: what else is in the image."""
    bom = Bom.from_json(found)  # type: ignore[attr-defined,unused-ignore]
    own = next(one for one in bom.components if one.name == "gstack")
    # It was installed from a file that is gone; the name on PyPI is not ours.
    own.external_references.clear()
    own.purl = PackageURL("generic", None, "gstack", own.version)
    bom.metadata.component = Component(
        type=ComponentType.CONTAINER, name=image, version=own.version, bom_ref=image, licenses=own.licenses
    )
    bom.components.update(others)
    bom.register_dependency(bom.metadata.component, bom.components)
    return JsonV1Dot6(bom).output_as_string(indent=1)


if __name__ == "__main__":
    pairs = (pair.partition("=") for pair in sys.argv[3:])
    main(sys.argv[1], Path(sys.argv[2]), {image: Path(file) for image, _, file in pairs})
