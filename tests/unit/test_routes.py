"""From paths to methods, from requests to messages, and the steps of a request up to the call."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

from gateway import others
from gateway.api import Api, Request, is_gcutil
from gateway.discovery import Discovery
from gateway.routes import COMPUTE, Router
from gateway.tokens import Principal
from gstack.compute.v1.instances_pb2 import Instance, InstanceList
from gstack.compute.v1.operations_pb2 import Operation
from gstack.kernel import metrics, tracing
from gstack.kernel.contract import method_id, services
from gstack.kernel.errors import ApiError
from gstack.kernel.settings import Settings

ROUTER = Router(COMPUTE)
READ = frozenset(("https://www.googleapis.com/auth/compute.readonly",))
WRITE = frozenset(("https://www.googleapis.com/auth/compute",))


class Failure(grpc.RpcError):
    def __init__(self, code: grpc.StatusCode, metadata: tuple = ()):
        self._code, self._metadata = code, metadata

    def code(self) -> grpc.StatusCode:
        return self._code

    def trailing_metadata(self) -> tuple:
        return self._metadata


class Translator:
    """A channel that answers every call with `reply`, or raises it."""

    def __init__(self) -> None:
        self.reply: bytes | Exception = b""
        self.calls: list[tuple[str, bytes, dict[str, Any]]] = []

    def unary_unary(self, rpc: str, **_: Any):
        def call(request: bytes, timeout: float, metadata: tuple) -> bytes:
            # A real channel adds the ids of the request in hand.
            self.calls.append((rpc, request, {**dict(metadata), **tracing.headers()}))
            if isinstance(self.reply, Exception):
                raise self.reply
            return self.reply

        return call


class Known:
    """Every bearer token is good, for these scopes."""

    scopes: frozenset[str] = WRITE

    def principal(self, authorization: str, base: str, address: str) -> Principal:
        if not authorization:
            raise ApiError(401, "no token", "required")
        return Principal("ian@example.org", "1", b"sealed", self.scopes, 0.0)


@pytest.fixture
def translator() -> Translator:
    return Translator()


@pytest.fixture
def api(translator: Translator) -> Api:
    return Api(Settings(max_body=1000), ROUTER, translator, Known())


def request(method: str, path: str, query: str = "", body: bytes = b"", **headers: str) -> Request:
    named = {"authorization": "Bearer t"} | {name.replace("_", "-"): value for name, value in headers.items()}
    return Request(method, path, query, named, body, base="http://gw:5000")


def find(verb: str, path: str) -> tuple[str, dict[str, str]]:
    route, parameters = ROUTER.find(verb, path)
    return route.id, parameters


@pytest.mark.parametrize(
    ("verb", "path", "method", "parameters"),
    [
        ("GET", "projects/p/zones/z/instances/i", "instances.get", {"project": "p", "zone": "z", "instance": "i"}),
        ("GET", "projects/p/zones/z/instances", "instances.list", {"project": "p", "zone": "z"}),
        ("GET", "projects/p/zones/z/instances/", "instances.list", {"project": "p", "zone": "z"}),
        ("GET", "/projects//p/zones/z//instances", "instances.list", {"project": "p", "zone": "z"}),
        ("POST", "projects/p/zones/z/instances", "instances.insert", {"project": "p", "zone": "z"}),
        ("DELETE", "projects/p/zones/z/instances/i", "instances.delete", None),
        ("GET", "projects/p/aggregated/instances", "instances.aggregatedList", {"project": "p"}),
        ("GET", "projects/p", "projects.get", {"project": "p"}),
        ("GET", "projects/ian@example.org/zones", "zones.list", {"project": "ian@example.org"}),
        ("GET", "projects/ian%40example.org/zones", "zones.list", {"project": "ian@example.org"}),
        ("GET", "projects/p/global/images/My%20Image", "images.get", {"project": "p", "image": "My Image"}),
        ("GET", "projects/p/global/images/My%2520Image", "images.get", {"project": "p", "image": "My Image"}),
        ("GET", "projects/p/global/images/My Image", "images.get", {"project": "p", "image": "My Image"}),
        ("GET", "projects/p/global/images/z%C3%BCrich", "images.get", {"project": "p", "image": "zürich"}),
        ("GET", "projects/p/global/images/family/f", "images.getFromFamily", {"project": "p", "family": "f"}),
        ("GET", "projects/p/global/images/family", "images.get", {"project": "p", "image": "family"}),
        ("POST", "projects/p/zones/z/operations/o/wait", "zoneOperations.wait", None),
        ("GET", "projects/p/global/operations/o", "globalOperations.get", None),
    ],
)
def test_paths(verb: str, path: str, method: str, parameters: dict[str, str] | None) -> None:
    found, values = find(verb, path)
    assert found == f"compute.{method}"
    assert parameters is None or values == parameters


def test_every_method_of_the_protos_has_its_route() -> None:
    assert {route.id for route in ROUTER.routes} == {
        method_id(one) for service in services() for one in service.methods
    }
    for route in ROUTER.routes:
        path = "/".join(f"a-{part.strip('{}')}" if "{" in part else part for part in _template(route).split("/"))
        found, values = ROUTER.find(route.verb, path)
        assert found is route
        assert values == {name: f"a-{name}" for name in values}


def _template(route: Any) -> str:
    from gstack.kernel.contract import http_rule

    return http_rule(route.descriptor).path.removeprefix("/compute/v1/")


def refused(verb: str, path: str) -> ApiError:
    with pytest.raises(ApiError) as raised:
        ROUTER.find(verb, path)
    return raised.value


@pytest.mark.parametrize(
    ("verb", "path", "name"),
    [
        ("GET", "projects/p/global/httpHealthChecks", "compute.httpHealthChecks.list"),
        ("GET", "projects/p/zones/z/instanceGroupManagers/m", "compute.instanceGroupManagers.get"),
        (
            "POST",
            "projects/p/zones/z/instances/i/simulateMaintenanceEvent",
            "compute.instances.simulateMaintenanceEvent",
        ),
        ("POST", "projects/p/global/interconnects", "compute.interconnects.insert"),
        ("DELETE", "projects/p/zones/z/nodeGroups/n", "compute.nodeGroups.delete"),
        ("GET", "projects/p/global/securityPolicies/listPreconfiguredExpressionSets",
         "compute.securityPolicies.listPreconfiguredExpressionSets"),
        ("GET", "locations/global/firewallPolicies", "compute.firewallPolicies.list"),
    ],
)  # fmt: skip
def test_a_method_that_only_google_has_is_400_by_name(
    api: Api, translator: Translator, verb: str, path: str, name: str
) -> None:
    response = api.handle(request(verb, f"/compute/v1/{path}", body=b"{}"))
    error = json.loads(response.body)["error"]
    assert (response.status, error["code"], error["errors"][0]["reason"]) == (400, 400, "notSupported")
    why = others.refusals().get(name)
    assert error["message"] == f"Method {name} is not offered here{f': {why}' if why else '.'}"
    assert api.handle(request(verb, f"/compute/v1/{path}", authorization="")).status == 401
    assert not translator.calls


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("projects/p/global/interconnects", "interconnectList"),
        ("projects/p/regions/r/interconnectAttachments", "interconnectAttachmentList"),
        ("projects/p/aggregated/interconnectAttachments", "interconnectAttachmentAggregatedList"),
        ("projects/p/regions/r/commitments", "commitmentList"),
        ("projects/p/aggregated/commitments", "commitmentAggregatedList"),
        ("projects/p/zones/z/nodeGroups", "nodeGroupList"),
        ("projects/p/aggregated/nodeTypes", "nodeTypeAggregatedList"),
        ("projects/p/global/securityPolicies", "securityPolicyList"),
        ("projects/p/zones/z/reservations", "reservationList"),
        ("projects/p/global/kernels", "kernelList"),
    ],
)
def test_what_a_cloud_cannot_have_is_an_empty_list(api: Api, translator: Translator, path: str, kind: str) -> None:
    for version in ("v1", "v1beta16"):
        response = api.handle(request("GET", f"/compute/{version}/{path}", "maxResults=500&filter=name+eq+x"))
        assert (response.status, json.loads(response.body)) == (
            200,
            {
                "kind": f"compute#{kind}",
                "id": path,
                "items": {} if "/aggregated/" in path else [],
                "selfLink": f"https://www.googleapis.com/compute/{version}/{path}",
            },
        )
    masked = api.handle(request("GET", f"/compute/v1/{path}", "fields=kind&prettyPrint=false"))
    assert masked.body == f'{{"kind":"compute#{kind}"}}\n'.encode()
    assert api.handle(request("GET", f"/compute/v1/{path}", authorization="")).status == 401
    assert api.handle(request("PUT", f"/compute/v1/{path}")).status == 405
    assert not translator.calls


@pytest.mark.parametrize(
    "path",
    [
        "projects/p/global/interconnects/i",
        "projects/p/regions/r/nodeTemplates/n%20x/getIamPolicy",
        "projects/p/global/securityPolicies/s/getRule",
        "projects/p/zones/z/reservations/r/reservationBlocks",
        "projects/p/zones/z/reservations/r/reservationBlocks/b/reservationSubBlocks/s",
        "projects/p/global/kernels/k",
    ],
)
def test_what_a_cloud_cannot_have_is_not_found(api: Api, path: str) -> None:
    response = api.handle(request("GET", f"/compute/v1/{path}"))
    error = json.loads(response.body)["error"]
    shown = path.replace("%20", " ")
    assert (response.status, error["errors"][0]["reason"]) == (404, "notFound")
    assert error["message"] == f"The resource '{shown}' was not found"


def test_methods_that_are_not_ours_are_one_series(api: Api) -> None:
    for name in ("httpHealthChecks", "backendServices", "interconnects", "urlMaps"):
        api.handle(request("GET", f"/compute/v1/projects/p/global/{name}"))
    series = {sample.labels["method"] for family in metrics.HTTP_SECONDS.collect() for sample in family.samples}
    assert not [
        name for name in series if name.rpartition(".")[0] in ("compute.httpHealthChecks", "compute.interconnects")
    ]


def test_projects_may_be_left_out(api: Api, translator: Translator) -> None:
    """`api_endpoint` of a client that has our discovery document is the base of its paths."""
    for path in ("p/zones/z/instances", "p", "p/global/interconnects", "example.org:ian/zones", "projects/p/zones"):
        assert api.handle(request("GET", f"/compute/v1/{path}")).status == 200, path
    assert [name.rpartition("/")[0].rpartition(".")[2] for name, _, _ in translator.calls] == [
        "Instances", "Projects", "Zones", "Zones",
    ]  # fmt: skip
    for verb, path in (("POST", "nosuch"), ("GET", "p/nosuch"), ("GET", "locations/nosuch")):
        assert refused(verb, path).code == 404
    bare = request("GET", "/compute/v1/p")
    del bare.headers["authorization"]
    assert api.handle(bare).status == 404


@pytest.mark.parametrize(
    "path",
    [
        "",
        "projects",
        "locations",
        "p/nosuch",
        "projects/p/nosuch",
        "projects/p/zones/z/nosuch/x",
        "projects/p/zones/z/instances/i/j",
    ],
)
def test_a_path_that_google_does_not_have_is_404(path: str) -> None:
    assert (refused("GET", path).code, refused("GET", path).reason) == (404, "notFound")


@pytest.mark.parametrize(
    ("verb", "path"), [("PUT", "projects/p/zones/z/instances"), ("POST", "projects/p"), ("BREW", "projects/p")]
)
def test_another_verb_is_405(verb: str, path: str) -> None:
    assert (refused(verb, path).code, refused(verb, path).reason) == (405, "httpMethodNotAllowed")


# Request messages


def decode(route_id: str, query: list[tuple[str, str]] | None = None, body: bytes = b"") -> Any:
    route = next(route for route in ROUTER.routes if route.id == f"compute.{route_id}")
    return route.decode({"project": "p"}, query or [], body)[0]


def test_parameters_are_converted() -> None:
    found = decode("instances.list", [("maxResults", "5"), ("filter", "name eq x"), ("returnPartialSuccess", "True")])
    assert (found.project, found.maxResults, found.filter, found.returnPartialSuccess) == ("p", 5, "name eq x", True)


@pytest.mark.parametrize(
    "query",
    [("alt", "json"), ("$alt", "json"), ("prettyPrint", "true"), ("key", "x"), ("$.xgafv", "2"), ("quotaUser", "u"),
     ("unknown", ""), ("unknown", "False"), ("unknown", "0"), ("maxResults", ""), ("returnPartialSuccess", "")],
)  # fmt: skip
def test_parameters_that_change_nothing(query: tuple[str, str]) -> None:
    assert decode("instances.list", [query]) == decode("instances.list")


@pytest.mark.parametrize(
    ("query", "name"),
    [(("colour", "red"), "colour"), (("maxResults", "many"), "maxResults"), (("maxResults", "-1"), "maxResults"),
     (("returnPartialSuccess", "maybe"), "returnPartialSuccess"), (("project", "other"), "project")],
)  # fmt: skip
def test_parameters_that_are_refused(query: tuple[str, str], name: str) -> None:
    with pytest.raises(ApiError) as raised:
        decode("instances.list", [query])
    assert (raised.value.code, raised.value.location) == (400, name)


def test_a_parameter_that_only_google_has_is_not_called_a_misspelling() -> None:
    assert decode("subnetworks.list", [("views", "DEFAULT")]) == decode("subnetworks.list")
    with pytest.raises(ApiError, match="'views': not supported here") as raised:
        decode("subnetworks.list", [("views", "WITH_UTILIZATION")])
    assert (raised.value.code, raised.value.location) == (400, "views")


def test_an_empty_body_is_an_absent_one() -> None:
    assert not decode("instances.insert").HasField("resource")
    assert decode("instances.insert", body=b"{}").HasField("resource")
    assert decode("instances.insert", body=b'{"name": "i"}').resource == Instance(name="i")


def test_a_body_where_none_belongs_is_looked_over() -> None:
    assert decode("instances.start", body=b'"ignored"') == decode("instances.start")


# The steps of a request

LIST_PATH = "/compute/v1/projects/p/zones/z/instances"


@pytest.mark.parametrize("version", ["v1", "beta", "alpha", "v1beta16"])
def test_versions(api: Api, translator: Translator, version: str) -> None:
    assert api.handle(request("GET", f"/compute/{version}/projects/p/zones/z/instances")).status == 200
    assert translator.calls[0][0] == "/gstack.compute.v1.Instances/List"


@pytest.mark.parametrize(
    "path", ["/compute/v2/projects/p", "/compute/projects/p", "/compute/", "/compute/v1", "/compute/v1/"]
)
def test_other_versions_are_404_in_googles_envelope(api: Api, path: str) -> None:
    response = api.handle(request("GET", path))
    assert response.status == 404
    assert json.loads(response.body)["error"]["errors"][0]["reason"] == "notFound"


def test_double_slashes_and_a_bare_question_mark(api: Api) -> None:
    assert api.handle(request("GET", "/compute/v1//projects/p//zones/z/instances/")).status == 200


def test_the_call_carries_the_credential_and_the_link_base(api: Api, translator: Translator) -> None:
    found = request("GET", LIST_PATH, "maxResults=2")
    api.handle(found)
    metadata = translator.calls[0][2]
    assert re.fullmatch("00-[0-9a-f]{32}-[0-9a-f]{16}-00", metadata.pop("traceparent"))
    assert metadata == {
        "x-credential-bin": b"sealed",
        "x-link-base": "https://www.googleapis.com/compute/v1",
        "x-request-id": found.id,
    }
    api.handle(request("GET", LIST_PATH, user_agent="gcutil/1.16.1"))
    assert translator.calls[1][2]["x-link-base"] == "http://gw:5000/compute/v1"
    assert is_gcutil("Cloud SDK Command Line Tool") and not is_gcutil("google-cloud-sdk gcloud/528.0.0")


def test_the_answer_is_masked_and_printed_as_asked(api: Api, translator: Translator) -> None:
    translator.reply = InstanceList(kind="k", items=[Instance(name="a", zone="z")]).SerializeToString()
    whole = api.handle(request("GET", LIST_PATH))
    assert json.loads(whole.body) == {"kind": "k", "items": [{"name": "a", "zone": "z"}]}
    assert whole.headers["Content-Type"] == "application/json; charset=UTF-8"
    masked = api.handle(request("GET", LIST_PATH, "fields=items(name)&prettyPrint=false"))
    assert masked.body == b'{"items":[{"name":"a"}]}\n'
    assert api.handle(request("GET", LIST_PATH)).body == whole.body
    assert api.handle(request("GET", LIST_PATH, "fields=items(")).status == 400


def test_c1_what_is_kept_is_bounded_whatever_clients_make_up(translator: Translator) -> None:
    api = Api(Settings(reply_cache_bytes=100_000), ROUTER, translator, Known())
    translator.reply = InstanceList(items=[Instance(name="a")]).SerializeToString()
    for number in range(400):
        assert api.handle(request("GET", LIST_PATH, f"fields=n{number}{'x' * 3000}")).status == 200
    assert len(api._encoded) <= 250
    assert max(len(repr(key)) for key in api._encoded) < 200


def test_what_a_mutation_answers_is_not_kept(api: Api, translator: Translator) -> None:
    """It may be the private half of a key, or a token."""
    translator.reply = Operation(name="secret" * 300).SerializeToString()
    response = api.handle(request("POST", LIST_PATH, body=b'{"name": "a"}'))
    assert response.status == 200 and b"secret" in response.body
    assert api.compressed(response).headers["Content-Encoding"] == "gzip"
    assert not len(api._encoded)
    api.compressed(api.handle(request("GET", LIST_PATH)))
    assert len(api._encoded)


def test_a_mask_that_is_none_is_refused_before_anything_is_done(api: Api, translator: Translator) -> None:
    assert api.handle(request("POST", LIST_PATH, "fields=a(", body=b"{}")).status == 400
    assert not translator.calls


def test_b1_a_bounded_number_of_requests_is_kept_waiting(translator: Translator) -> None:
    api = Api(Settings(gateway_threads=4), ROUTER, translator, Known())

    def wait(may_wait: bool = True) -> None:
        asked = request("POST", "/compute/v1/projects/p/zones/z/operations/o/wait")
        asked.may_wait = may_wait
        assert api.handle(asked).status == 200

    wait()
    with api.waits.place("1"):
        wait()
        assert api.handle(request("GET", LIST_PATH)).status == 200
    wait(may_wait=False)
    assert ["x-at-once" in metadata for _, _, metadata in translator.calls] == [False, True, False, True]


def test_c1_discovery_documents_are_kept_once(monkeypatch: pytest.MonkeyPatch) -> None:
    discovery = Discovery(ROUTER)
    built: list[str] = []
    build = Discovery._build
    monkeypatch.setattr(Discovery, "_build", lambda *a: built.append(a[1]) or build(*a))
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(lambda number: discovery.document("v1", f"https://host-{number}:80"), range(50)))
    assert built == ["v1"]
    assert len({etag for _, etag in found}) == 50
    assert len(discovery._documents) == 1
    body, _ = discovery.document("beta", "http://gw") or (b"", "")
    assert json.loads(body)["rootUrl"] == "http://gw/" and b"root.invalid" not in body


@pytest.mark.parametrize("size", [0, 10, 1000])
def test_a_small_cache_is_no_fault(translator: Translator, size: int) -> None:
    small = Api(Settings(reply_cache_bytes=size), ROUTER, translator, Known())
    translator.reply = InstanceList(
        items=[Instance(name=f"i-{n}-{hash(n * 7919)}") for n in range(200)]
    ).SerializeToString()
    response = small.handle(request("GET", LIST_PATH))
    assert response.status == 200
    assert small.compressed(response).headers["Content-Encoding"] == "gzip"


@pytest.mark.parametrize(
    ("incoming", "status", "reason"),
    [
        (request("GET", LIST_PATH, authorization=""), 401, "required"),
        (request("GET", LIST_PATH, "alt=proto"), 400, "invalidParameter"),
        (request("GET", LIST_PATH, "filter=%ff"), 400, "invalid"),
        (request("GET", LIST_PATH, "filter=%00"), 400, "invalid"),
        (request("GET", LIST_PATH, "maxResults=%1d5"), 400, "invalid"),
        (request("GET", LIST_PATH, "a&" * 300), 400, "invalid"),
        (request("GET", LIST_PATH, "filter=" + "x" * 70_000), 400, "invalid"),
        (request("GET", LIST_PATH + "/a%00b"), 400, "invalid"),
        (request("GET", LIST_PATH + "/a%2500b"), 400, "invalid"),
        (request("POST", LIST_PATH, body=b'{"name": "\\u0000"}'), 400, "invalid"),
        (request("GET", LIST_PATH + "/%ff"), 400, "invalid"),
        (request("POST", LIST_PATH, body=b"{" + b" " * 2000 + b"}"), 413, "uploadTooLarge"),
        (request("POST", LIST_PATH, body=b"{"), 400, "parseError"),
        (request("POST", LIST_PATH, x_http_method_override="BREW"), 400, "invalid"),
        (request("GET", "/compute/v1/projects/p/global/httpHealthChecks"), 400, "notSupported"),
    ],
)
def test_refusals(api: Api, incoming: Request, status: int, reason: str) -> None:
    response = api.handle(incoming)
    error = json.loads(response.body)["error"]
    assert (response.status, error["code"], error["errors"][0]["reason"]) == (status, status, reason)
    assert ("WWW-Authenticate" in response.headers) == (status == 401)
    assert response.headers["X-Request-Id"] == incoming.id


def test_a_long_query_comes_as_a_form_with_an_override(api: Api, translator: Translator) -> None:
    form = "application/x-www-form-urlencoded"
    response = api.handle(
        request("POST", LIST_PATH, body=b"filter=name+eq+x", x_http_method_override="GET", content_type=form)
    )
    assert response.status == 200
    assert translator.calls[0][0].endswith("/List")
    assert b"name eq x" in translator.calls[0][1]


def test_a_token_that_may_only_read(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Known, "scopes", READ)
    assert api.handle(request("GET", LIST_PATH)).status == 200
    response = api.handle(request("POST", LIST_PATH, body=b"{}"))
    assert response.status == 403
    assert json.loads(response.body)["error"]["errors"][0]["reason"] == "insufficientPermissions"


def test_errors_of_a_service_pass_whole(api: Api, translator: Translator) -> None:
    error = ApiError(429, "slow down", retry_after=7)
    translator.reply = Failure(error.grpc_status(), (error.to_metadata(),))
    response = api.handle(request("GET", LIST_PATH))
    assert (response.status, response.headers["Retry-After"]) == (429, "7")
    assert json.loads(response.body) == error.envelope()


def test_what_nobody_foresaw_is_500_without_details(api: Api, translator: Translator) -> None:
    translator.reply = RuntimeError("secret key xyz")
    incoming = request("GET", LIST_PATH)
    response = api.handle(incoming)
    assert response.status == 500
    assert b"xyz" not in response.body and incoming.id.encode() in response.body
