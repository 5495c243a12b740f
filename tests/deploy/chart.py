"""The Helm chart as tests see it: rendered by the real Helm, which is built where it is not installed."""

from __future__ import annotations

import fcntl
import functools
import ipaddress
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy" / "helm" / "gstack"
HELM = "helm.sh/helm/v3/cmd/helm@v3.22.0"
NAMESPACE = "cloud"
KUBERNETES = ("1.32", "1.34", "1.36")
PUBLIC_URL = {"publicUrl": "https://gce.example.org"}
CLOUDSTACK = {"cloudstack": {"url": "https://cloud.example.org/client/api"}, **PUBLIC_URL}

Object = dict[str, Any]

# What somebody may want from the chart; every promise below is held against each of them.
VALUES: dict[str, Object] = {
    "default": CLOUDSTACK,
    "trial": {
        "demo": {"enabled": True},
        "postgresql": {"enabled": True},
        "secrets": {"generate": True},
    },
    "plaintext": {**CLOUDSTACK, "mtls": {"enabled": False}, "translator": {"autoscaling": {"enabled": False}}},
    "cert-manager": {**CLOUDSTACK, "mtls": {"source": "certManager", "issuerRef": {"name": "gstack"}}},
    "external-secrets": {
        **CLOUDSTACK,
        "externalSecrets": {"enabled": True, "storeRef": {"name": "vault"}},
        "httpRoute": {"enabled": True, "parentRefs": [{"name": "public"}], "hostnames": ["gce.example.org"]},
    },
    "everything": {
        **PUBLIC_URL,
        "cloudstack": {"url": "http://cloud.example.org:8080/client/api", "ca": {"configMap": "cloud-ca"}},
        "image": {"registry": "registry.example.org/gstack", "pullSecrets": ["registry"]},
        "names": '[zones]\n"CH-GV2" = "ch-gva-2"\n',
        "config": {"GSTACK_MAX_BODY": 16777216, "GSTACK_LOGIN_WITHOUT_PKCE": False, "GSTACK_CLOUDSTACK_TIMEOUT": 90.5},
        "gateway": {
            "drainSeconds": 20,
            "tls": {"secretName": "endpoint"},
            "image": {"digest": "sha256:" + "0" * 64},
            "podLabels": {"team": "cloud"},
            "podAnnotations": {"example.org/note": "a"},
            "nodeSelector": {"kubernetes.io/os": "linux"},
            "tolerations": [{"key": "edge", "operator": "Exists"}],
            "priorityClassName": "system-cluster-critical",
            "service": {"type": "LoadBalancer", "port": 443, "externalTrafficPolicy": "Local"},
        },
        "translator": {"autoscaling": {"targetCalls": 40}},
        "ingress": {
            "enabled": True,
            "className": "nginx",
            "hosts": ["gce.example.org"],
            "tls": [{"secretName": "gce", "hosts": ["gce.example.org"]}],
        },
        "networkPolicy": {
            "gateway": {"from": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "ingress"}}}]},
            "otlp": {"enabled": True},
        },
        "metrics": {
            "podMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
            "prometheusRule": {"enabled": True},
            "dashboard": {"enabled": True},
        },
        "postgresql": {"enabled": True, "storage": {"persistent": True}},
    },
}


@functools.cache
def helm() -> str:
    """Helm's path; builds it with Go where there is none, else skips."""
    found = shutil.which("helm")
    if found:
        return found
    folder = Path("~/.cache/gstack-tests").expanduser()
    built = folder / "helm"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "helm.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not built.exists():
            go = shutil.which("go", path=f"{os.environ.get('PATH', '')}:/usr/local/go/bin")
            if go is None:
                pytest.skip("Helm is not installed, and building it needs Go")
            subprocess.run([go, "install", HELM], check=True, cwd=folder, env={**os.environ, "GOBIN": str(folder)})
    return str(built)


def run(*arguments: str, values: Object, kubeconfig: str = os.devnull) -> subprocess.CompletedProcess[str]:
    """Helm with these values, and without any cluster unless one is named."""
    return subprocess.run(
        [helm(), *arguments, "--values", "-"],
        input=json.dumps(values),
        env={**os.environ, "KUBECONFIG": kubeconfig},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def template(values: Object, *arguments: str) -> subprocess.CompletedProcess[str]:
    known = ("template", "gstack", str(CHART), "--namespace", NAMESPACE, "--kube-version", "1.34.0")
    return run(*known, *arguments, values=values)


@functools.cache
def _render(values: str) -> list[Object]:
    done = template(json.loads(values))
    assert done.returncode == 0, done.stderr
    return [one for one in yaml.safe_load_all(done.stdout) if one]


def render(values: Object) -> list[Object]:
    """All objects of a release with these values. They are shared: do not change them."""
    return _render(json.dumps(values))


def objects(rendered: list[Object], kind: str) -> dict[str, Object]:
    """Those of a kind by name."""
    return {one["metadata"]["name"]: one for one in rendered if one["kind"] == kind}


def pods(rendered: list[Object]) -> Iterator[tuple[str, Object]]:
    """(component, pod or pod template) of everything that runs."""
    for one in rendered:
        if one["kind"] == "Pod":
            pod = one
        elif "template" in one.get("spec", {}):
            pod = one["spec"]["template"]
        else:
            continue
        yield pod["metadata"]["labels"]["app.kubernetes.io/component"], pod


def containers(pod: Object) -> list[Object]:
    spec = pod["spec"]
    return [*spec.get("initContainers", []), *spec["containers"]]


def variables(container: Object, rendered: list[Object]) -> dict[str, str]:
    """The environment of a container."""
    found: dict[str, str] = {}
    for source in container.get("envFrom", []):
        found |= objects(rendered, "ConfigMap")[source["configMapRef"]["name"]]["data"]
    return found | {one["name"]: one["value"] for one in container.get("env", [])}


@dataclass(frozen=True)
class Peer:
    """Somebody on the network: a pod with labels in a namespace, or an address outside."""

    name: str
    labels: dict[str, str] = field(default_factory=dict, hash=False)
    namespace: str = ""
    address: str = ""

    @property
    def is_ours(self) -> bool:
        return "app.kubernetes.io/instance" in self.labels


def _selects(selector: Object, labels: dict[str, str]) -> bool:
    for one in selector.get("matchExpressions", []):
        assert one["operator"] == "In", one
        if labels.get(one["key"]) not in one["values"]:
            return False
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())


def _is_meant(rule: Object, peer: Peer) -> bool:
    if "ipBlock" in rule:
        network = ipaddress.ip_network(rule["ipBlock"]["cidr"])
        excepted = map(ipaddress.ip_network, rule["ipBlock"].get("except", []))
        address = ipaddress.ip_address(peer.address) if peer.address else None
        return address is not None and address in network and not any(address in one for one in excepted)
    if not peer.namespace:
        return False
    if "namespaceSelector" in rule:
        if not _selects(rule["namespaceSelector"], {"kubernetes.io/metadata.name": peer.namespace}):
            return False
    elif peer.namespace != NAMESPACE:
        return False
    return _selects(rule.get("podSelector", {}), peer.labels)


def _allows(policies: list[Object], direction: str, pod: Peer, other: Peer, port: tuple[str, int]) -> bool:
    """Do the policies that select the pod let it talk with the other? A pod that none selects may do anything."""
    if not pod.is_ours:
        return True
    mine = [
        one["spec"]
        for one in policies
        if direction in one["spec"]["policyTypes"] and _selects(one["spec"]["podSelector"], pod.labels)
    ]
    side = "from" if direction == "Ingress" else "to"
    return not mine or any(
        port in [(known["protocol"], known["port"]) for known in rule["ports"]]
        and (side not in rule or any(_is_meant(one, other) for one in rule[side]))
        for policy in mine
        for rule in policy.get(direction.lower(), [])
    )


def reachable(rendered: list[Object], outside: list[Peer], ports: list[tuple[str, int]]) -> set[tuple[str, str, int]]:
    """Every (from, to, port) that the network policies let through, with one of our pods at least at one end."""
    policies = list(objects(rendered, "NetworkPolicy").values())
    ours = [Peer(component, pod["metadata"]["labels"], NAMESPACE) for component, pod in pods(rendered)]
    return {
        (source.name, target.name, port[1])
        for source in (*ours, *outside)
        for target in (*ours, *outside)
        for port in ports
        if source != target
        and (source.is_ours or target.is_ours)
        and _allows(policies, "Egress", source, target, port)
        and _allows(policies, "Ingress", target, source, port)
    }


# (group and version, resource, kind) of what the chart makes without anybody's CRDs.
_RESOURCES = [
    ("v1", "configmaps", "ConfigMap"),
    ("v1", "pods", "Pod"),
    ("v1", "secrets", "Secret"),
    ("v1", "services", "Service"),
    ("apps/v1", "deployments", "Deployment"),
    ("apps/v1", "statefulsets", "StatefulSet"),
    ("autoscaling/v2", "horizontalpodautoscalers", "HorizontalPodAutoscaler"),
    ("batch/v1", "jobs", "Job"),
    ("networking.k8s.io/v1", "ingresses", "Ingress"),
    ("networking.k8s.io/v1", "networkpolicies", "NetworkPolicy"),
    ("policy/v1", "poddisruptionbudgets", "PodDisruptionBudget"),
]


def _discovery(path: str) -> Object | None:
    """What a Kubernetes API says about itself."""
    if path == "/version":
        return {"major": "1", "minor": "34", "gitVersion": "v1.34.0"}
    if path == "/api":
        return {"kind": "APIVersions", "versions": ["v1"]}
    versions = sorted({version for version, _, _ in _RESOURCES})
    if path == "/apis":
        groups = [
            {"name": one.split("/")[0], "versions": [version], "preferredVersion": version}
            for one in versions
            if "/" in one
            for version in [{"groupVersion": one, "version": one.split("/")[1]}]
        ]
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}
    version = path.removeprefix("/apis/").removeprefix("/api/")
    if version not in versions:
        return None
    resources = [
        {"name": name, "singularName": kind.lower(), "namespaced": True, "kind": kind, "verbs": ["get", "list"]}
        for known, name, kind in _RESOURCES
        if known == version
    ]
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": resources}


@contextmanager
def cluster(folder: Path, known: list[Object]) -> Iterator[str]:
    """A kubeconfig for a cluster in which these objects are, and which takes no others."""
    names = {kind: name for _, name, kind in _RESOURCES}
    there = {f"/{names[one['kind']]}/{one['metadata']['name']}": one for one in known}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            found = _discovery(path) or there.get(path.partition(f"/namespaces/{NAMESPACE}")[2])
            missing = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}
            self.send_response(200 if found else 404)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(found or missing).encode())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        entry = {"name": "test", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}
        context = {"name": "test", "context": {"cluster": "test", "user": ""}}
        config = {"apiVersion": "v1", "kind": "Config", "clusters": [entry], "contexts": [context]}
        path = folder / "kubeconfig"
        path.write_text(json.dumps({**config, "current-context": "test"}))
        yield str(path)
        server.shutdown()


def install(values: Object, kubeconfig: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """What Helm would do in that cluster."""
    known = ("install", "gstack", str(CHART), "--namespace", NAMESPACE, "--dry-run=server", "--output", "json")
    return run(*known, "--disable-openapi-validation", *arguments, values=values, kubeconfig=kubeconfig)
