"""`gstack doctor`: checks a CloudStack and this set-up from outside in, and says what to mend."""

from __future__ import annotations

import email.utils
import http.client
import json
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click
import sqlalchemy as sa

from gstack.kernel import sealing
from gstack.kernel.errors import ApiError
from gstack.kernel.settings import Settings
from translator_service import resources
from translator_service.cloudstack.client import Client, Endpoint, Keys, all_rows
from translator_service.cloudstack.errors import CloudStackError, Unreachable
from translator_service.cloudstack.signing import signed_query
from translator_service.kept.store import Store
from translator_service.networking import claims, compiler
from translator_service.rpc import METHODS

SUPPORTED = ((4, 18), (4, 22))
# Commands that no method names as its own, and what needs them.
BESIDE = {
    "queryAsyncJobResult": "every change",
    "listAsyncJobs": "changes that were interrupted",
    "listTags": "changes that were interrupted",
    "listCapabilities": "Instances.Delete",
    "listUsers": "signing in",
    "getUserKeys": "signing in with a password",
    "listSSHKeyPairs": "Instances.Insert",
    "createTags": "Instances.Insert",
    "detachVolume": "Instances.Delete",
}
# Not needed by who has keys.
OPTIONAL = {"registerUserKeys", "getUserKeys"}
_MAX_SKEW = 120.0
_MAX_READ = 64 * 1024
# Where APIs of CloudStack usually are.
_PATH = "/client/api"
_ADDRESSES = (
    "{scheme}://{netloc}",
    "{other}://{netloc}",
    "https://{host}",
    "http://{host}:8080",
    "https://{host}:8443",
    "http://{host}",
)
_GATEWAYS = (
    "{scheme}://{netloc}",
    "{other}://{netloc}",
    "https://{host}",
    "{scheme}://{host}:5000",
    "http://{host}:5000",
)


class Problem(Exception):
    """What is wrong and what to do about it."""


class Advice(Exception):
    """What works, and could surprise."""


@dataclass(frozen=True)
class Found:
    """An answer to a GET. `date`: the header, "" without. `url`: where redirects led."""

    status: int
    date: str
    body: bytes
    url: str

    def json(self) -> Any:
        try:
            return json.loads(self.body)
        except ValueError:
            return None

    def is_cloudstack(self) -> bool:
        """CloudStack answers everything, errors too, with one object under one key of a known form."""
        document = self.json()
        return isinstance(document, dict) and len(document) == 1 and next(iter(document)).lower().endswith("response")

    def is_gateway(self) -> bool:
        document = self.json()
        return isinstance(document, dict) and "ready" in document and "services" in document

    def kind(self) -> str:
        """For people."""
        is_page = self.body.lstrip()[:1] == b"<"
        return f"{self.status} with {'a web page' if is_page else 'something else'}"


def check(settings: Settings, api_key: str, secret_key: str, endpoint: str | None) -> bool:
    """Run all checks and print a line each. False when one failed."""
    url = settings.cloudstack_url
    ca = [settings.cloudstack_ca] if settings.cloudstack_ca else []
    own = [path for path in (settings.state_dir / "ca.pem", settings.state_dir / "demo" / "ca.pem") if path.exists()]
    cloud = Endpoint(url, timeout=15, ca=str(settings.cloudstack_ca) if settings.cloudstack_ca else None)

    def client() -> Client:
        return Client(cloud, Keys(api_key, secret_key), None, time.monotonic() + 15)

    checks: list[tuple[str, Callable[[], str]]] = [
        ("address of CloudStack", lambda: _address(url, ca)),
        ("keys", lambda: _keys(client())),
        ("clock", lambda: _clock(url, ca, Keys(api_key, secret_key))),
        ("version", lambda: _version(client())),
        ("permissions", lambda: _permissions(client())),
        ("zones", lambda: _zones(client())),
        ("networks", lambda: _networks(client())),
        ("machine types", lambda: _offerings(client())),
        ("disk types", lambda: _disk_offerings(client())),
        ("images", lambda: _templates(client())),
        ("firewall rules", lambda: _rules(client(), settings)),
        ("key files", lambda: _key_files(settings)),
    ]
    if endpoint:
        checks.append(("gateway", lambda: _gateway(endpoint, own)))
    good = True
    for name, work in checks:
        try:
            click.echo(f"{click.style('ok  ', fg='green')} {name}: {work()}")
        except Advice as advice:
            click.echo(f"{click.style('note', fg='yellow')} {name}: {advice}")
        except (Problem, CloudStackError, Unreachable, ApiError, sealing.KeyFileError) as problem:
            good = False
            click.echo(f"{click.style('FAIL', fg='red')} {name}: {problem}")
            if name in ("address of CloudStack", "keys"):
                click.echo("     the checks after this one need it; mend it and run `gstack doctor` again")
                break
    return good


def _get(url: str, ca: Iterable[Path], seconds: float = 10) -> Found:
    """Whatever answers. ca: trusted beside the public ones. Raises OSError or HTTPException."""
    context = ssl.create_default_context()
    for path in ca:
        context.load_verify_locations(str(path))
    try:
        with urllib.request.urlopen(url, timeout=seconds, context=context) as reply:  # noqa: S310 - http or https
            return Found(reply.status, reply.headers.get("Date", ""), reply.read(_MAX_READ), reply.geturl())
    except urllib.error.HTTPError as error:
        with error:
            return Found(error.code, error.headers.get("Date", ""), error.read(_MAX_READ), error.geturl())


def _ask(url: str, query: str, ca: Iterable[Path]) -> Found:
    """Raises Problem when nobody answers in HTTP."""
    if not url.startswith(("http://", "https://")) or not urlsplit(url).hostname:
        raise Problem(f"{url}: the address must begin with http:// or https:// and name a host")
    try:
        return _get(f"{url}{query}", ca)
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, ssl.SSLCertVerificationError):
            raise Problem(
                f"the certificate of {url} is not trusted ({reason.verify_message}): name its CA's file, for "
                "CloudStack in GSTACK_CLOUDSTACK_CA"
            ) from None
        if isinstance(reason, ssl.SSLError | http.client.BadStatusLine):
            other = "http" if url.startswith("https") else "https"
            raise Problem(f"{url} does not speak {urlsplit(url).scheme}: is it {other}, or another port?") from None
        raise Problem(f"{url} does not answer: {reason}; check the address, the port and the network") from None


def _elsewhere(
    url: str, forms: Iterable[str], path: str, query: str, ca: Iterable[Path], is_it: Callable[[Found], bool]
) -> str:
    """Of the usual addresses on this host the one that answers as it should, "" without."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return ""
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    other = "http" if parts.scheme == "https" else "https"
    bases = (form.format(scheme=parts.scheme, other=other, netloc=parts.netloc, host=host) for form in forms)
    for base in dict.fromkeys(bases):
        if base + path == url:
            continue
        try:
            found = _get(base + path + query, ca, seconds=3)
        except (OSError, http.client.HTTPException, ValueError):
            continue
        if is_it(found):
            return found.url.removesuffix(query)
    return ""


def _address(url: str, ca: list[Path]) -> str:
    query = "?command=listZones&response=json"
    try:
        found = _ask(url, query, ca)
    except Problem as silence:
        problem = str(silence)
    else:
        if found.is_cloudstack() and found.url == url + query:
            return url
        if found.is_cloudstack():
            right = found.url.partition("?")[0]
            raise Problem(f"{url} leads to {right}: give that address, only questions are led on")
        problem = f"{url} answers {found.kind()}, which is not CloudStack's API"
    right = _elsewhere(url, _ADDRESSES, _PATH, query, ca, Found.is_cloudstack)
    raise Problem(f"{problem}: it is at {right}" if right else f"{problem}; its path is usually {_PATH}, its port 8080")


def _clock(url: str, ca: list[Path], keys: Keys) -> str:
    date = _ask(url, "?command=listZones&response=json", ca).date
    if date:
        ahead = email.utils.parsedate_to_datetime(date).timestamp() - time.time()
        if abs(ahead) > _MAX_SKEW:
            raise Problem(f"{abs(ahead):.0f} s apart; signed requests expire, so run NTP on both machines")
        return f"{abs(ahead):.0f} s apart"
    # It tells no time, but it knows what is over.
    for seconds, is_refused, where in ((_MAX_SKEW, True, "ahead of"), (-_MAX_SKEW, False, "behind")):
        if _refuses(url, ca, keys, seconds) is is_refused:
            raise Problem(
                f"CloudStack's is more than {_MAX_SKEW:.0f} s {where} this machine's, by when it takes a signed "
                "request for expired; run NTP on both machines"
            )
    return f"less than {_MAX_SKEW:.0f} s apart, by when CloudStack takes a signed request for expired"


def _refuses(url: str, ca: list[Path], keys: Keys, seconds: float) -> bool:
    """Whether CloudStack takes a request for expired that expires in so many seconds of this machine's clock."""
    expires = datetime.now(UTC) + timedelta(seconds=seconds)
    query = {
        "command": "listCapabilities",
        "response": "json",
        "apikey": keys.api_key,
        "signatureversion": "3",
        "expires": expires.strftime("%Y-%m-%dT%H:%M:%S+0000"),
    }
    found = _ask(url, "?" + signed_query(query, keys.secret_key), ca)
    if found.status not in (200, 401):
        raise Problem(f"CloudStack tells no time, and answers {found.status} to a question that expires")
    return found.status == 401


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
    needed = _needed()
    try:
        allowed = {str(row["name"]) for row in client.read("listApis").items}
    except CloudStackError as error:
        if error.code in (401, 432):
            raise Advice(
                "the role may not ask which commands it has (listApis); it needs " + ", ".join(sorted(needed))
            ) from None
        raise
    missing = {command: needed[command] for command in sorted(needed) if command not in allowed}
    if missing:
        lines = [f"{command} (for {_shorten(sorted(what))})" for command, what in missing.items()]
        raise Problem(f"the role lacks {'; '.join(lines)}. Allow them for the role of your customers")
    capabilities = client.read("listCapabilities").one()
    if not capabilities.get("allowuserexpungerecovervm"):
        return "all commands; users may not expunge, so a deleted machine keeps its disk until CloudStack expunges it"
    return f"all {len(needed)} commands"


def _needed() -> dict[str, set[str]]:
    """Each command that is called -> what needs it."""
    resources.load()
    found = {command: {what} for command, what in BESIDE.items() if command not in OPTIONAL}
    for name, method in METHODS.items():
        for command in method.calls:
            found.setdefault(command, set()).add(name)
    return found


def _shorten(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= 3 else f"{', '.join(names[:2])} and {len(names) - 2} more"


def _zones(client: Client) -> str:
    rows = client.read("listZones").items
    if not rows:
        raise Problem("the account sees no zone; enable one, or dedicate one to its domain")
    kinds = [
        f"{row['name']} ({'security groups' if row.get('securitygroupsenabled') else 'isolated networks'})"
        for row in rows
    ]
    return ", ".join(kinds)


def _networks(client: Client) -> str:
    """Which networks each zone has, and from which of them nothing gets out."""
    zones = client.read("listZones").items
    rows = all_rows(client.read_all("listNetworks"))
    isolated = [row for row in rows if row.get("type") == "Isolated" and not row.get("vpcid")]
    # A rule opens where the policy is to deny, and closes where it is to allow.
    denying = {row["id"] for row in isolated if row.get("egressdefaultpolicy") is False}
    opened = set()
    if denying:
        for answer in client.read_all("listEgressFirewallRules"):
            opened |= {row.get("networkid") for row in answer.items}
    told, closed = [], []
    for zone in zones:
        here = [row for row in rows if row.get("zoneid") == zone["id"]]
        names = [str(row["name"]) for row in here]
        if here or zone.get("securitygroupsenabled"):
            told.append(f"{zone['name']}: {', '.join(names) or 'none'}")
            closed += [f"{row['name']} ({zone['name']})" for row in here if row["id"] in denying - opened]
        else:
            told.append(f"{zone['name']}: none yet, made for the first machine{_egress_of_new(client, zone)}")
    text = "; ".join(told)
    if closed:
        raise Advice(
            f"{text}. Nothing gets out of {', '.join(closed)}: the network's policy for egress is to deny, and it has "
            "no rule. Make one in CloudStack (Egress rules of the network: protocol all), or make networks of an "
            "offering whose default egress policy is to allow"
        )
    if "deny egress" in text:
        raise Advice(
            f"{text}. Use an offering whose default egress policy is to allow, or add an egress rule afterwards"
        )
    return text


def _egress_of_new(client: Client, zone: dict[str, Any]) -> str:
    """What CloudStack gives an account without a network in a zone: the required offering of isolated networks."""
    offerings = client.read("listNetworkOfferings", zoneid=zone["id"], guestiptype="Isolated", state="Enabled").items
    required = [row for row in offerings if row.get("availability") == "Required" and not row.get("forvpc")]
    if not required:
        return "; but no offering of isolated networks is required, so name a network in each insert"
    return f" of {required[0]['name']}{'' if required[0].get('egressdefaultpolicy') else ', which will deny egress'}"


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


def _gateway(endpoint: str, ca: list[Path]) -> str:
    base = endpoint.rstrip("/")
    try:
        found = _ask(base, "/readyz", ca)
    except Problem as silence:
        problem = str(silence)
    else:
        if found.is_gateway():
            services = found.json()["services"]
            down = [name for name, serves in services.items() if not serves] if isinstance(services, dict) else []
            if found.status != 200 or down:
                raise Problem(f"{base} is not ready: see the logs of {', '.join(down) or 'its services'}")
            return f"{base} is ready"
        problem = f"{base}/readyz answers {found.kind()}, which is not gstack's"
    right = _elsewhere(base, _GATEWAYS, "", "/readyz", ca, Found.is_gateway)
    raise Problem(f"{problem}: it is at {right}" if right else f"{problem}; its port is usually 5000")
