"""`gstack doctor`: checks a CloudStack and this set-up from outside in, and says what to mend."""

from __future__ import annotations

import email.utils
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import click
import sqlalchemy as sa

from gstack.kernel import sealing
from gstack.kernel.errors import ApiError
from gstack.kernel.settings import Settings
from translator_service.cloudstack.client import Client, Endpoint, Keys, all_rows
from translator_service.cloudstack.errors import CloudStackError, Unreachable
from translator_service.kept.store import Store
from translator_service.networking import claims, compiler

SUPPORTED = ((4, 18), (4, 22))
# Commands without which something that gstack offers fails.
NEEDED = (
    "deployVirtualMachine", "destroyVirtualMachine", "startVirtualMachine", "stopVirtualMachine",
    "rebootVirtualMachine", "updateVirtualMachine", "listVolumes", "listTemplates", "listNetworks", "createTags",
    "queryAsyncJobResult",
)  # fmt: skip
_MAX_SKEW = 120.0


class Problem(Exception):
    """What is wrong and what to do about it."""


def check(settings: Settings, api_key: str, secret_key: str, endpoint: str | None) -> bool:
    """Run all checks and print a line each. False when one failed."""
    cloud = Endpoint(
        settings.cloudstack_url, timeout=15, ca=str(settings.cloudstack_ca) if settings.cloudstack_ca else None
    )

    def client() -> Client:
        return Client(cloud, Keys(api_key, secret_key), None, time.monotonic() + 15)

    checks: list[tuple[str, Callable[[], str]]] = [
        ("address of CloudStack", lambda: _address(settings.cloudstack_url)),
        ("clock", lambda: _clock(settings.cloudstack_url)),
        ("keys", lambda: _keys(client())),
        ("version", lambda: _version(client())),
        ("permissions", lambda: _permissions(client())),
        ("zones", lambda: _zones(client())),
        ("machine types", lambda: _offerings(client())),
        ("disk types", lambda: _disk_offerings(client())),
        ("images", lambda: _templates(client())),
        ("firewall rules", lambda: _rules(client(), settings)),
        ("key files", lambda: _key_files(settings)),
    ]
    if endpoint:
        checks.append(("gateway", lambda: _gateway(endpoint)))
    good = True
    for name, work in checks:
        try:
            click.echo(f"{click.style('ok  ', fg='green')} {name}: {work()}")
        except (Problem, CloudStackError, Unreachable, ApiError, sealing.KeyFileError) as problem:
            good = False
            click.echo(f"{click.style('FAIL', fg='red')} {name}: {problem}")
            if name in ("address of CloudStack", "keys"):
                click.echo("     the checks after this one need it; mend it and run `gstack doctor` again")
                break
    return good


def _open(url: str) -> tuple[int, str]:
    """(status, Date header). Raises Problem when nothing answers."""
    if not url.startswith(("http://", "https://")):
        raise Problem(f"{url}: the address must begin with http:// or https://")
    try:
        with urllib.request.urlopen(url, timeout=10) as reply:  # noqa: S310 - checked above
            return reply.status, reply.headers.get("Date", "")
    except urllib.error.HTTPError as error:
        return error.code, error.headers.get("Date", "")
    except OSError as error:
        raise Problem(f"{url} does not answer: {error}; check the address, the network and the certificate") from None


def _address(url: str) -> str:
    status, _ = _open(f"{url}?command=listZones&response=json")
    if status == 404:
        raise Problem(f"{url} answers 404: the path is usually /client/api")
    if status not in (200, 400, 401, 431, 432):
        raise Problem(f"{url} answers {status}; is this a CloudStack API?")
    return url


def _clock(url: str) -> str:
    _, date = _open(f"{url}?command=listZones&response=json")
    if not date:
        return "the server tells no time; skipped"
    skew = abs(email.utils.parsedate_to_datetime(date).timestamp() - time.time())
    if skew > _MAX_SKEW:
        raise Problem(f"{skew:.0f} s apart; signed requests expire, so run NTP on both machines")
    return f"{skew:.0f} s apart"


def _keys(client: Client) -> str:
    try:
        user = client.read("listUsers").items
    except CloudStackError as error:
        if error.code == 401:
            raise Problem(
                "refused; check both keys, that the user is enabled, and that API access is allowed"
            ) from None
        raise
    return f"user {user[0]['username']} of account {user[0]['account']}" if user else "accepted"


def _version(client: Client) -> str:
    text = str(client.read("listCapabilities").one().get("cloudstackversion", ""))
    parts = tuple(int(part) for part in text.split(".")[:2] if part.isdigit())
    if len(parts) == 2 and not SUPPORTED[0] <= parts <= SUPPORTED[1]:
        return f"{text}; tested are 4.18 to 4.22"
    return text


def _permissions(client: Client) -> str:
    refused = []
    for command in NEEDED:
        try:
            client.read("listApis", name=command)
        except CloudStackError:
            refused.append(command)
    if refused:
        raise Problem(f"the role does not permit {', '.join(refused)}; allow them for the role of your customers")
    capabilities = client.read("listCapabilities").one()
    if not capabilities.get("allowuserexpungerecovervm"):
        return "all commands; users may not expunge, so a deleted machine keeps its disk until CloudStack expunges it"
    return "all commands"


def _zones(client: Client) -> str:
    rows = client.read("listZones").items
    if not rows:
        raise Problem("the account sees no zone; enable one, or dedicate one to its domain")
    kinds = [
        f"{row['name']} ({'security groups' if row.get('securitygroupsenabled') else 'isolated networks'})"
        for row in rows
    ]
    return ", ".join(kinds)


def _offerings(client: Client) -> str:
    rows = client.read("listServiceOfferings").items
    if not rows:
        raise Problem("no service offering is visible; publish some to the account's domain")
    return f"{len(rows)} service offerings"


def _disk_offerings(client: Client) -> str:
    rows = client.read("listDiskOfferings").items
    if not any(row.get("iscustomized") for row in rows):
        raise Problem("no disk offering with a custom size: disks of a size of their own cannot be made")
    return f"{len(rows)} disk offerings"


def _templates(client: Client) -> str:
    rows = client.read("listTemplates", templatefilter="executable", showunique="true").items
    if not rows:
        raise Problem("no template is visible; register one, public or for the account")
    featured = sum(bool(row.get("isfeatured")) for row in rows)
    if not featured:
        return (
            f"{len(rows)} templates, none of them featured: public image projects, as debian-cloud, find only what is"
            " featured or named by its id in the names file"
        )
    return f"{len(rows)} templates, {featured} of them featured"


def _rules(client: Client, settings: Settings) -> str:
    """What people made in CloudStack: gstack leaves it as it is, so it lets through what no rule of GCE says."""
    groups = all_rows(client.read_all("listSecurityGroups"))
    rules = all_rows(client.read_all("listFirewallRules"))
    claimed = _claims(client, settings)
    if claimed is None:
        return (
            f"{len(groups)} security groups, {len(rules)} rules of addresses; which of them gstack made is known where"
            " its database is"
        )
    targets = [(row["id"], "ruleid", row.get("ingressrule", ())) for row in groups]
    targets += [(row.get("ipaddressid", ""), "id", [row]) for row in rules]
    others = sum(
        not claims.is_ours(claimed.get(target, {}), row[key], compiler.contents_of(row))
        for target, key, some in targets
        for row in some
    )
    if not others:
        return "all made by gstack"
    return f"{others} made in CloudStack, which gstack lists as firewalls and leaves as they are"


def _claims(client: Client, settings: Settings) -> dict[str, claims.Claims] | None:
    """Which rules gstack made for the account, None when its database cannot be read from here."""
    url = sa.make_url(settings.translator_database())
    if url.get_backend_name() == "sqlite" and not Path(url.database or "").exists():
        return None
    engine = sa.create_engine(url)
    try:
        account = client.read("listUsers").items[0]["accountid"]
        found = Store(engine).documents(account, claims.KIND)
    except (sa.exc.SQLAlchemyError, IndexError):
        return None
    finally:
        engine.dispose()
    return {target: claims.parse(content) for target, content in found.items()}


def _key_files(settings: Settings) -> str:
    for path in (settings.sealing_key_path(), settings.master_key_path()):
        if not path.exists():
            return f"{path} does not exist yet; `gstack up` makes it"
        sealing.read_ring(path)
    return f"readable in {settings.state_dir}"


def _gateway(endpoint: str) -> str:
    status, _ = _open(f"{endpoint.rstrip('/')}/readyz")
    if status != 200:
        raise Problem(f"{endpoint}/readyz answers {status}; see the logs of the service it names as false")
    return f"{endpoint} is ready"
