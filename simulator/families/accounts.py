"""Who there is and what they may use: accounts, users, keys, sessions, projects, limits, roles, API discovery."""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable, Iterable
from typing import Any

from simulator import errors
from simulator.commands import HANDLERS, SPECS, Call, Listing, command, missing
from simulator.errors import ApiError
from simulator.families import tags
from simulator.families.catalog import stable_id
from simulator.world import (
    Account,
    Domain,
    Network,
    Project,
    PublicAddress,
    Snapshot,
    Template,
    User,
    VirtualMachine,
    Volume,
    World,
    timestamp,
)

SESSION_SECONDS = 1800.0
# `incorrect.login.attempts.allowed` as it comes: with the fifth wrong password in a row a user is disabled.
LOGIN_ATTEMPTS = 5
UNLIMITED = -1
_GIB = 1024**3

# What is limited: the name in listAccounts -> the name in listResourceLimits, in the order of its numbers.
RESOURCES = {
    "vm": "user_vm",
    "ip": "public_ip",
    "volume": "volume",
    "snapshot": "snapshot",
    "template": "template",
    "project": "project",
    "network": "network",
    "vpc": "vpc",
    "cpu": "cpu",
    "memory": "memory",
    "primarystorage": "primary_storage",
    "secondarystorage": "secondary_storage",
    "backup": "backup",
    "backupstorage": "backup_storage",
    "bucket": "bucket",
    "objectstorage": "object_storage",
    "gpu": "gpu",
}


def usage(world: World, owner: Account) -> dict[str, int]:
    """How much of each limited resource the account has; what the simulator does not keep is 0."""
    used = dict.fromkeys(RESOURCES, 0)
    used["vmrunning"] = 0
    for vm in world.all(VirtualMachine):
        if vm.account is owner and vm.state not in ("Destroyed", "Expunging", "Error"):
            used["vm"] += 1
            used["cpu"] += vm.cpu_number
            used["memory"] += vm.memory
            used["vmrunning"] += vm.state == "Running"
    for volume in world.all(Volume):
        if volume.account is owner and volume.state not in ("Destroy", "Expunging", "Expunged"):
            used["volume"] += 1
            used["primarystorage"] += volume.size // _GIB
    used["snapshot"] = sum(row.account is owner for row in world.all(Snapshot))
    used["ip"] = sum(row.account is owner and row.state == "Allocated" for row in world.all(PublicAddress))
    used["network"] = sum(row.account is owner for row in world.all(Network))
    used["template"] = sum(row.account is owner for row in world.all(Template))
    used["project"] = sum(row.owner is owner for row in world.all(Project))
    return used


def _resource_keys(world: World, owner: Account, without: tuple[str, ...] = ()) -> dict[str, Any]:
    """`vmlimit`, `vmtotal`, `vmavailable` and so on, where limits are texts and totals numbers."""
    used = usage(world, owner)
    keys: dict[str, Any] = {}
    for name in RESOURCES:
        if name in without:
            continue
        limit, total = owner.limits.get(name, UNLIMITED), used[name]
        floating = name == "secondarystorage"
        left = max(limit - total, 0)
        keys[f"{name}limit"] = "Unlimited" if limit == UNLIMITED else str(limit)
        keys[f"{name}total"] = float(total) if floating else total
        keys[f"{name}available"] = "Unlimited" if limit == UNLIMITED else str(float(left) if floating else left)
    return keys | {"vmstopped": used["vm"] - used["vmrunning"], "vmrunning": used["vmrunning"]}


# Accounts and users


def _role_keys(account: Account) -> dict[str, Any]:
    return {
        "roleid": stable_id("role", account.role),
        "roletype": "Admin" if account.role == "Root Admin" else account.role.replace(" ", ""),
        "rolename": account.role,
    }


def _account_type(account: Account) -> int:
    return {"User": 0, "Root Admin": 1}.get(account.role, 2)


def _state(user: User) -> str:
    return "enabled" if user.enabled else "disabled"


def render_user(user: User) -> dict[str, Any]:
    account = user.account
    return {
        "id": user.id,
        "username": user.name,
        "firstname": user.first_name,
        "lastname": user.last_name,
        "email": user.email,
        "created": timestamp(user.created),
        "state": _state(user),
        "account": account.name,
        "accounttype": _account_type(account),
        "usersource": "native",
        **_role_keys(account),
        "domainid": account.domain.id,
        "domain": account.domain.name,
        **({"apikey": user.api_key} if user.api_key else {}),
        "accountid": account.id,
        "iscallerchilddomain": False,
        "isdefault": False,
        "is2faenabled": user.two_factor,
        "is2famandated": False,
    }


def _users_of(world: World, account: Account) -> list[User]:
    return [user for user in world.all(User) if user.account is account]


def _render_account(world: World, account: Account) -> dict[str, Any]:
    return {
        "id": account.id,
        "name": account.name,
        "accounttype": _account_type(account),
        **_role_keys(account),
        "domainid": account.domain.id,
        "domain": account.domain.name,
        "domainpath": account.domain.path,
        "receivedbytes": 0,
        "sentbytes": 0,
        **_resource_keys(world, account),
        "state": "enabled",
        "created": timestamp(account.created),
        "user": [render_user(user) for user in _users_of(world, account)],
        "isdefault": False,
        "groups": [],
    }


def _named(call: Call, rows: Iterable[Any], *parameters: str) -> list[Any]:
    """Rows by whole name (under any of these parameters) and by a part of it (`keyword`), ignoring case."""
    chosen = list(rows)
    for parameter in parameters:
        if wanted := call.text(parameter).lower():
            chosen = [row for row in chosen if row.name.lower() == wanted]
    if keyword := call.text("keyword").lower():
        chosen = [row for row in chosen if keyword in row.name.lower()]
    return chosen


def _visible_accounts(call: Call) -> list[Account]:
    """All people's accounts for an admin (who need not say listall here), one's own for anybody else."""
    rows = [row for row in call.world.all(Account) if row.project is None and _users_of(call.world, row)]
    return rows if call.is_admin else [call.account]


@command("listAccounts")
def list_accounts(call: Call) -> Listing:
    rows = _visible_accounts(call)
    if (one := call.row(Account, "id")) is not None:
        if one not in rows:
            raise errors.denied()
        rows = [one]
    if (domain := call.row(Domain, "domainid")) is not None:
        rows = [row for row in rows if row.domain is domain]
    return Listing([_render_account(call.world, row) for row in _named(call, rows, "name")])


@command("listUsers")
def list_users(call: Call) -> Listing:
    if call.is_admin:
        rows = [user for user in call.world.all(User) if user.account in _visible_accounts(call)]
    else:
        rows = [call.user]
    if (one := call.row(User, "id")) is not None:
        rows = [row for row in rows if row is one]
    if account := call.text("account").lower():
        rows = [row for row in rows if row.account.name.lower() == account]
    return Listing([render_user(row) for row in _named(call, rows, "username")])


@command("listDomains")
def list_domains(call: Call) -> Listing:
    rows = call.world.all(Domain)
    if (one := call.row(Domain, "id")) is not None:
        rows = [one]
    items = [
        {
            "id": row.id,
            "name": row.name,
            "level": row.path.count("/"),
            "haschild": any(other.path.startswith(row.path + "/") for other in call.world.all(Domain)),
            "path": row.path,
            "state": "Active",
            "created": timestamp(row.created),
        }
        for row in _named(call, rows, "name")
    ]
    return Listing(items)


@command("listRoles")
def list_roles(call: Call) -> Listing:
    items = [
        {
            "id": stable_id("role", name),
            "name": name,
            "type": kind,
            "description": f"Default {name.lower()} role",
            "ispublic": True,
            "isdefault": True,
        }
        for name, kind in (
            ("Root Admin", "Admin"),
            ("Resource Admin", "ResourceAdmin"),
            ("Domain Admin", "DomainAdmin"),
            ("User", "User"),
        )
        if call.text("name", name).lower() == name.lower() and call.text("type", kind).lower() == kind.lower()
    ]
    return Listing(items)


# Keys and sessions


def _own_user(call: Call) -> User:
    user = call.require(User, "id")
    if user is not call.user and not call.is_admin:
        raise errors.denied()
    return user


@command("getUserKeys")
def get_user_keys(call: Call) -> dict[str, Any]:
    user = _own_user(call)
    keys = {"apikey": user.api_key, "secretkey": user.secret_key} if user.api_key else {}
    return {**keys, "apikeyaccess": True}


@command("registerUserKeys")
def register_user_keys(call: Call) -> dict[str, Any]:
    """New keys; the old ones stop working at once."""
    user, world = _own_user(call), call.world
    world.users_by_key.pop(user.api_key, None)
    user.api_key, user.secret_key = (_random_key(world) for _ in range(2))
    world.users_by_key[user.api_key] = user
    return {"apikey": user.api_key, "secretkey": user.secret_key}


def _random_key(world: World) -> str:
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return "".join(world.random.choices(alphabet, k=86))


def login(world: World, parameters: dict[str, str]) -> dict[str, Any]:
    """The whole answer of `login`: a session whose `sessionkey` stands in for a signature until it expires."""
    folded = {key.lower(): value for key, value in parameters.items()}
    for name in ("username", "password"):
        if not folded.get(name):
            raise missing("login", name)
    domain = _login_domain(world, folded)
    for user in world.all(User):
        same = user.name.lower() == folded["username"].lower() and user.account.domain is domain and user.enabled
        if same and user.password and hmac.compare_digest(user.password.encode(), folded["password"].encode()):
            user.login_attempts = 0
            return {"loginresponse": _new_session(world, user)}
        if same:
            user.login_attempts += 1
            user.enabled = user.login_attempts < LOGIN_ATTEMPTS
    number = domain.number if domain else "null"
    text = f"Failed to authenticate user {folded['username']} in domain {number}; please provide valid credentials"
    raise ApiError(531, text, None)


def _login_domain(world: World, folded: dict[str, str]) -> Domain | None:
    if identity := folded.get("domainid"):
        return world.find(Domain, identity)
    path = "/".join(part for part in ("ROOT/" + folded.get("domain", "").removeprefix("ROOT")).split("/") if part)
    return next((row for row in world.all(Domain) if row.path.lower() == path.lower()), None)


def _new_session(world: World, user: User) -> dict[str, Any]:
    key = _random_key(world)[:27]
    world.sessions[key] = (user, world.now + SESSION_SECONDS)
    return {
        "username": user.name,
        "userid": user.id,
        "domainid": user.account.domain.id,
        "timeout": int(SESSION_SECONDS),
        "account": user.account.name,
        "firstname": user.first_name,
        "lastname": user.last_name,
        "type": str(_account_type(user.account)),
        "registered": "false",
        "sessionkey": key,
        "is2faenabled": str(user.two_factor).lower(),
        "is2faverified": str(not user.two_factor).lower(),
        **({"providerfor2fa": "totp"} if user.two_factor else {}),
        "issuerfor2fa": "CloudStack",
    }


def logout(world: World, parameters: dict[str, str]) -> dict[str, Any]:
    """Ends the session, if there is one; the answer is the same without."""
    world.sessions.pop(parameters.get("sessionkey", ""), None)
    return {"logoutresponse": {"description": "success"}}


# Projects


def _render_project(world: World, project: Project, with_resources: bool) -> dict[str, Any]:
    item: dict[str, Any] = {
        "id": project.id,
        "name": project.name,
        "displaytext": project.display_text,
        "domainid": project.account.domain.id,
        "domain": project.account.domain.name,
        "owner": [{"account": project.owner.name}],
        "projectaccountname": project.account.name,
        "state": project.state,
        "tags": project.tags,
    }
    if with_resources:
        item |= _resource_keys(world, project.account, without=("project",))
    else:
        item["secondarystoragetotal"] = 0.0
    return item | {"created": timestamp(project.created)}


@command("listProjects")
def list_projects(call: Call) -> Listing:
    rows = [row for row in call.world.all(Project) if call.is_admin or call.account in (row.owner, *row.members)]
    if (one := call.row(Project, "id")) is not None:
        rows = [row for row in rows if row is one]
    if state := call.text("state").lower():
        rows = [row for row in rows if row.state.lower() == state]
    if text := call.text("displaytext").lower():
        rows = [row for row in rows if row.display_text.lower() == text]
    rows = tags.filter_rows(call, _named(call, rows, "name"))
    complete = "details" not in call.parameters or bool({"all", "resource"} & set(call.items("details")))
    return Listing([_render_project(call.world, row, complete) for row in rows])


@command("listProjectAccounts")
def list_project_accounts(call: Call) -> Listing:
    project = call.require(Project, "projectid")
    call.check_member(project)
    items = [
        {
            "projectid": project.id,
            "project": project.name,
            "accountid": account.id,
            "account": account.name,
            "accounttype": _account_type(account),
            "role": role,
            "domainid": account.domain.id,
            "domain": account.domain.name,
            "domainpath": account.domain.path,
        }
        for account, role in ((project.owner, "Admin"), *((member, "Regular") for member in project.members))
        if call.text("role", role).lower() == role.lower()
        and call.text("account", account.name).lower() == account.name.lower()
    ]
    return Listing(items)


def _managed(call: Call) -> tuple[Project, Account]:
    """The project, which the caller must own, and the named account of its domain."""
    project = call.require(Project, "projectid")
    if project.owner is not call.account and not call.is_admin:
        raise errors.denied()
    domain = project.owner.domain
    found = (row for row in call.world.all(Account) if row.project is None and row.domain is domain)
    account = next((row for row in found if row.name.lower() == call.text("account").lower()), None)
    if account is None:
        raise errors.invalid(f"Unable to find account name={call.text('account')} in domain id={domain.number}")
    return project, account


@command("addAccountToProject")
def add_account_to_project(call: Call) -> dict[str, Any]:
    project, account = _managed(call)

    def effect() -> dict[str, Any]:
        if account is not project.owner and account not in project.members:
            project.members.append(account)
        return {"success": True}

    return call.job(effect, instance=("Project", ""))


@command("deleteAccountFromProject")
def delete_account_from_project(call: Call) -> dict[str, Any]:
    project, account = _managed(call)

    def effect() -> dict[str, Any]:
        if account in project.members:
            project.members.remove(account)
        return {"success": True}

    return call.job(effect, instance=("Project", ""))


@command("listResourceLimits")
def list_resource_limits(call: Call) -> Listing:
    """The caller's limits; `projectid` changes nothing but who may ask, as recorded."""
    call.owner()
    account = call.account
    items = [
        {
            "account": account.name,
            "domainid": account.domain.id,
            "domain": account.domain.name,
            "domainpath": account.domain.path,
            "resourcetype": str(number),
            "resourcetypename": long_name,
            "max": account.limits.get(name, UNLIMITED),
        }
        for number, (name, long_name) in enumerate(RESOURCES.items())
        if call.text("resourcetype", str(number)) == str(number)
    ]
    return Listing(items)


# Discovery and events


def _render_api(name: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": name,
        "description": name,
        "isasync": spec["async"],
        "related": "",
        "params": [
            {
                "name": parameter,
                "description": parameter,
                "type": facts["type"],
                "length": facts.get("maxlength", 255),
                "required": facts.get("required", False),
            }
            for parameter, facts in spec["params"].items()
        ],
        "response": [],
    }


@command("listApis")
def list_apis(call: Call) -> Listing:
    """The implemented commands this account may call."""
    allowed = [
        name
        for name in HANDLERS
        if (call.is_admin or SPECS[name]["default_user_role"]) and name not in call.account.denied_commands
    ]
    if wanted := call.text("name").lower():
        allowed = [name for name in allowed if name.lower() == wanted]
        if not allowed:
            text = "Api Discovery plugin was unable to find an api by that name or process any apis"
            raise ApiError(530, text)
    return Listing([_render_api(name, SPECS[name]) for name in sorted(allowed)])


_DATE = re.compile(r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d:\d\d([+-]\d{4}|Z)?)?$")


@command("listEvents")
def list_events(call: Call) -> Listing:
    """No events are kept; only the parameters are checked."""
    for name in ("startdate", "enddate"):
        value = call.text(name)
        if value and not _DATE.match(value):
            text = (
                f"Unable to parse date {value} for command {call.command.lower()}, please pass dates in the format "
                "mentioned in the api documentation"
            )
            raise ApiError(431, text)
    call.owners()
    return Listing([])


# Commands of sessions, answered before any signature is looked at.
WITHOUT_SIGNATURE: dict[str, Callable[[World, dict[str, str]], dict[str, Any]]] = {"login": login, "logout": logout}
