"""A request's view of the world: who asks, for which project, with which links, until when.

`Environment` is made once at start; `Scope` for each request and for each step of an operation.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.message import Message

from gstack.kernel.errors import ApiError, not_found
from gstack.kernel.sealing import CREDENTIAL, Keyring, SealError
from gstack.kernel.settings import Settings
from translator_service.cloudstack.catalog import Catalog, Entry, Kind
from translator_service.cloudstack.client import Answer, Client, Endpoint, Keys
from translator_service.cloudstack.rows import Row
from translator_service.gce import naming
from translator_service.gce.links import Links, Reference
from translator_service.gce.names_file import NameMap
from translator_service.gce.naming import Index
from translator_service.gce.paging import Pager
from translator_service.gce.replies import Replies
from translator_service.kept.passwords import Passwords
from translator_service.kept.store import Store


@dataclass
class Environment:
    """What all requests share."""

    settings: Settings
    endpoint: Endpoint
    store: Store
    sealer: Keyring
    names: NameMap
    pager: Pager
    catalog: Catalog = field(default_factory=Catalog)
    replies: Replies = field(default_factory=Replies)
    ids: naming.Ids = field(default_factory=naming.Ids)

    def name(self, verbatim: str) -> str:
        """The GCE name of a name alone, for what is not listed (any more)."""
        return naming.slug(verbatim) if self.settings.naming == "rfc1035" else verbatim

    def index(self, rows: Iterable[Row], **options: Any) -> Index:
        return Index(rows, self.settings.naming, **options)


@dataclass(frozen=True)
class Caller:
    """The principal of a request. key: stable, for caches.

    projects: keys of the only projects that the principal may use; None for all of the account's.
    """

    keys: Keys
    account_id: str
    account_name: str
    subject: str
    key: str
    projects: frozenset[str] | None

    def to_dict(self) -> dict[str, Any]:
        """What `Caller.of` takes: secrets, to be kept sealed only."""
        return {
            "api_key": self.keys.api_key,
            "secret_key": self.keys.secret_key,
            "account_id": self.account_id,
            "account_name": self.account_name,
            "subject": self.subject,
            "key": self.key,
            "projects": sorted(self.projects) if self.projects is not None else None,
        }

    @classmethod
    def of(cls, found: dict[str, Any]) -> Caller:
        return cls(
            keys=Keys(found["api_key"], found["secret_key"]),
            account_id=found["account_id"],
            account_name=found["account_name"],
            subject=found["subject"],
            key=found["key"],
            projects=frozenset(limit) if (limit := found.get("projects")) is not None else None,
        )


@dataclass(frozen=True)
class Project:
    """A GCE project. name: as asked for; id: uuid of the CloudStack project, None for the caller's own account.

    key: owner of rows in our database; number: the project's id for clients; row: CloudStack's answer about it.
    """

    name: str
    id: str | None
    key: str
    number: int
    row: Row


@dataclass
class Scope:
    environment: Environment
    caller: Caller
    project: Project
    links: Links
    client: Client
    # Set when the request names a public image project instead of the caller's own.
    public_project: str = ""
    # The client's requestId and a hash of the whole request, for mutations.
    request_id: str | None = None
    request_hash: str = ""
    # Whether somebody still waits for the answer.
    is_wanted: Callable[[], bool] = lambda: True
    # Paths in the body of a PATCH of what it takes away: there it was null.
    cleared: tuple[str, ...] = ()
    # What the client should know of the operation that this request begins: {"code", "message", "data"}.
    warnings: list[dict[str, Any]] = field(default_factory=list)

    @property
    def names(self) -> NameMap:
        return self.environment.names

    @property
    def store(self) -> Store:
        return self.environment.store

    @property
    def passwords(self) -> Passwords:
        return Passwords(self.store, self.environment.sealer, self.project.key)

    @property
    def pager(self) -> Pager:
        return self.environment.pager

    def warn(self, code: str, message: str, **data: str) -> None:
        """Once, however often it is found."""
        warning = {"code": code, "message": message, "data": data}
        if warning not in self.warnings:
            self.warnings.append(warning)

    def is_own(self, row: Row) -> bool:
        """Whether a row of a list that shows things of others too belongs to the project of the request."""
        if self.project.id is not None:
            return row.get("projectid") == self.project.id
        return not row.get("projectid") and row.get("account") == self.caller.account_name

    def described(self, row: Row) -> str:
        """The description of a row of such a list; of what another account lends, with that account's name."""
        text, lender = str(row.get("displaytext", "")), row.get("account") or row.get("project")
        return text if not lender or self.is_own(row) else f"{text} (of {lender})".lstrip()

    @property
    def owner(self) -> str:
        """Key of caches for what this caller sees of this project."""
        return f"{self.caller.key}/{self.project.key}"

    def owns(self, reference: Reference) -> bool:
        """Whether a reference stays in the project of the request, by any of the project's names."""
        own, name = self.project, str(self.project.row.get("name", ""))
        names = ("", own.name, self.links.project, name, naming.slug(name), own.row["id"], str(own.number))
        return reference.project in names

    def machine_name(self, host: str) -> str:
        """The GCE name of an instance of which only the host name is known."""
        return self.environment.name(naming.asked_name(self.project.key, host))

    def catalog(self, kind: Kind) -> Entry:
        return self.environment.catalog.get(self.owner, kind, self.client)

    def lookup(self, kind: Kind, name: str) -> Row | None:
        return self.environment.catalog.find(self.owner, kind, self.client, name)

    def forget(self, kind: Kind) -> None:
        self.environment.catalog.forget(self.owner, kind)

    def reply(
        self, sources: list[Answer | Entry], request: Message, build: Callable[[], Message], *extra: Any
    ) -> Message | bytes:
        """The reply for unchanged answers of CloudStack is the one built last time (see replies)."""
        key = (type(request).__name__, request.SerializeToString(deterministic=True), self.links, self.owner, extra)
        parts = tuple(source.raw if isinstance(source, Answer) else source.digest for source in sources)
        return self.environment.replies.get(hash((key, parts)), build)


def projects_kind(environment: Environment, account: str) -> Kind:
    """CloudStack projects of an account, by name. Its own go before those that others made it a member of."""

    def is_lent(row: Row) -> bool:
        return all(owner.get("account") != account for owner in row.get("owner", ()))

    return Kind(
        "projects",
        60.0,
        lambda client: client.read_all("listProjects"),
        lambda rows: environment.index(rows, rank=is_lent),
    )


def caller_of(environment: Environment, credential: bytes) -> Caller:
    """Unseal what auth gave the gateway. Raises 401 for what is not auth's, or is not good any more."""
    try:
        return Caller.of(environment.sealer.open_message(credential, CREDENTIAL))
    except SealError:
        raise ApiError(401, "Request had invalid authentication credentials.") from None


def resolve_project(environment: Environment, caller: Caller, name: str, client: Client) -> Project:
    """The caller's account, or a CloudStack project the caller is a member of. Anything else is 404."""
    project = _find_project(environment, caller, name, client)
    if project is None or (caller.projects is not None and project.key not in caller.projects):
        raise not_found(f"projects/{name}")
    return project


def _find_project(environment: Environment, caller: Caller, name: str, client: Client) -> Project | None:
    if is_account(caller, name):
        row = {"id": caller.account_id, "name": caller.account_name}
        return Project(name, None, caller.account_id, naming.number(caller.account_id), row)
    found = environment.catalog.find(caller.key, projects_kind(environment, caller.account_name), client, name)
    return Project(name, found["id"], found["id"], naming.number(found["id"]), found) if found else None


def is_account(caller: Caller, name: str) -> bool:
    """Whether the name means the caller's own account, which goes before a CloudStack project of the same name."""
    account = caller.account_name
    return name in (account, naming.slug(account), caller.account_id, str(naming.number(caller.account_id)))


def _resolve_viewer(environment: Environment, caller: Caller, public: str, client: Client) -> Project:
    """The project that looks at a public image project. It sees private templates of its own there too.

    So it is never one that the caller may not use. The account is known without a question, and goes first.
    """
    if caller.projects is None or caller.account_id in caller.projects:
        return resolve_project(environment, caller, caller.account_name, client)
    for key in sorted(caller.projects):
        if (project := _find_project(environment, caller, key, client)) is not None:
            return project
    raise not_found(f"projects/{public}")


def open_scope(environment: Environment, credential: bytes, project: str, link_base: str, **options: Any) -> Scope:
    """`scope_of` for a sealed credential. Raises 401 for one that is not good (any more)."""
    return scope_of(environment, caller_of(environment, credential), project, link_base, **options)


def scope_of(
    environment: Environment,
    caller: Caller,
    project: str,
    link_base: str,
    *,
    deadline: float | None = None,
    public_projects: bool = False,
) -> Scope:
    """Raises 404 for a project that is not the caller's."""
    deadline = deadline or time.monotonic() + environment.settings.cloudstack_timeout
    client = Client(environment.endpoint, caller.keys, None, deadline)
    public = project if public_projects and environment.names.is_public(project) else ""
    if public:
        found = _resolve_viewer(environment, caller, public, client)
    else:
        found = resolve_project(environment, caller, project, client)
    client.project_id = found.id
    return Scope(environment, caller, found, Links(link_base, public or project), client, public)
