"""Which CloudStack networks are which GCE network: CloudStack's are zonal, GCE's are global.

The shared networks of zones with security groups, and isolated networks named `default`, make up the network `default`.
Every other CloudStack network is a network of its own.

CloudStack lists networks too that another account lets the caller use. They are reachable by names that nothing of the
caller's or the operator's has, and are never a part of `default`: nobody's machines may end up there unasked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from gstack.kernel.errors import invalid, not_found
from translator_service import places
from translator_service.cloudstack.catalog import Kind
from translator_service.cloudstack.rows import Row
from translator_service.gce.links import Reference, parse
from translator_service.gce.naming import Index, Naming, number, slug, with_suffix
from translator_service.places import Zone
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
    return places.zone_by_id(scope, row["zoneid"])


def link(scope: Scope, name: str) -> str:
    return scope.links.of("global", "networks", name)


def members(scope: Scope, name: str) -> list[Row]:
    """The CloudStack networks behind a GCE network, the oldest first. Raises 404."""
    return index(scope).members(find(scope, name))


def resolve(scope: Scope, text: str, field: str) -> str:
    """GCE name of the network that a request refers to. Raises 400 and 404."""
    return find(scope, reference_to(scope, text, field).name)


def reference_to(scope: Scope, text: str, field: str) -> Reference:
    """What a request names as a network of this project. Raises 400 and 404."""
    reference = parse(text, field)
    if reference.collection not in ("", "networks") or reference.scope not in ("", "global"):
        raise invalid(field, f"'{text}'. The URL does not name a network.")
    if not scope.owns(reference):
        raise not_found(f"projects/{reference.project}/global/networks/{reference.name}")
    return reference


def find(scope: Scope, name: str) -> str:
    """GCE name of the network with this name, CloudStack's name, uuid or number. Raises 404."""
    row = scope.lookup(kind(scope), name)
    shown = index(scope).name(row["id"]) if row else None
    if shown is None:
        raise not_found(scope.links.path("global", "networks", name))
    return shown
