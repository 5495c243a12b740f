"""Subnetworks: each CloudStack network is one subnetwork."""

from __future__ import annotations

from google.protobuf.message import Message

from gstack.compute.v1 import subnetworks_pb2 as pb
from translator_service.collection import Items, Reading, gets, lists
from translator_service.gce.fingerprints import fingerprint
from translator_service.gce.naming import number
from translator_service.gce.times import from_cloudstack
from translator_service.networking import networks, subnetworks
from translator_service.networking.subnetworks import Subnetwork
from translator_service.scope import Scope


def to_subnetwork(scope: Scope, subnetwork: Subnetwork) -> pb.Subnetwork:
    row = subnetwork.row
    cidr, gateway = row.get("cidr", ""), row.get("gateway", "")
    return pb.Subnetwork(
        kind="compute#subnetwork",
        id=number(row["id"]),
        creationTimestamp=from_cloudstack(row.get("created", "")),
        name=subnetwork.name,
        description=scope.described(row),
        network=networks.link(scope, subnetwork.network),
        ipCidrRange=cidr,
        gatewayAddress=gateway,
        region=scope.links.of("regions", subnetwork.region),
        selfLink=subnetwork.link(scope),
        privateIpGoogleAccess=False,
        fingerprint=fingerprint(row["id"], subnetwork.name, cidr, gateway),
        purpose="PRIVATE",
        stackType="IPV4_ONLY",
        state="READY",
        privateIpv6GoogleAccess="DISABLE_GOOGLE_ACCESS",
        enableFlowLogs=False,
    )


_DIFFERENCES = "Each network of a zone is one subnetwork; it can be used in that zone only, not in its whole region."


_CALLS = ("listNetworks", "listZones")


def _find(scope: Scope, region: str, name: str) -> Reading[Message]:
    return Reading(lambda: to_subnetwork(scope, subnetworks.find(scope, region, name)))


def _read(scope: Scope, region: str | None) -> Reading[Items]:
    def build() -> Items:
        here = [one for one in subnetworks.table(scope).values() if region in (None, one.region)]
        return [(f"regions/{one.region}", to_subnetwork(scope, one)) for one in here]

    return Reading(build, subnetworks.sources(scope))


gets("Subnetworks", _find, calls=_CALLS, differences=_DIFFERENCES)
lists("Subnetworks", _read, calls=_CALLS, differences=_DIFFERENCES)
