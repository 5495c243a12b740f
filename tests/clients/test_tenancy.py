"""Two tenants on one gstack: whatever one of them writes, the other's things are not there, and stay as they are.

Everything of another tenant is 404, in the words for what nobody has: 403 would tell that it exists.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import pytest
import requests

from gateway.routes import COMPUTE, Route, Router
from gstack.kernel.contract import http_rule
from tests.clients.conftest import Stack
from tests.clients.sequences import Session, cloud, machine, refused, until

READONLY = "https://www.googleapis.com/auth/compute.readonly"
ROUTES = Router(COMPUTE).routes
MUTATING = [route for route in ROUTES if route.mutates]
NOBODY = "nobody-has-this"


class Tenant(Session):
    """A client of one tenant; paths are below the tenant's own project."""

    def __init__(self, stack: Stack, project: str, api_key: str, secret_key: str):
        super().__init__(stack, "tests")
        self.http.headers["Authorization"] = f"Bearer {stack.token(api_key, secret_key)}"
        self.name = project
        self.project = f"{self.base}/compute/v1/projects/{quote(project, safe='@')}"

    def of(self, project: str) -> str:
        return f"{self.base}/compute/v1/projects/{quote(project, safe='@')}"

    def finish(self, operation: dict[str, Any]) -> dict[str, Any]:
        path = operation["selfLink"].partition(f"/projects/{quote(self.name, safe='@:')}")[2]

        def done() -> dict[str, Any] | None:
            found: dict[str, Any] = self.ask("POST", f"{path}/wait")
            return found if found["status"] == "DONE" else None

        finished: dict[str, Any] = until(done)
        assert "error" not in finished, finished
        return finished


@pytest.fixture(scope="module")
def demo(stack: Stack) -> Tenant:
    return Tenant(stack, "demo", "demo-api-key", "demo-secret-key")


@pytest.fixture(scope="module")
def ian(stack: Stack) -> Tenant:
    return Tenant(stack, "ian@example.org", "ian-api-key", "ian-secret-key")


@dataclass
class Thing:
    """Something of demo's. path: of its collection; names: all that it is found by."""

    path: str
    names: list[str]
    body: dict[str, Any]

    @property
    def name(self) -> str:
        return str(self.body["name"])

    @property
    def kind(self) -> str:
        return self.path.rpartition("/")[2]


@dataclass
class Things:
    kinds: dict[str, Thing]
    operation: dict[str, Any]
    request_id: str
    rule: dict[str, Any]

    @property
    def words(self) -> list[str]:
        """What an answer to another tenant must not hold."""
        found = [self.operation["name"]]
        for thing in self.kinds.values():
            found += [name for name in thing.names if name != "default"]
        return found


@pytest.fixture(scope="module")
def things(stack: Stack, demo: Tenant) -> Iterator[Things]:
    """Things of demo's, each of a kind."""
    name = "tenancy-web"
    inserted = demo.finish(demo.ask("POST", "/zones/ch-gv2/instances", machine(name)))
    request_id = str(uuid.uuid4())
    rule = {"name": "tenancy-rule", "allowed": [{"IPProtocol": "tcp", "ports": ["8081"]}]}
    demo.finish(demo.ask("POST", f"/global/firewalls?requestId={request_id}", rule))

    zones = {zone["name"]: zone["id"] for zone in cloud(stack, "listZones")["zone"]}
    offering = cloud(stack, "listDiskOfferings", name="SSD")["diskoffering"][0]["id"]
    made = cloud(stack, "createVolume", name="tenancy-data", zoneid=zones["CH-GV2"], diskofferingid=offering, size="5")[
        "volume"
    ]
    address = public_address(stack)

    virtual = cloud(stack, "listVirtualMachines", name=name)["virtualmachine"][0]["id"]
    root = cloud(stack, "listVolumes", virtualmachineid=virtual)["volume"][0]["id"]
    uuids = {
        "instance": ("/zones/ch-gv2/instances", name, virtual),
        "boot disk": ("/zones/ch-gv2/disks", name, root),
        "disk": ("/zones/ch-gv2/disks", "tenancy-data", made["id"]),
        "address": ("/regions/ch-zh/addresses", f"address-{address['ipaddress'].replace('.', '-')}", address["id"]),
        "firewall": ("/global/firewalls", "tenancy-rule", ""),
        "network": ("/global/networks", "net-a", network(stack)["id"]),
        "subnetwork": ("/regions/ch-zh/subnetworks", "net-a", network(stack)["id"]),
    }
    kinds = {}
    for kind, (path, shown, identity) in uuids.items():
        body = demo.ask("GET", f"{path}/{shown}")
        kinds[kind] = Thing(path, [one for one in (shown, body["id"], identity) if one], body)
    yield Things(kinds, inserted, request_id, rule)
    demo.finish(demo.ask("DELETE", f"/zones/ch-gv2/instances/{name}"))
    demo.finish(demo.ask("DELETE", "/global/firewalls/tenancy-rule"))
    cloud(stack, "deleteVolume", id=made["id"])
    cloud(stack, "disassociateIpAddress", id=address["id"])


def network(stack: Stack) -> dict[str, Any]:
    return next(row for row in cloud(stack, "listNetworks")["network"] if row["name"] == "net-a")


def public_address(stack: Stack) -> dict[str, Any]:
    """The first one of a network is its source NAT, which is no address for GCE."""
    while True:
        made = cloud(stack, "associateIpAddress", networkid=network(stack)["id"])["ipaddress"]
        if not cloud(stack, "listPublicIpAddresses", id=made["id"])["publicipaddress"][0]["issourcenat"]:
            return dict(made)


def path_of(route: Route, **values: str) -> str:
    """The path of a method, with these parameters and made-up others."""
    known = {"zone": "ch-gv2", "region": "ch"} | values
    segments = http_rule(route.descriptor).path.split("/")
    return "/".join(known.get(one.strip("{}"), "x") if one.startswith("{") else one for one in segments)


def send(tenant: Tenant, route: Route, **values: str) -> requests.Response:
    return tenant.send(route.verb, tenant.base + path_of(route, **values), {} if route.body else None)


def missing(reply: requests.Response, path: str) -> None:
    """404 in the words for what nobody has."""
    error = refused(reply, 404)
    assert error["message"] == f"The resource '{path}' was not found", error
    assert error["errors"][0]["reason"] == "notFound"


# Projects


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.id)
def test_f1_every_method_hides_the_projects_of_others(stack: Stack, ian: Tenant, route: Route) -> None:
    account = cloud(stack, "listAccounts")["account"][0]["id"]
    shop = cloud(stack, "listProjects")["project"][0]["id"]
    for project in ("demo", account, "webshop", shop, NOBODY):
        missing(send(ian, route, project=project), f"projects/{project}")


def test_f1_numbers_of_projects_are_no_way_in(demo: Tenant, ian: Tenant) -> None:
    for project in ("demo", "webshop"):
        known = demo.ask("GET", demo.of(project))["id"]
        assert demo.ask("GET", demo.of(known))["id"] == known
        missing(ian.send("GET", ian.of(known)), f"projects/{known}")


def test_a_cloudstack_project_belongs_to_its_members(demo: Tenant, ian: Tenant) -> None:
    assert demo.ask("GET", demo.of("webshop"))["name"] == "webshop"
    assert demo.ask("GET", f"{demo.of('webshop')}/zones/ch-gv2/instances")["kind"] == "compute#instanceList"
    missing(ian.send("GET", ian.of("webshop")), "projects/webshop")
    assert ian.ask("GET", ian.project)["name"] == "ian@example.org"


def test_a_member_comes_and_goes(own_stack: Stack) -> None:
    ian = Tenant(own_stack, "ian@example.org", "ian-api-key", "ian-secret-key")
    shop = cloud(own_stack, "listProjects")["project"][0]["id"]
    instances = f"{ian.of('webshop')}/zones/ch-gv2/instances"
    missing(ian.send("GET", instances), "projects/webshop")
    cloud(own_stack, "addAccountToProject", projectid=shop, account="ian@example.org")
    # A name that is not found is looked for again, but not more than once a second.
    until(lambda: ian.send("GET", instances).status_code == 200)
    assert ian.ask("GET", instances)["kind"] == "compute#instanceList"
    cloud(own_stack, "deleteAccountFromProject", projectid=shop, account="ian@example.org")
    for path in ("", "/zones/ch-gv2/disks", "/global/firewalls"):
        reply = ian.send("GET", ian.of("webshop") + path)
        if reply.status_code != 200:
            refused(reply, 403)
    refused(ian.send("GET", instances), 403)
    refused(ian.send("POST", instances, machine("web")), 403)


# Things


KINDS = ("instance", "boot disk", "disk", "address", "firewall", "network", "subnetwork")


@pytest.mark.parametrize("kind", KINDS)
def test_f1_things_of_others_are_not_found_by_any_name(demo: Tenant, ian: Tenant, things: Things, kind: str) -> None:
    thing = things.kinds[kind]
    for name in thing.names:
        assert demo.ask("GET", f"{thing.path}/{name}")["id"] == thing.body["id"]
        reply = ian.send("GET", f"{thing.path}/{name}")
        refused(reply, 404)
        unknown = ian.send("GET", f"{thing.path}/{NOBODY}").json()["error"]["message"]
        assert reply.json()["error"]["message"] == unknown.replace(NOBODY, name)
        missing(ian.send("GET", f"{ian.of('demo')}{thing.path}/{name}"), "projects/demo")
        # Nor are they in another project of their own owner.
        refused(demo.send("GET", f"{demo.of('webshop')}{thing.path}/{name}"), 404)


@pytest.mark.parametrize(
    ("verb", "method", "body"),
    [
        ("DELETE", "", None),
        ("POST", "/start", None),
        ("POST", "/stop", None),
        ("POST", "/reset", None),
        ("POST", "/setTags", {"items": ["taken"]}),
        ("POST", "/setLabels", {"labels": {"taken": "over"}}),
        ("POST", "/setMetadata", {"items": [{"key": "taken", "value": "over"}]}),
        ("POST", "/setDiskAutoDelete?deviceName=persistent-disk-0&autoDelete=false", None),
        ("GET", "/serialPort", None),
    ],
)
def test_f1_instances_of_others_cannot_be_changed(
    demo: Tenant, ian: Tenant, things: Things, verb: str, method: str, body: Any
) -> None:
    thing = things.kinds["instance"]
    for name in thing.names:
        missing(
            ian.send(verb, f"{thing.path}/{name}{method}", body),
            f"projects/ian@example.org/zones/ch-gv2/instances/{name}",
        )
        missing(ian.send(verb, f"{ian.of('demo')}{thing.path}/{name}{method}", body), "projects/demo")
        refused(demo.send(verb, f"{demo.of('webshop')}{thing.path}/{name}{method}", body), 404)
    assert demo.ask("GET", f"{thing.path}/{thing.name}") == thing.body


def test_f1_firewalls_of_others_cannot_be_deleted(demo: Tenant, ian: Tenant, things: Things) -> None:
    thing = things.kinds["firewall"]
    for name in thing.names:
        refused(ian.send("DELETE", f"/global/firewalls/{name}"), 404)
    assert demo.ask("GET", f"/global/firewalls/{thing.name}") == thing.body


def test_f1_f3_lists_hold_nothing_of_others(demo: Tenant, ian: Tenant, things: Things) -> None:
    """The tenants ask in turn: nothing that was remembered for one is shown to the other."""
    seen = set()
    for route in ROUTES:
        if route.verb != "GET" or not route.id.rpartition(".")[2].lower().endswith("list"):
            continue
        for region in ("ch", "ch-zh"):
            zone = {"ch": "ch-gv2", "ch-zh": "ch-zh-1"}[region]
            texts = []
            for tenant, project in ((demo, "demo"), (ian, ian.name), (demo, "webshop")):
                reply = tenant.send(
                    "GET", tenant.base + path_of(route, project=quote(project, safe="@"), zone=zone, region=region)
                )
                assert reply.status_code == 200, reply.text
                texts.append(json.dumps(reply.json()))
            own, other, shop = texts
            seen |= {word for word in things.words if word in own}
            assert not [word for word in things.words if word in other], route.id
            assert "projects/demo" not in other, route.id
            assert not [word for word in things.words if word in shop], route.id
    shown = {thing.name for thing in things.kinds.values()} | {things.operation["name"]}
    assert shown <= seen


# Operations


@pytest.mark.parametrize("where", ["/zones/ch-gv2", "/zones/ch-zh-1", "/regions/ch", "/global"])
def test_f1_operations_of_others_are_not_found(demo: Tenant, ian: Tenant, things: Things, where: str) -> None:
    name = things.operation["name"]
    for verb, end in (("GET", ""), ("POST", "/wait"), ("DELETE", "")):
        for tenant, project in ((ian, ian.name), (demo, "webshop")):
            missing(
                tenant.send(verb, f"{tenant.of(project)}{where}/operations/{name}{end}"),
                f"projects/{project}{where}/operations/{name}",
            )
        missing(ian.send(verb, f"{ian.of('demo')}{where}/operations/{name}{end}"), "projects/demo")
    assert demo.ask("GET", f"{where}/operations/{name}")["name"] == name


def test_f1_a_request_id_is_the_tenants_own(demo: Tenant, ian: Tenant, things: Things) -> None:
    """The same request with the same id: an operation of one's own, not the one that another tenant began."""
    insert = f"/global/firewalls?requestId={things.request_id}"
    before = demo.ask("POST", insert, things.rule)
    mine = ian.ask("POST", insert, things.rule)
    assert mine["name"] != before["name"] and "projects/ian@example.org/" in mine["selfLink"]
    assert mine["user"] != before["user"]
    ian.finish(mine)
    assert ian.ask("GET", "/global/firewalls/tenancy-rule")["id"] != things.kinds["firewall"].body["id"]
    ian.finish(ian.ask("DELETE", "/global/firewalls/tenancy-rule"))
    assert demo.ask("GET", "/global/firewalls/tenancy-rule") == things.kinds["firewall"].body


def test_f1_page_tokens_of_others_show_nothing_of_theirs(demo: Tenant, ian: Tenant, things: Things) -> None:
    for path in ("/zones/ch-gv2/disks", "/aggregated/disks", "/global/images"):
        token = quote(demo.ask("GET", f"{path}?maxResults=1")["nextPageToken"], safe="")
        for tenant, project in ((ian, ian.name), (demo, "webshop")):
            reply = tenant.send("GET", f"{tenant.of(project)}{path}?pageToken={token}")
            assert reply.status_code in (200, 400), reply.text
            assert not [word for word in things.words if word in reply.text], reply.text
            assert "projects/demo" not in reply.text
        missing(ian.send("GET", f"{ian.of('demo')}{path}?pageToken={token}"), "projects/demo")


# Links in bodies


OWN_MACHINE = machine("tenancy-mine")
HOSTS = ("", "https://www.googleapis.com/compute/v1/", "/compute/v1/")


def boot(**disk: Any) -> dict[str, Any]:
    return {"disks": [{"boot": True, **disk}]}


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("project", ["demo", "webshop", NOBODY])
@pytest.mark.parametrize(
    ("zone", "make"),
    [
        (
            "ch-gv2",
            lambda root: boot(initializeParams={"sourceImage": f"{root}/global/images/linux-debian-12-64-bit"}),
        ),
        ("ch-gv2", lambda root: boot(initializeParams={"sourceImage": f"{root}/global/images/family/debian-12"})),
        ("ch-gv2", lambda root: {"networkInterfaces": [{"network": f"{root}/global/networks/default"}]}),
        ("ch-zh-1", lambda root: {"networkInterfaces": [{"network": f"{root}/global/networks/net-a"}]}),
        (
            "ch-zh-1",
            lambda root: {"networkInterfaces": [{"subnetwork": f"{root}/regions/ch-zh/subnetworks/net-a"}]},
        ),
    ],
    ids=["image", "family", "network", "own network", "subnetwork"],
)
def test_f1_an_instance_takes_nothing_from_other_projects(
    ian: Tenant, things: Things, host: str, project: str, zone: str, make: Any
) -> None:
    body = OWN_MACHINE | {"machineType": f"zones/{zone}/machineTypes/micro"} | make(f"{host}projects/{project}")
    error = refused(ian.send("POST", f"/zones/{zone}/instances", body), 404, f"projects/{project}")
    assert not [word for word in things.words if word in error["message"] and word != "net-a"]


@pytest.mark.parametrize(
    "make",
    [
        lambda root: {"machineType": f"{root}/zones/ch-gv2/machineTypes/micro"},
        lambda root: boot(
            initializeParams={
                "sourceImage": "global/images/linux-debian-12-64-bit",
                "diskType": f"{root}/zones/ch-gv2/diskTypes/ssd",
            }
        ),
    ],
    ids=["machine type", "disk type"],
)
def test_f1_an_instance_takes_no_types_from_other_projects(ian: Tenant, make: Any) -> None:
    # On a network that nobody has, so that no instance is made by a link that is not refused.
    nowhere = {"networkInterfaces": [{"network": f"projects/{NOBODY}/global/networks/x"}]}
    body = OWN_MACHINE | nowhere | make("projects/demo")
    refused(ian.send("POST", "/zones/ch-gv2/instances", body), 404, "projects/demo")


def test_f1_an_instance_takes_no_disk_of_others(ian: Tenant, things: Things) -> None:
    """The answer for a disk of demo's is the one for a disk that nobody has."""
    for root in ("projects/demo/", ""):
        answers = set()
        for name in (*things.kinds["disk"].names, things.kinds["boot disk"].name, NOBODY):
            source = f"{root}zones/ch-gv2/disks/{name}"
            reply = ian.send("POST", "/zones/ch-gv2/instances", OWN_MACHINE | boot(source=source))
            refused(reply, 404, f"{root or 'projects/ian@example.org/'}zones/ch-gv2/disks/{name}")
            answers.add(reply.text.replace(name, ""))
        assert len(answers) == 1


@pytest.mark.parametrize("kind", ["network", "subnetwork"])
def test_f1_ids_of_others_in_bodies_are_nothing(ian: Tenant, things: Things, kind: str) -> None:
    thing = things.kinds[kind]
    for name in thing.names:
        body = OWN_MACHINE | {
            "machineType": "zones/ch-zh-1/machineTypes/micro",
            "networkInterfaces": [{kind: f"{thing.path.lstrip('/')}/{name}"}],
        }
        refused(ian.send("POST", "/zones/ch-zh-1/instances", body), 404, name)


@pytest.mark.parametrize("host", HOSTS)
def test_f1_a_firewall_is_not_put_on_a_network_of_others(ian: Tenant, things: Things, host: str) -> None:
    for project, name in (("demo", "net-a"), ("demo", "default"), ("webshop", "default")):
        body = things.rule | {"network": f"{host}projects/{project}/global/networks/{name}"}
        missing(ian.send("POST", "/global/firewalls", body), f"projects/{project}/global/networks/{name}")
    for name in things.kinds["network"].names:
        body = things.rule | {"network": f"global/networks/{name}"}
        missing(ian.send("POST", "/global/firewalls", body), f"projects/ian@example.org/global/networks/{name}")


def test_f1_nothing_was_made_by_what_was_refused(ian: Tenant, things: Things) -> None:
    assert OWN_MACHINE["name"] not in json.dumps(ian.ask("GET", "/aggregated/instances"))
    assert "tenancy" not in json.dumps(ian.ask("GET", "/global/firewalls"))


# Batches


def test_f1_parts_of_a_batch_are_requests_of_their_sender(ian: Tenant, things: Things) -> None:
    own, other, thing = f"/compute/v1/projects/{ian.name}", "/compute/v1/projects/demo", things.kinds["instance"]
    answers = ian.batch(
        [
            ("GET", f"{own}/zones/ch-gv2", None),
            ("GET", f"{other}/zones/ch-gv2", None),
            ("GET", f"{other}{thing.path}/{thing.name}", None),
            ("DELETE", f"{other}{thing.path}/{thing.name}", None),
            ("POST", f"{other}{thing.path}/{thing.name}/stop", None),
            ("POST", f"{other}/global/firewalls", things.rule),
            ("GET", f"{own}{thing.path}/{thing.name}", None),
            ("DELETE", f"{own}/zones/ch-gv2/operations/{things.operation['name']}", None),
        ]
    )
    assert [status for status, _ in answers] == [200] + [404] * 7
    for _, body in answers[1:6]:
        assert body["error"]["message"] == "The resource 'projects/demo' was not found"


# Scopes


@pytest.fixture(scope="module")
def reader(stack: Stack) -> Tenant:
    """Demo with a token that may only read."""
    made = Tenant(stack, "demo", "demo-api-key", "demo-secret-key")
    form = {"grant_type": "client_credentials", "scope": READONLY}
    keys = {"client_id": "demo-api-key", "client_secret": "demo-secret-key"}
    reply = requests.post(f"{stack.url}/oauth2/token", form | keys, timeout=30)
    assert reply.status_code == 200, reply.text
    made.http.headers["Authorization"] = f"Bearer {reply.json()['access_token']}"
    return made


@pytest.mark.parametrize("route", MUTATING, ids=lambda route: route.id)
def test_a13_a_reader_changes_nothing(reader: Tenant, route: Route) -> None:
    error = refused(send(reader, route, project="demo"), 403)
    assert error["errors"][0]["reason"] == "insufficientPermissions"


def test_a13_a_reader_reads(reader: Tenant) -> None:
    assert reader.ask("GET", "/zones/ch-gv2")["name"] == "ch-gv2"
    parts = reader.batch(
        [
            ("GET", "/compute/v1/projects/demo/zones", None),
            ("DELETE", "/compute/v1/projects/demo/global/firewalls/x", None),
        ]
    )
    assert [status for status, _ in parts] == [200, 403]
