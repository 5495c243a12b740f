"""Everything the simulated cloud holds, and its clock.

Time is lazy: jobs put their effects on a timeline, and `World.tick` runs what has become due before each request.
So there are no threads, no locks, and a test may freeze or jump the clock.
"""

from __future__ import annotations

import heapq
import itertools
import random
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from ipaddress import IPv4Network
from typing import Any, Protocol, TypeVar


def timestamp(seconds: float) -> str:
    """`2026-11-22T23:24:26+0000`, the only form CloudStack writes."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S+0000")


@dataclass(kw_only=True, eq=False)
class Row:
    """A database row: `id` is the uuid that clients see, `number` the internal id."""

    id: str
    number: int
    created: float
    removed: bool = False
    tags: list[dict[str, Any]] = field(default_factory=list)  # as the lists of this kind show them
    rendered: Any = None  # what a family keeps of its answers, for rows that never change


@dataclass(kw_only=True, eq=False)
class Domain(Row):
    name: str
    path: str


@dataclass(kw_only=True, eq=False)
class Account(Row):
    """An owner of things: a person's account, or the hidden account of a project (`project` is set)."""

    name: str
    domain: Domain
    role: str = "User"  # "User" | "Root Admin"
    project: Project | None = None
    limits: dict[str, int] = field(default_factory=dict)  # "vm", "volume", "ip", "cpu", "memory", ... absent: unlimited
    may_expunge: bool = True
    # Commands of the default User role that this account's role lacks.
    denied_commands: frozenset[str] = frozenset()


@dataclass(kw_only=True, eq=False)
class User(Row):
    name: str
    password: str
    account: Account
    first_name: str
    last_name: str
    email: str
    api_key: str  # "": the user has no keys
    secret_key: str
    enabled: bool = True
    two_factor: bool = False  # a session needs a code, which nobody can give here
    login_attempts: int = 0  # wrong passwords since the last right one


@dataclass(kw_only=True, eq=False)
class Project(Row):
    name: str
    display_text: str
    account: Account  # the hidden account that owns the project's things
    owner: Account
    members: list[Account] = field(default_factory=list)
    state: str = "Active"


@dataclass(kw_only=True, eq=False)
class Zone(Row):
    name: str
    security_groups: bool
    guest_cidr: IPv4Network
    public_range: IPv4Network | None
    domain_suffix: str
    dns: str
    enabled: bool = True


@dataclass(kw_only=True, eq=False)
class ServiceOffering(Row):
    name: str
    display_text: str
    cpu_number: int | None
    cpu_speed: int | None
    memory: int | None
    customized: bool = False
    details: dict[str, str] = field(default_factory=dict)  # mincpunumber, maxcpunumber, minmemory, maxmemory
    fits_nowhere: bool = False
    zone: Zone | None = None
    offer_ha: bool = False
    gpu_display: bool | None = False


@dataclass(kw_only=True, eq=False)
class DiskOffering(Row):
    name: str
    display_text: str
    size: int  # GB, 0 when customized
    customized: bool = False
    zone: Zone | None = None
    local: bool = False  # on the storage of the hosts


@dataclass(kw_only=True, eq=False)
class Template(Row):
    name: str
    display_text: str
    size: int  # bytes
    account: Account
    public: bool = True
    featured: bool = False
    ready: bool = True
    format: str = "QCOW2"
    hypervisor: str = "Simulator"
    os_name: str = "Other (64-bit)"
    os_id: str = ""
    type: str = "USER"
    password_enabled: bool = False
    dynamically_scalable: bool = True
    zones: list[Zone] = field(default_factory=list)  # empty: all zones
    details: dict[str, str] = field(default_factory=dict)
    arch: str = "x86_64"
    # Of what users make.
    status: str = ""
    source: Template | None = None
    url: str = ""
    extractable: bool | None = None  # None: unless it is built in
    requires_hvm: bool | None = None
    physical_size: int | None = None
    shown_size: bool = True  # templates of snapshots show no size
    shared_with: list[Account] = field(default_factory=list)
    tag: str = ""  # a deployment looks for hosts with it, and finds none here
    jobs: list[Job] = field(default_factory=list)


@dataclass(kw_only=True, eq=False)
class Network(Row):
    name: str
    display_text: str
    zone: Zone
    type: str  # "Isolated" | "Shared"
    cidr: IPv4Network
    gateway: str
    account: Account | None  # None: shared by everybody
    state: str  # "Allocated" | "Implemented" | "Setup" | ...
    offering_name: str
    offering_id: str
    egress_default_allow: bool = False
    used_addresses: set[str] = field(default_factory=set)
    vlan: int = 100


@dataclass(kw_only=True, eq=False)
class SecondaryIp:
    id: str
    address: str


@dataclass(kw_only=True, eq=False)
class Nic:
    id: str
    network: Network
    ip: str
    mac: str
    device: int
    default: bool
    plugged: bool = False  # the VLAN is shown while the VM runs, or once its network is implemented before
    secondary: list[SecondaryIp] = field(default_factory=list)


@dataclass(kw_only=True, eq=False)
class VirtualMachine(Row):
    name: str
    display_name: str
    account: Account
    user: User
    zone: Zone
    template: Template
    offering: ServiceOffering
    cpu_number: int
    cpu_speed: int
    memory: int
    state: str
    updated: float | None = None
    nics: list[Nic] = field(default_factory=list)
    security_groups: list[SecurityGroup] = field(default_factory=list)
    details: dict[str, str] = field(default_factory=dict)
    user_data: str = ""
    group: str = ""
    group_id: str = ""
    ha_enabled: bool = False
    delete_protection: bool = False
    dynamically_scalable: bool = False
    volumes: list[Volume] = field(default_factory=list)
    jobs: list[Job] = field(default_factory=list)  # not finished, oldest first
    busy_until: float = 0.0
    measured: bool = False  # has run long enough for statistics
    # Rendered answers by what they show; whoever changes anything that a VM's answer shows empties it.
    views: dict[Any, dict[str, Any]] = field(default_factory=dict)


@dataclass(kw_only=True, eq=False)
class Volume(Row):
    name: str
    account: Account
    zone: Zone
    type: str  # "ROOT" | "DATADISK"
    size: int  # bytes
    state: str  # "Allocated" | "Ready" | "Destroy" | ...
    offering: DiskOffering | None = None
    vm: VirtualMachine | None = None
    device: int | None = None
    template: Template | None = None
    service_offering: ServiceOffering | None = None  # of root volumes
    attached: float | None = None
    moved: bool = False  # its first attachment, to a stopped VM, gives the volume a new row
    jobs: list[Job] = field(default_factory=list)


@dataclass(kw_only=True, eq=False)
class Snapshot(Row):
    name: str
    account: Account
    volume: Volume  # also when it is gone
    zone: Zone
    size: int  # bytes
    state: str  # "Allocated" | "Creating" | "BackingUp" | "BackedUp" | "Error"
    type: str = "MANUAL"  # or the interval of the policy that made it: "HOURLY" ...
    jobs: list[Job] = field(default_factory=list)


@dataclass(kw_only=True, eq=False)
class PublicAddress(Row):
    address: str
    zone: Zone
    state: str  # "Free" | "Reserved" | "Allocating" | "Allocated" | "Releasing"
    account: Account | None = None
    network: Network | None = None
    source_nat: bool = False
    vm: VirtualMachine | None = None  # static NAT
    vm_ip: str = ""
    allocated: float = 0.0


@dataclass(kw_only=True, eq=False)
class FirewallRule(Row):
    """An ingress rule of a public address (`address`) or an egress rule of a network (`network`)."""

    account: Account
    protocol: str
    cidrs: list[str]
    start_port: int | None = None
    end_port: int | None = None
    icmp_type: int | None = None
    icmp_code: int | None = None
    address: PublicAddress | None = None
    network: Network | None = None
    destination_cidrs: list[str] = field(default_factory=list)
    state: str = "Active"


@dataclass(kw_only=True, eq=False)
class SecurityGroupRule:
    id: str
    direction: str  # "ingress" | "egress"
    protocol: str
    cidr: str = ""
    group_account: str = ""
    group_name: str = ""
    start_port: int | None = None
    end_port: int | None = None
    icmp_type: int | None = None
    icmp_code: int | None = None
    tags: list[dict[str, str]] = field(default_factory=list)


@dataclass(kw_only=True, eq=False)
class SecurityGroup(Row):
    name: str
    description: str
    account: Account
    rules: list[SecurityGroupRule] = field(default_factory=list)


@dataclass(kw_only=True, eq=False)
class SshKeyPair(Row):
    name: str
    account: Account
    fingerprint: str
    public_key: str


@dataclass(kw_only=True, eq=False)
class Job(Row):
    account: Account
    user: User
    command: str
    java_class: str
    instance_type: str | None
    instance_id: str | None
    status: int = 0
    result: dict[str, Any] | None = None
    result_code: int = 0
    completed: float | None = None


R = TypeVar("R", bound=Row)


class Effect(Protocol):
    """What a job does when its time has come; returns the job's result or raises ApiError."""

    def __call__(self) -> dict[str, Any]: ...


@dataclass
class Settings:
    """What an operator could set: durations in seconds, sizes, switches. `delays` is per command, `""` for all."""

    page_size: int = 500
    job_seconds: dict[str, float] = field(default_factory=dict)  # command -> duration, "" is the default
    delays: dict[str, float] = field(default_factory=dict)
    expunge_seconds: float = 20.0
    user_may_expunge: bool = True
    view_destroyed: bool = False
    public_templates: bool = True  # allow.public.user.templates
    version: str = "4.22.0.0"
    max_body: int = 1024 * 1024
    zone_wide_storage: bool = False  # a VM can be deployed from a volume, if its hypervisor is KVM
    api_limit: int = 0  # calls of an account in a second (api.throttling.max), 0 for any number


class World:
    """All rows by kind, in order of creation, with lookups by uuid and internal number."""

    def __init__(
        self, settings: Settings | None = None, clock: Callable[[], float] = time.time, seed: int | None = None
    ):
        self.settings = settings or Settings()
        self.clock = clock
        self.random = random.Random(seed)  # noqa: S311 - ids of a simulation
        self._rows: dict[type, dict[str, Any]] = {}
        self._numbers: dict[type, dict[int, Any]] = {}
        self._next = itertools.count(1)
        self._counters: dict[type, Iterator[int]] = {}
        self._timeline: list[tuple[float, int, Callable[[], None]]] = []
        self.users_by_key: dict[str, User] = {}
        self.sessions: dict[str, tuple[User, float]] = {}  # session key -> user, time of expiry
        self._calls: dict[str, tuple[int, int]] = {}  # account -> (second, calls in it)
        self.indexes: dict[type, Any] = {}  # lookups that families keep beside the rows

    # Rows

    def new_id(self) -> str:
        return str(uuid.UUID(int=self.random.getrandbits(128), version=4))

    def add(self, kind: type[R], /, *, id: str | None = None, created: float | None = None, **values: Any) -> R:
        number = next(self._counters.setdefault(kind, itertools.count(1)))
        row = kind(id=id or self.new_id(), number=number, created=self.now if created is None else created, **values)
        self._rows.setdefault(kind, {})[row.id] = row
        self._numbers.setdefault(kind, {})[number] = row
        if isinstance(row, User) and row.api_key:
            self.users_by_key[row.api_key] = row
        return row

    def all(self, kind: type[R]) -> list[R]:
        """The rows that were not removed, oldest first."""
        return [row for row in self._rows.get(kind, {}).values() if not row.removed]

    def find(self, kind: type[R], identity: str) -> R | None:
        """The row with this uuid (any case) or internal number, even when removed: ids keep resolving for a while."""
        row = self._rows.get(kind, {}).get(identity.lower())
        if row is None and identity.isdigit():
            row = self._numbers.get(kind, {}).get(int(identity))
        return row

    def purge(self, row: Row) -> None:
        """Forget a row altogether: afterwards its id is unknown (rules and groups behave so at once)."""
        row.removed = True
        self._rows[type(row)].pop(row.id, None)
        self._numbers[type(row)].pop(row.number, None)

    # Limits

    def throttled(self, account: Account) -> bool:
        """Count one more call in this second; whether it is one too many."""
        if not self.settings.api_limit:
            return False
        second, count = self._calls.get(account.id, (0, 0))
        now = int(self.now)
        self._calls[account.id] = (now, count + 1 if second == now else 1)
        return self._calls[account.id][1] > self.settings.api_limit

    # Time

    @property
    def now(self) -> float:
        return self.clock()

    def at(self, seconds: float, effect: Callable[[], None]) -> None:
        """Run `effect` `seconds` from now; effects due at the same time keep their order."""
        heapq.heappush(self._timeline, (self.now + seconds, next(self._next), effect))

    def finish(self) -> None:
        """Run what is due later, too."""
        due, self._timeline = sorted(self._timeline[:]), []
        for _, _, effect in due:
            effect()

    def tick(self) -> None:
        while self._timeline and self._timeline[0][0] <= self.now:
            heapq.heappop(self._timeline)[2]()
