"""Compiles protos/ into the `gstack` package. Used by the wheel build, by editable installs and by `make protos`."""

import sys
from pathlib import Path
from typing import Any

try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:  # `make protos` needs only the compiler
    BuildHookInterface = object  # type: ignore[assignment,misc]

ROOT = Path(__file__).parent


def compile_protos(root: Path = ROOT) -> None:
    """Write `*_pb2.py`, `*_pb2.pyi` and `*_pb2_grpc.py` for every proto below `protos/gstack` into `gstack/`."""
    import google.api
    from grpc_tools import protoc

    well_known = Path(protoc.__file__).parent / "_proto"
    annotations = Path(next(iter(google.api.__path__))).parent.parent
    sources = sorted(str(path) for path in (root / "protos").rglob("*.proto"))
    arguments = [
        "protoc",
        f"-I{root / 'protos'}",
        f"-I{annotations}",
        f"-I{well_known}",
        f"--python_out={root}",
        f"--pyi_out={root}",
        f"--grpc_python_out={root}",
        # The gateway serves the comments of the protos as descriptions in its discovery document.
        "--include_source_info",
        f"--descriptor_set_out={root / 'gstack' / 'compute' / 'descriptors.binpb'}",
        *sources,
    ]
    for folder in sorted({Path(source).parent for source in sources}):
        target = root / folder.relative_to(root / "protos")
        target.mkdir(parents=True, exist_ok=True)
        for package in (target, *target.parents):
            if package == root / "gstack":
                break
            (package / "__init__.py").touch()
    if protoc.main(arguments) != 0:
        raise SystemExit("protoc failed")


class CustomBuildHook(BuildHookInterface):  # type: ignore[misc]
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        compile_protos(Path(self.root))


if __name__ == "__main__":
    compile_protos()
    sys.exit(0)
