"""Networks: CloudStack guest networks, which are zonal, as GCE networks, which are global.

The shared networks of zones with security groups, and isolated networks named `default`, make up the network `default`.
Every other CloudStack network is a network of its own. Also the resolver of networks for all other collections.

CloudStack lists networks too that another account lets the caller use. They are reachable by names that nothing of the
caller's or the operator's has, and are never a part of `default`: nobody's machines may end up there unasked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from google.protobuf.message import Message

from gstack.compute.v1 import networks_pb2 as pb
from gstack.kernel.errors import ApiError, invalid, not_found
from translator_service import lists
from translator_service.catalog import Kind
from translator_service.links import Reference, parse
from translator_service.naming import Index, Naming, Row, number, slug, with_suffix
from translator_service.operations.render import from_cloudstack
from translator_service.resources import subnetworks, zones
from translator_service.resources.zones import Zone
from translator_service.rpc import rpc
from translator_service.scope import Scope

DEFAULT = "default"


def is_default(row: Row, naming: Naming) -> bool:
    """Whether this row of listNetworks is a part of the network `default`."""
    if row.get("type") == "Shared":
        return any(service.get("name") == "SecurityGroup" for service in row.get("service", ()))
    name = str(row.get("name", ""))
    return (slug(name) if naming == "rfc1035" else name) == DEFAULT


class Networks(Index):
    """The index of listNetworks: as any other, but one name, `default`, may stand for several rows."""

    def __init__(self, rows: Iterable[Row], naming: Naming, is_lent: Callable[[Row], bool] = lambda row: False):
        """is_lent: whether a row is neither the caller's nor the operator's."""
        shared: list[Row] = []
        own: list[Row] = []
        mapped = {}
        for row in rows:
            if is_lent(row) and slug(row["name"]) == DEFAULT:
                mapped[row["id"]] = with_suffix(DEFAULT, row["id"])
            (shared if is_default(row, naming) and not is_lent(row) else own).append(row)
        super().__init__(own, naming, mapped=mapped, rank=is_lent)
        self.is_lent = is_lent
        self._default = sorted(shared, key=lambda row: (row.get("created", ""), row["id"]))
        for row in self._default:
            self._shown.setdefault(DEFAULT, row)
            self._names[row["id"]] = DEFAULT
            for alias in (row["name"], row["id"].lower(), str(number(row["id"]))):
                if alias not in self._other or is_lent(self._other[alias]):
                    self._other[alias] = row
        self.rows = sorted([*own, *shared], key=lambda row: (is_lent(row), row.get("created", ""), row["id"]))
        # What subnetworks make of this index and the zones: (digest of the zones, table).
        self.subnetworks: tuple[int, Any] | None = None

    def members(self, name: str) -> list[Row]:
        """The rows behind a GCE name, the oldest first."""
        if name == DEFAULT:
            return list(self._default)
        row = self._shown.get(name)
        return [row] if row else []


def kind(scope: Scope) -> Kind:
    """The cached list of networks. For a CloudStack project it holds the shared ones too (recordings, k 59)."""
    naming = scope.environment.settings.naming

    def is_lent(row: Row) -> bool:
        return bool(row.get("account") or row.get("projectid")) and not scope.is_own(row)

    return Kind(
        "networks",
        20.0,
        lambda client: client.read_all("listNetworks"),
        lambda rows: Networks(rows, naming, is_lent),
    )


def index(scope: Scope) -> Networks:
    found = scope.catalog(kind(scope)).index
    assert isinstance(found, Networks)
    return found


def name_of(scope: Scope, network_id: str, fallback: str) -> str:
    """GCE name of the network with this uuid. fallback: CloudStack's name, for one that the caller cannot list."""
    return index(scope).name(network_id) or scope.environment.name(fallback)


def by_id(scope: Scope, network_id: str) -> Row:
    """The row of listNetworks with this uuid. Raises 404."""
    row = scope.lookup(kind(scope), network_id)
    if row is None:
        raise not_found(scope.links.path("global", "networks", network_id))
    return row


def zone_of(scope: Scope, row: Row) -> Zone | None:
    """The zone of a CloudStack network, None when the caller cannot see it."""
    return zones.by_id(scope, row["zoneid"])


def link(scope: Scope, name: str) -> str:
    return scope.links.of("global", "networks", name)


def members(scope: Scope, name: str) -> list[Row]:
    """The CloudStack networks behind a GCE network, the oldest first. Raises 404."""
    return index(scope).members(_find(scope, name))


def resolve(scope: Scope, text: str, field: str) -> str:
    """GCE name of the network that a request refers to. Raises 400 and 404."""
    return _find(scope, _reference(scope, text, field).name)


def for_instance(
    scope: Scope, zone: Zone, network_text: str, subnetwork_text: str, field: str = "resource.networkInterfaces[0]"
) -> Row:
    """The CloudStack network that an instance in this zone gets.

    Raises 404 for what does not exist, 400 for what is not in this zone.
    """
    if subnetwork_text:
        return _by_subnetwork(scope, zone, network_text, subnetwork_text, field)
    wanted = _reference(scope, network_text or DEFAULT, f"{field}.network").name
    try:
        name = _find(scope, wanted)
    except ApiError:
        if wanted != DEFAULT:
            raise
        name = DEFAULT
    known = index(scope)
    here = [row for row in known.members(name) if row["zoneid"] == zone.id]
    if here:
        return here[0]
    rows = [row for row in known.rows if row["zoneid"] == zone.id]
    isolated = [row for row in rows if row.get("type") == "Isolated" and not known.is_lent(row)]
    if name == DEFAULT and len(isolated) == 1:
        return isolated[0]
    names = ", ".join(sorted({f"'{known.name(row['id'])}'" for row in rows}))
    raise invalid(
        f"{field}.network",
        f"'{network_text or scope.links.path('global', 'networks', DEFAULT)}'. The network is not available in zone "
        f"'{zone.name}'. " + (f"Networks of the zone: {names}." if names else "The zone has no network."),
    )


def _by_subnetwork(scope: Scope, zone: Zone, network_text: str, subnetwork_text: str, field: str) -> Row:
    place = f"{field}.subnetwork"
    found = subnetworks.resolve(scope, subnetwork_text, zone.region, place)
    if network_text and resolve(scope, network_text, f"{field}.network") != found.network:
        raise invalid(
            place, f"'{subnetwork_text}'. The subnetwork must be in the network of the interface, '{network_text}'."
        )
    if found.zone.id != zone.id:
        raise invalid(
            place,
            f"'{subnetwork_text}'. The subnetwork is available in zone '{found.zone.name}', not in zone '{zone.name}'.",
        )
    return found.row


def _reference(scope: Scope, text: str, field: str) -> Reference:
    reference = parse(text, field)
    if reference.collection not in ("", "networks") or reference.scope not in ("", "global"):
        raise invalid(field, f"'{text}'. The URL does not name a network.")
    if not scope.owns(reference):
        raise not_found(f"projects/{reference.project}/global/networks/{reference.name}")
    return reference


def _find(scope: Scope, name: str) -> str:
    row = scope.lookup(kind(scope), name)
    shown = index(scope).name(row["id"]) if row else None
    if shown is None:
        raise not_found(scope.links.path("global", "networks", name))
    return shown


def to_network(scope: Scope, name: str, rows: list[Row]) -> pb.Network:
    """Rows of listNetworks that make up one network, the oldest first."""
    only = rows[0] if len(rows) == 1 else {}
    return pb.Network(
        kind="compute#network",
        id=number(rows[0]["id"]),
        creationTimestamp=from_cloudstack(rows[0].get("created", "")),
        name=name,
        description="Default network for the project" if name == DEFAULT else scope.described(only),
        selfLink=link(scope, name),
        autoCreateSubnetworks=name == DEFAULT,
        subnetworks=sorted(found.link(scope) for row in rows if (found := subnetworks.of_row(scope, row))),
        routingConfig=pb.NetworkRoutingConfig(routingMode="REGIONAL"),
        mtu=1460,
        networkFirewallPolicyEnforcementOrder="AFTER_CLASSIC_FIREWALL",
    )


_DIFFERENCES = (
    "The shared networks of zones with security groups and isolated networks named `default` are the network"
    " `default`; any other isolated network, which exists in one zone only, is a network of its own. A network that"
    " another account lends is one too, with that account in its description, and never the network `default`."
)


@rpc("Networks.Get", calls=("listNetworks", "listZones"), differences=_DIFFERENCES)
def get(scope: Scope, request: pb.GetNetworkRequest) -> Message:
    name = _find(scope, request.network)
    return to_network(scope, name, index(scope).members(name))


@rpc("Networks.List", calls=("listNetworks", "listZones"), differences=_DIFFERENCES)
def list_(scope: Scope, request: pb.ListNetworksRequest) -> Any:
    def build() -> Message:
        known = index(scope)
        found = [to_network(scope, name, known.members(name)) for name, _ in known]
        return lists.page(scope, request, found, pb.NetworkList, "global/networks")

    return scope.reply(subnetworks.sources(scope), request, build)
