"""The table of commands, and what CloudStack does with every call before and after the command itself.

A command is a function `(call: Call) -> result`, registered with `@command("name")`. Its parameters' types, required
ones, lengths and its answer's keys come from `commands.json` (facts of the CloudStack API). Results by kind:
* list command: `Listing(rows already rendered to dicts)`; paging and `count` are done here;
* other synchronous command: the value under the result key, or `{"success": True}`;
* asynchronous command: `call.job(effect, ...)`, where `effect()` returns the job's result or raises `ApiError`.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Any, TypeVar, overload

from simulator import errors
from simulator.errors import ApiError
from simulator.world import Account, Domain, Effect, Job, Project, Row, User, World

SPECS: dict[str, dict[str, Any]] = json.loads(resources.files("simulator").joinpath("commands.json").read_text())
HANDLERS: dict[str, Callable[[Call], Any]] = {}
_CONTROL = re.compile(r"[\x00-\x09\x0b\x0c\x0e-\x1f\x7f]")
_BEYOND_BMP = re.compile(r"[\U00010000-\U0010ffff]")
_MAP_INDEX = re.compile(r"\[(\d+)\]\.?(.*)$", re.DOTALL)

Handler = TypeVar("Handler", bound=Callable[..., Any])
R = TypeVar("R", bound=Row)


def command(name: str) -> Callable[[Handler], Handler]:
    def register(handler: Handler) -> Handler:
        if name not in SPECS:
            raise ValueError(f"{name} has no entry in commands.json")
        HANDLERS[name] = handler
        return handler

    return register


@dataclass
class Listing:
    """The answer of a list command before paging: rows in CloudStack's own order for this command."""

    items: Sequence[dict[str, Any]]


class Lazy(Sequence[dict[str, Any]]):
    """Rows that are rendered only when a page shows them."""

    def __init__(self, rows: list[R], render: Callable[[R], dict[str, Any]]):
        self._rows: list[Any] = rows
        self._render: Callable[[Any], dict[str, Any]] = render

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> list[dict[str, Any]]: ...
    def __getitem__(self, index: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        if isinstance(index, slice):
            return [self._render(row) for row in self._rows[index]]
        return self._render(self._rows[index])


@dataclass
class Call:
    """One checked request: who asks, which command, and its parameters (names in lower case)."""

    world: World
    user: User
    command: str
    parameters: dict[str, str]
    spec: dict[str, Any] = field(default_factory=dict)
    method: str = "GET"

    @property
    def account(self) -> Account:
        return self.user.account

    @property
    def is_admin(self) -> bool:
        return self.account.role != "User"

    # Parameters

    def text(self, name: str, default: str = "") -> str:
        return self.parameters.get(name, default)

    def flag(self, name: str, default: bool = False) -> bool:
        value = self.parameters.get(name)
        return default if value is None else value.lower() == "true"

    def integer(self, name: str) -> int | None:
        value = self.parameters.get(name)
        return None if value is None else int(value)

    def items(self, name: str) -> list[str]:
        """A list parameter, `a,b,c`."""
        return [item.strip() for item in self.parameters.get(name, "").split(",") if item.strip()]

    def entries(self, name: str) -> list[dict[str, str]]:
        """A map parameter `name[i].field=value`, one dict an index."""
        found: dict[int, dict[str, str]] = {}
        for key, value in self.parameters.items():
            if key.startswith(name + "[") and (match := _MAP_INDEX.match(key[len(name) :])):
                found.setdefault(int(match[1]), {})[match[2]] = value
        return [found[index] for index in sorted(found)]

    def details(self, name: str = "details") -> dict[str, str]:
        """A flat map parameter `details[0].cpuNumber=2`: the field name is the key."""
        return {key: value for entry in self.entries(name) for key, value in entry.items()}

    def row(self, kind: type[R], name: str) -> R | None:
        """The row a uuid parameter names; None without the parameter; 431 when there is no such entity."""
        value = self.parameters.get(name)
        if value is None:
            return None
        row = self.world.find(kind, value)
        if row is None:
            raise errors.no_such_entity(self.command, name, value)
        return row

    def require(self, kind: type[R], name: str) -> R:
        row = self.row(kind, name)
        if row is None:
            raise missing(self.command, name)
        return row

    def rows(self, kind: type[R], name: str) -> list[R] | None:
        """The rows a list-of-uuids parameter names; one unknown id fails the whole call."""
        if name not in self.parameters:
            return None
        found = []
        for value in self.items(name):
            row = self.world.find(kind, value)
            if row is None:
                raise errors.no_such_entity(self.command, name, value)
            found.append(row)
        return found

    # Ownership

    def owner(self) -> Account:
        """The account that a create command works for: the caller's, or the project's with `projectid`."""
        project = self.row(Project, "projectid")
        if project is None:
            return self.account
        self.check_member(project)
        return project.account

    def check_member(self, project: Project) -> None:
        if not self.is_admin and self.account not in (project.owner, *project.members):
            raise errors.unavailable_command(self.command)

    def owners(self) -> set[Account]:
        """The accounts whose things a list command shows."""
        self.check_named_account()
        value = self.parameters.get("projectid")
        mine = [p for p in self.world.all(Project) if self.account in (p.owner, *p.members)]
        if value == "-1":
            return {project.account for project in mine}
        if value is not None:
            return {self.owner()}
        if self.is_admin and self.flag("listall"):
            return {row for row in self.world.all(Account) if row.project is None}
        return {self.account}

    def check_named_account(self) -> None:
        """`account` and `domainid` may name nobody but oneself, unless an admin asks."""
        domain = self.row(Domain, "domainid")
        name = self.parameters.get("account", self.account.name)
        mine = name.lower() == self.account.name.lower() and domain in (None, self.account.domain)
        if not mine and not self.is_admin:
            raise errors.denied()

    def may_use(self, owner: Account | None) -> bool:
        """Whether the caller may act on this owner's things (project members may, by id and without projectid)."""
        if owner is None or owner is self.account or self.is_admin:
            return True
        return owner.project is not None and self.account in (owner.project.owner, *owner.project.members)

    def check_access(self, owner: Account | None) -> None:
        if not self.may_use(owner):
            raise errors.denied()

    # Answers

    def duration(self) -> float:
        seconds = self.world.settings.job_seconds
        return seconds.get(self.command, seconds.get("", 0.0))

    def job(
        self,
        effect: Effect,
        *,
        instance: tuple[str, str] | None = None,
        create_id: str | None = None,
        seconds: float | None = None,
    ) -> dict[str, Any]:
        """Submit an asynchronous job; `instance` is (jobinstancetype, jobinstanceid), `create_id` a new entity's id."""
        job_id = self.text("customjobid")
        if job_id:
            check_custom_id(job_id)
            if self.world.find(Job, job_id):
                # The row of a create command stays behind as an orphan (recordings, Surprises 1 and 2).
                raise errors.internal(cserrorcode=errors.SERVER_API)
        job = self.world.add(
            Job,
            id=job_id or None,
            account=self.account,
            user=self.user,
            command=self.command,
            java_class=self.spec["java_class"] + ("ByAdmin" if self.is_admin else ""),
            instance_type=instance[0] if instance else None,
            instance_id=instance[1] if instance else None,
        )

        def finish() -> None:
            if job.status != 0:
                # A restart was first.
                return
            try:
                job.result, job.status = effect(), 1
            except ApiError as error:
                job.result = {k: v for k, v in error.body().items() if k in ("errorcode", "errortext")}
                job.status, job.result_code = 2, error.status
            job.completed = self.world.now

        self.world.at(self.duration() if seconds is None else seconds, finish)
        return {"id": create_id, "jobid": job.id} if create_id else {"jobid": job.id}


def check_custom_id(value: str) -> None:
    try:
        if str(uuid.UUID(value)) == value:
            return
    except ValueError:
        pass
    raise errors.invalid(f"UUID: {value} doesn't follow the UUID format")


def missing(name: str, parameter: str) -> ApiError:
    return ApiError(431, f"Unable to execute API command {name.lower()} due to missing parameter {parameter}")


def execute(world_: World, user: User, name: str, parameters: dict[str, str], method: str = "GET") -> dict[str, Any]:
    """Check the parameters as CloudStack's dispatcher does, run the command, return the body under its top key."""
    spec = SPECS[name]
    call = Call(world_, user, name, {_lower(key): value for key, value in parameters.items()}, spec, method)
    if name in user.account.denied_commands or (not call.is_admin and not spec["default_user_role"]):
        raise errors.unavailable_command(name)
    _check_parameters(call)
    result = HANDLERS[name](call)
    return {spec["response_key"]: _page(call, result.items) if isinstance(result, Listing) else _single(spec, result)}


def _lower(key: str) -> str:
    """Parameter names are case-insensitive, but what stands behind a map index keeps its case."""
    head, bracket, tail = key.partition("[")
    return head.lower() + bracket + tail


def _check_parameters(call: Call) -> None:
    for key, value in call.parameters.items():
        if _CONTROL.search(value):
            text = f"Received value containing illegal ASCII non-printable characters for parameter {key}"
            raise ApiError(431, text)
    known = call.spec["params"]
    for name, spec in known.items():
        given = call.parameters.get(name)
        if given is None:
            if spec.get("required") and not any(key.startswith(name + "[") for key in call.parameters):
                raise missing(call.command, name)
            continue
        if given == "":
            if spec.get("required"):
                raise errors.invalid(f"Invalid value provided for API arg: {name}")
            del call.parameters[name]
            continue
        _check_type(call, name, spec, given)
        if spec["type"] == "string" and "item_key" in call.spec and _BEYOND_BMP.search(given):
            # The database cannot compare its three-byte texts with an emoji.
            raise errors.internal()
    if "pagesize" in known:
        _check_paging(call)


def _check_paging(call: Call) -> None:
    """Both parameters or none, never more than `default.page.size`; pagesize=-1 alone is everything."""
    page, size = call.integer("page"), call.integer("pagesize")
    limit = call.world.settings.page_size
    if size is not None and size > limit:
        raise errors.invalid(f"Page size can't exceed max allowed page size value: {limit}")
    if page is not None and size == -1:
        raise errors.invalid("Can't specify page parameter when pagesize is -1 (Unlimited)")
    if page is None and size not in (None, -1):
        raise ApiError(431, '"page" parameter is required when "pagesize" is specified')
    if page is not None and size is None:
        raise ApiError(431, '"pagesize" parameter is required when "page" is specified')


def _check_type(call: Call, name: str, spec: dict[str, Any], value: str) -> None:
    kind = spec["type"]
    bad = f"Unable to execute API command {call.command.lower()} due to invalid value {value} for parameter {name}"
    if kind in ("integer", "long", "short"):
        if not re.fullmatch(r"-?\d+", value):
            raise ApiError(431, bad)
    elif kind == "map":
        raise ApiError(431, bad)
    elif kind == "string" and len(value) > spec.get("maxlength", 255):
        raise ApiError(
            431,
            f"Unable to execute API command {call.command.lower()} due to invalid value. Value greater than max "
            f"allowed length {spec.get('maxlength', 255)} for param: {spec.get('field', name)}",
        )


def _single(spec: dict[str, Any], result: Any) -> Any:
    if spec["async"] or "result_key" not in spec or result == {"success": True}:
        return result
    return {spec["result_key"]: result}


def _page(call: Call, items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Offset paging; `_check_paging` has seen the parameters."""
    page, size = call.integer("page"), call.integer("pagesize")
    body: dict[str, Any] = {}
    if items:
        body["count"] = len(items)
        first = 0
        if size == -1:
            last = len(items)
        elif page is not None and size is not None:
            first = max(page - 1, 0) * size
            last = first + size
        else:
            last = call.world.settings.page_size
        if not call.flag("retrieveonlyresourcecount") and (shown := items[first:last]):
            # registerTemplate answers with a list though it is none.
            body[call.spec.get("item_key") or call.spec["result_key"]] = shown
    return body


def by_name(rows: Iterable[R], name: str) -> list[R]:
    """Rows whose `name` equals, ignoring case: the database's collation."""
    wanted = name.lower()
    return [row for row in rows if row.name.lower() == wanted]  # type: ignore[attr-defined]
