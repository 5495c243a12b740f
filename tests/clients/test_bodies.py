"""Requests in the shapes that libraries give them: compressed bodies, and filters as long as GCE takes them."""

from __future__ import annotations

import gzip
import json
import urllib.parse
import zlib
from typing import Any

import pytest
import requests

from tests.clients.conftest import API_KEY, SECRET_KEY, Stack
from tests.clients.sequences import machine

JSON = {"Content-Type": "application/json; charset=UTF-8"}
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


def send(stack: Stack, url: str, body: bytes, encoding: str = "gzip", **headers: str) -> requests.Response:
    """As google-http-java-client sends every POST."""
    url = url if url.startswith("http") else stack.api + url
    given = {"Content-Encoding": encoding, "Accept-Encoding": "gzip", **JSON, **headers}
    return requests.post(url, data=body, headers=given, timeout=60)


def token(stack: Stack, encoding: str, pack: Any) -> str:
    form = {"grant_type": "client_credentials", "client_id": API_KEY, "client_secret": SECRET_KEY}
    body = pack(urllib.parse.urlencode(form).encode())
    reply = send(stack, f"{stack.url}/oauth2/token", body, encoding, **FORM)
    assert reply.status_code == 200, reply.text
    return f"Bearer {reply.json()['access_token']}"


@pytest.mark.parametrize(
    ("encoding", "pack"), [("gzip", gzip.compress), ("x-gzip", gzip.compress), ("deflate", zlib.compress)]
)
def test_the_life_of_an_instance_in_compressed_bodies(stack: Stack, encoding: str, pack: Any) -> None:
    bearer = {"Authorization": token(stack, encoding, pack)}
    name = f"packed-{encoding}"
    body = pack(json.dumps(machine(name, description="x" * 5000)).encode())
    reply = send(stack, "/zones/ch-gv2/instances", body, encoding, **bearer)
    assert reply.status_code == 200, reply.text
    assert "error" not in stack.finish(reply.json())
    assert stack.call("GET", f"/zones/ch-gv2/instances/{name}").json()["description"] == "x" * 5000
    for method, empty in (("stop", pack(b"")), ("start", b"")):
        reply = send(stack, f"/zones/ch-gv2/instances/{name}/{method}", empty, encoding, **bearer)
        assert reply.status_code == 200, reply.text
        assert "error" not in stack.finish(reply.json())
    override = {"X-HTTP-Method-Override": "GET", **FORM}
    query = pack(b"filter=name+eq+" + name.encode())
    found = send(stack, "/zones/ch-gv2/instances", query, encoding, **bearer, **override).json()
    assert [one["name"] for one in found["items"]] == [name]
    stack.finish(stack.call("DELETE", f"/zones/ch-gv2/instances/{name}").json())


def test_a_compressed_batch_of_compressed_parts(stack: Stack) -> None:
    rule = gzip.compress(json.dumps({"name": "packed", "allowed": [{"IPProtocol": "tcp"}]}).encode())
    parts = b""
    for number, content in enumerate((rule, rule[:-1])):
        parts += (
            f"--b\r\nContent-Type: application/http\r\nContent-ID: <{number}>\r\n\r\n"
            "POST /compute/v1/projects/demo/global/firewalls HTTP/1.1\r\nContent-Encoding: gzip\r\n\r\n"
        ).encode() + content
        parts += b"\r\n"
    bearer = {"Authorization": f"Bearer {stack.token()}", "Content-Type": "multipart/mixed; boundary=b"}
    reply = send(stack, f"{stack.url}/batch/compute/v1", gzip.compress(parts + b"--b--\r\n"), **bearer)
    assert reply.status_code == 200, reply.text
    assert reply.text.count("HTTP/1.1 200 OK") == 1
    assert reply.text.count("HTTP/1.1 400 Bad Request") == 1
    stack.finish(json.loads(reply.text[reply.text.index("{") : reply.text.index("\n}") + 2]))
    assert stack.call("GET", "/global/firewalls/packed").status_code == 200
    stack.finish(stack.call("DELETE", "/global/firewalls/packed").json())


def test_a_compressed_body_of_iam(stack: Stack) -> None:
    bearer = {"Authorization": f"Bearer {stack.token()}"}
    url = f"{stack.url}/v1/projects/demo/serviceAccounts"
    made = send(stack, url, gzip.compress(b'{"accountId": "packed-account"}'), **bearer)
    assert made.status_code == 200, made.text
    requests.delete(f"{url}/{made.json()['email']}", headers=bearer, timeout=30)
    refused = send(stack, url, b"{}", "br", **bearer)
    assert (refused.status_code, refused.json()["error"]["code"]) == (415, 415)


@pytest.mark.parametrize("character", ["|", "é", "x"])
def test_a_filter_of_4_kb_gets_through(stack: Stack, character: str) -> None:
    """Kubernetes asks for all nodes by name; whether the expression is right is said by what reads it."""
    text = "name eq (a" + character * 2000 + ")"
    text += character * ((4096 - len(text.encode())) // len(character.encode()))
    reply = stack.call("GET", "/zones", params={"filter": text})
    assert reply.status_code in (200, 400), reply.text
    assert reply.status_code == 200 or "filter" in reply.json()["error"]["message"], reply.text


def test_a_body_of_the_console_that_says_nothing_more(stack: Stack) -> None:
    """As the console and Terraform write it: with everything there is, unset."""
    body = machine(
        "console",
        confidentialInstanceConfig={"enableConfidentialCompute": False},
        params={"resourceManagerTags": {}},
        privateIpv6GoogleAccess="INHERIT_FROM_SUBNETWORK",
        scheduling={"automaticRestart": True, "nodeAffinities": [None], "onHostMaintenance": "MIGRATE"},
        guestAccelerators=[],
        instanceEncryptionKey={},
        advancedMachineFeatures=None,
        resourcePolicies=[None],
        keyRevocationActionType="NONE",
        zone="projects/demo/zones/ch-gv2",
        resourceStatus={"scheduling": {"availabilityDomain": 1}},
        satisfiesPzs=True,
        labelFingerprint="42WmSpB8rSM=",
    )
    body["disks"][0] |= {"diskEncryptionKey": None, "forceAttach": False, "index": 0, "kind": "compute#attachedDisk"}
    body["disks"][0]["initializeParams"] |= {"labels": {}, "resourceManagerTags": {}, "replicaZones": [], "x": [{}]}
    body["networkInterfaces"][0] |= {"aliasIpRanges": [], "queueCount": None, "ipv6AccessConfigs": [], "name": "nic0"}
    body["networkInterfaces"][0]["accessConfigs"][0] |= {"setPublicPtr": False, "publicPtrDomainName": ""}
    reply = stack.call("POST", "/zones/ch-gv2/instances", body)
    assert reply.status_code == 200, reply.text
    assert "error" not in stack.finish(reply.json())
    got = stack.call("GET", "/zones/ch-gv2/instances/console").json()
    assert got["scheduling"]["onHostMaintenance"] == "MIGRATE" and "resourceStatus" not in got
    stack.finish(stack.call("DELETE", "/zones/ch-gv2/instances/console").json())


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"guestAccelerators": [{"acceleratorCount": 1}]}, "resource.guestAccelerators"),
        ({"advancedMachineFeatures": {"threadsPerCore": 1}}, "resource.advancedMachineFeatures"),
        ({"resourcePolicies": ["x"]}, "resource.resourcePolicies"),
        ({"scheduling": {"maxRunDuration": {"seconds": "60"}}}, "resource.scheduling.maxRunDuration"),
        ({"networkInterfaces": [{"aliasIpRanges": [{"ipCidrRange": "/24"}]}]}, "resource.networkInterfaces[0].alias"),
        ({"disks": [{"diskEncryptionKey": {"rawKey": "x"}}]}, "resource.disks[0].diskEncryptionKey"),
    ],
)
def test_what_gce_has_and_is_not_here_is_refused_by_name(stack: Stack, change: dict[str, Any], path: str) -> None:
    error = stack.call("POST", "/zones/ch-gv2/instances", machine("refused") | change).json()["error"]
    assert error["code"] == 400
    assert path in error["message"] and "not supported here" in error["message"]
