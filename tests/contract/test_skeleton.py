"""`make collection`: what it writes compiles, beside the protos that are there."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from google import api
from grpc_tools import protoc

from tests.contract.documents import google
from tests.contract.skeleton import ROOT, Skeleton


@pytest.mark.parametrize("name", ["snapshots", "backendServices", "instanceTemplates", "routers", "disks"])
def test_compiles(name: str, tmp_path: Path) -> None:
    skeleton = Skeleton(google(), name)
    target = tmp_path / "gstack/compute/v1" / f"{skeleton.file}.proto"
    target.parent.mkdir(parents=True)
    target.write_text(skeleton.proto())
    folders = [
        tmp_path,
        ROOT / "protos",
        Path(next(iter(api.__path__))).parent.parent,
        Path(protoc.__file__).parent / "_proto",
    ]
    arguments = ["protoc", *(f"-I{folder}" for folder in folders), f"--descriptor_set_out={tmp_path / 'set'}"]
    assert protoc.main([*arguments, str(target)]) == 0
    ast.parse(skeleton.module())


def test_what_it_knows() -> None:
    proto, module = Skeleton(google(), "diskTypes").proto(), Skeleton(google(), "diskTypes").module()
    assert "rpc AggregatedList(AggregatedListRequest) returns (DiskTypeAggregatedList)" in proto
    assert "rpc List(ListInZoneRequest) returns (DiskTypeList)" in proto
    assert 'get: "/compute/v1/projects/{project}/zones/{zone}/diskTypes/{diskType}"' in proto
    assert "optional int64 defaultDiskSizeGb" in proto
    assert "def to_disk_type(scope: Scope, name: str, row: Row) -> pb.DiskType:" in module
    assert 'lists("DiskTypes", _read' in module
