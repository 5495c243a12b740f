"""What the Helm chart promises about security and availability, held against what Helm renders."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import grpc
import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml
from click.testing import CliRunner

from gstack import __version__
from gstack.cli import main
from gstack.kernel import sealing, trust
from gstack.kernel.settings import Settings
from gstack.kernel.tls import Tls, role_name
from tests.deploy.chart import (
    CHART,
    CLOUDSTACK,
    KUBERNETES,
    NAMESPACE,
    PUBLIC_URL,
    ROOT,
    VALUES,
    Object,
    Peer,
    cluster,
    containers,
    install,
    objects,
    pods,
    reachable,
    render,
    run,
    template,
    variables,
)

pytestmark = [pytest.mark.xdist_group("helm"), pytest.mark.timeout(600)]

SERVICES = ("gateway", "translator", "auth")
# Of projects that Kubernetes' own schemas do not cover.
CRDS = ("cert-manager.io/", "external-secrets.io/", "gateway.networking.k8s.io/", "monitoring.coreos.com/")


@pytest.fixture(params=VALUES)
def rendered(request: pytest.FixtureRequest) -> list[Object]:
    """A release with each of the values."""
    return render(VALUES[request.param])


@pytest.fixture(scope="module")
def secret_keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """Keys of the Secrets that the command makes, by name."""
    folder = tmp_path_factory.mktemp("secrets")
    done = CliRunner().invoke(main, ["secrets", str(folder), "--kubernetes", "gstack"])
    assert done.exit_code == 0, done.output
    return {one["metadata"]["name"]: set(one["data"]) for one in json.loads(done.output)["items"]}


def deployed(rendered: list[Object], service: str) -> Object:
    """The pod's spec of a service."""
    spec: Object = objects(rendered, "Deployment")[f"gstack-{service}"]["spec"]["template"]["spec"]
    return spec


# The chart itself


@pytest.mark.parametrize("name", VALUES)
def test_helm_finds_nothing_to_complain_about(name: str) -> None:
    done = run("lint", "--strict", "--kube-version", "1.34.0", str(CHART), values=VALUES[name])
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("version", KUBERNETES)
def test_kubernetes_knows_every_field(rendered: list[Object], version: str) -> None:
    for one in rendered:
        if not one["apiVersion"].startswith(CRDS):
            kubernetes_validate.validate(one, version, strict=True)


def test_the_chart_is_of_this_release() -> None:
    assert yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"] == __version__


def test_manifests_without_helm_are_the_chart_rendered() -> None:
    folder = ROOT / "deploy" / "kubernetes"
    text = (folder / "values.yaml").read_text()
    known = ("template", "gstack", str(CHART), "--namespace", "gstack", "--kube-version", "1.34.0", "--skip-tests")
    fresh = run(*known, values=yaml.safe_load(text))
    assert (folder / "gstack.yaml").read_text() == fresh.stdout, f"render it anew, as {folder}/values.yaml says"
    namespace = yaml.safe_load((folder / "namespace.yaml").read_text())
    kubernetes_validate.validate(namespace, KUBERNETES[0], strict=True)
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({**PUBLIC_URL}, "cloudstack.url must be set"),
        ({"cloudstack": CLOUDSTACK["cloudstack"]}, "publicUrl must be set"),
        ({**CLOUDSTACK, "publicUrl": "gce.example.org"}, "/publicUrl"),
        (
            {**CLOUDSTACK, "translator": {"autoscaling": {"minReplicas": 7, "maxReplicas": 6}}},
            "minReplicas (7) is more",
        ),
        ({**CLOUDSTACK, "translator": {"autoscaling": {"minReplicas": "two"}}}, "minReplicas"),
        ({**CLOUDSTACK, "clusterDnsSeconds": "30s"}, "/clusterDnsSeconds"),
        ({**CLOUDSTACK, "config": {"GSTACK_MAX_BODI": 5}}, "GSTACK_MAX_BODI"),
        ({**CLOUDSTACK, "config": {"GSTACK_MAX_BODY": "much"}}, "GSTACK_MAX_BODY"),
        ({**CLOUDSTACK, "config": {"GSTACK_GATEWAY_THREADS": 0}}, "GSTACK_GATEWAY_THREADS"),
        ({**CLOUDSTACK, "config": {"GSTACK_NAMING": "mine"}}, "GSTACK_NAMING"),
        ({**CLOUDSTACK, "config": {"GSTACK_LOGIN_WITHOUT_PKCE": "maybe"}}, "GSTACK_LOGIN_WITHOUT_PKCE"),
        ({"cloudstack": {"url": "cloud.example.org"}}, "/cloudstack/url"),
        ({**CLOUDSTACK, "gatewey": {}}, "gatewey"),
        ({**CLOUDSTACK, "gateway": {"replica": 3}}, "replica"),
        ({**CLOUDSTACK, "auth": {"replicas": "3"}}, "/auth/replicas"),
        ({**CLOUDSTACK, "auth": {"resources": {"limits": None}}}, "limits"),
        ({**CLOUDSTACK, "image": {"pullPolicy": "Sometimes"}}, "/image/pullPolicy"),
        ({**CLOUDSTACK, "config": {"GSTACK_DATABASE_URL": "postgresql://a:b@c/d"}}, "GSTACK_DATABASE_URL"),
        ({**CLOUDSTACK, "config": {"PATH": "/"}}, "PATH"),
        ({**CLOUDSTACK, "ingress": {"enabled": True}}, "/ingress/hosts"),
        ({**CLOUDSTACK, "httpRoute": {"enabled": True}}, "/httpRoute/parentRefs"),
        ({**CLOUDSTACK, "mtls": {"source": "certManager"}}, "/mtls/issuerRef/name"),
        ({**CLOUDSTACK, "externalSecrets": {"enabled": True}}, "/externalSecrets/storeRef/name"),
        ({**CLOUDSTACK, "secrets": {"generate": True}}, "set postgresql.enabled"),
    ],
)
def test_wrong_values_are_refused_by_name(values: Object, complaint: str) -> None:
    done = template(values)
    assert done.returncode != 0
    assert complaint in done.stderr


# Pods


def test_every_pod_is_restricted(rendered: list[Object]) -> None:
    """Pod Security Standards, level restricted, and what we add."""
    for component, pod in pods(rendered):
        spec = pod["spec"]
        assert not any(spec.get(name) for name in ("hostNetwork", "hostPID", "hostIPC")), component
        assert spec["securityContext"]["runAsNonRoot"] is True, component
        assert spec["securityContext"]["runAsUser"] > 0, component
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, component
        assert spec["automountServiceAccountToken"] is False, component
        for volume in spec.get("volumes", []):
            assert set(volume) - {"name"} <= {"configMap", "emptyDir", "secret"}, (component, volume)
        for container in containers(pod):
            where = (component, container["name"])
            security = container["securityContext"]
            assert security["allowPrivilegeEscalation"] is False, where
            assert security["capabilities"] == {"drop": ["ALL"]}, where
            assert security["readOnlyRootFilesystem"] is True, where
            assert not security.keys() & {"privileged", "runAsUser", "runAsNonRoot", "seccompProfile"}, where
            assert not any("hostPort" in port for port in container.get("ports", [])), where


def test_every_container_has_bounds(rendered: list[Object]) -> None:
    for component, pod in pods(rendered):
        for container in containers(pod):
            resources = container["resources"]
            assert {"cpu", "memory"} <= set(resources["requests"]), component
            assert "memory" in resources["limits"], component
            assert container["imagePullPolicy"] == "IfNotPresent", component
        for volume in pod["spec"].get("volumes", []):
            assert "sizeLimit" in volume.get("emptyDir", {"sizeLimit": ""}), (component, volume)


def test_kubernetes_sets_no_variables_that_look_like_settings(rendered: list[Object]) -> None:
    """Else a Service called gstack-gateway would give GSTACK_GATEWAY_PORT."""
    assert all(pod["spec"]["enableServiceLinks"] is False for _, pod in pods(rendered))


def test_variables_are_settings_that_exist(rendered: list[Object]) -> None:
    known = {f"GSTACK_{name.upper()}" for name in Settings.model_fields} | {"GSTACK_SECRETS_DIR"}
    for component, pod in pods(rendered):
        for container in containers(pod):
            given = {name for name in variables(container, rendered) if name.startswith("GSTACK_")}
            assert given <= known, component


def test_settings_can_be_read(rendered: list[Object], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Numbers and booleans of the values are strings that settings understand."""
    for _, pod in pods(rendered):
        for container in containers(pod):
            with monkeypatch.context() as patch:
                for name, value in variables(container, rendered).items():
                    patch.setenv(name, value if name != "GSTACK_SECRETS_DIR" else str(tmp_path))
                Settings()


def test_nothing_secret_is_in_a_variable(rendered: list[Object]) -> None:
    """Variables are literal, say nothing secret, and name files instead."""
    for component, pod in pods(rendered):
        for container in containers(pod):
            assert all(set(one) == {"name", "value"} for one in container.get("env", [])), component
            assert all(set(one) == {"configMapRef"} for one in container.get("envFrom", [])), component
            for name, value in variables(container, rendered).items():
                assert not name.endswith("_DATABASE_URL"), (component, name)
                if re.search("KEY|PASSWORD|SECRET|TOKEN_KEY", name):
                    assert value.startswith("/etc/"), (component, name)


def test_a_service_gets_only_its_own_secrets_and_its_group_alone_reads_them(rendered: list[Object]) -> None:
    for component, pod in pods(rendered):
        names = {one["secret"]["secretName"] for one in pod["spec"].get("volumes", []) if "secret" in one}
        own = {f"gstack-{component}", f"gstack-{component}-tls"}
        if component == "gateway":
            own.add("endpoint")
        if component == "migrations":
            own = {"gstack-translator", "gstack-auth"}
        assert names <= own, component
        assert pod["spec"]["securityContext"]["fsGroup"] == pod["spec"]["securityContext"]["runAsGroup"]
        for volume in pod["spec"].get("volumes", []):
            if "secret" in volume:
                assert volume["secret"]["defaultMode"] & 0o037 == 0, component
                mounts = [
                    mount
                    for container in containers(pod)
                    for mount in container["volumeMounts"]
                    if mount["name"] == volume["name"]
                ]
                assert mounts and all(mount["readOnly"] and "subPath" not in mount for mount in mounts), component


def test_only_the_master_key_of_auth_is_mounted_where_it_is_needed(rendered: list[Object]) -> None:
    holders = {
        (component, container["name"])
        for component, pod in pods(rendered)
        for container in containers(pod)
        if "GSTACK_MASTER_KEY_FILE" in variables(container, rendered)
    }
    assert holders - {("auth", "database"), ("auth", "order"), ("migrations", "auth")} == {("auth", "auth")}


@pytest.mark.parametrize("name", ["default", "trial", "external-secrets", "cert-manager", "plaintext"])
def test_files_of_secrets_are_those_that_the_command_makes(name: str, secret_keys: dict[str, set[str]]) -> None:
    rendered = render(VALUES[name])
    for component, pod in pods(rendered):
        volumes = {one["name"]: one.get("secret") for one in pod["spec"].get("volumes", [])}
        for container in containers(pod):
            found = variables(container, rendered)
            for mount in container["volumeMounts"]:
                secret = volumes.get(mount["name"])
                if secret is None:
                    continue
                files = {
                    Path(value).name
                    for value in found.values()
                    if value.startswith("/") and str(Path(value).parent) == mount["mountPath"]
                }
                if secret["secretName"].endswith("-tls"):
                    assert files == {"tls.crt", "tls.key", "ca.crt"}, component
                    continue
                assert files <= secret_keys[secret["secretName"]], component
                assert files or "GSTACK_SECRETS_DIR" in found, component


def test_generated_and_fetched_secrets_are_those_that_the_command_makes(secret_keys: dict[str, set[str]]) -> None:
    generated = {name: set(one["data"]) for name, one in objects(render(VALUES["trial"]), "Secret").items()}
    assert generated == secret_keys
    external = objects(render({**VALUES["external-secrets"], "postgresql": {"enabled": True}}), "ExternalSecret")
    # Certificates are there, and so the secret is not needed.
    assert {
        one["spec"]["target"]["name"]: {entry["secretKey"] for entry in one["spec"]["data"]}
        for one in external.values()
    } == {name: keys - {"services.key"} for name, keys in secret_keys.items()}
    for one in external.values():
        assert one["spec"]["secretStoreRef"] == {"name": "vault", "kind": "ClusterSecretStore"}
        assert all(entry["remoteRef"]["key"].startswith("gstack/") for entry in one["spec"]["data"])


# Configuration


def checksums(values: Object) -> set[str]:
    found = objects(render(values), "Deployment").values()
    return {one["spec"]["template"]["metadata"]["annotations"]["checksum/config"] for one in found}


def test_pods_are_replaced_when_the_configuration_changes() -> None:
    before = checksums(CLOUDSTACK)
    assert len(before) == 1
    assert not before & checksums({**CLOUDSTACK, "logLevel": "debug"})
    assert not before & checksums({**CLOUDSTACK, "config": {"GSTACK_RATE_KEYS": 9}})
    assert not before & checksums({**CLOUDSTACK, "names": "[zones]\n"})
    assert before == checksums({**CLOUDSTACK, "auth": {"replicas": 4}})


def test_configuration_reaches_services_as_it_was_written() -> None:
    data = objects(render(VALUES["everything"]), "ConfigMap")["gstack-config"]["data"]
    assert data["GSTACK_MAX_BODY"] == "16777216"
    assert data["GSTACK_CLOUDSTACK_TIMEOUT"] == "90.5"
    assert data["GSTACK_PROXIES"] == "1"
    assert objects(render(CLOUDSTACK), "ConfigMap")["gstack-config"]["data"]["GSTACK_PROXIES"] == "0"
    names = objects(render(VALUES["everything"]), "ConfigMap")["gstack-names"]["data"]["names.toml"]
    assert names.strip() == VALUES["everything"]["names"].strip()


def test_targets_are_headless_services_that_exist(rendered: list[Object]) -> None:
    data = objects(rendered, "ConfigMap")["gstack-config"]["data"]
    for service in ("translator", "auth"):
        found = objects(rendered, "Service")[f"gstack-{service}"]["spec"]
        assert found["clusterIP"] == "None"
        # Callers look at each one's health themselves, and a name without a ready pod has to resolve too.
        assert found["publishNotReadyAddresses"] is True
        port = found["ports"][0]
        target = f"dns:///gstack-{service}.{NAMESPACE}.svc.cluster.local:{port['port']}"
        assert data[f"GSTACK_{service.upper()}_TARGET"] == target
        numbers = {one["name"]: one["containerPort"] for one in deployed(rendered, service)["containers"][0]["ports"]}
        assert numbers[port["targetPort"]] == port["port"], "clients of a headless service meet the container's port"


def test_d2_every_headless_service_resolves_without_a_ready_pod(rendered: list[Object]) -> None:
    headless = [one["spec"] for one in objects(rendered, "Service").values() if one["spec"].get("clusterIP") == "None"]
    assert len(headless) == 2 + len(objects(rendered, "StatefulSet"))
    assert all(one["publishNotReadyAddresses"] is True for one in headless)


def test_a6_clients_cannot_choose_what_the_endpoint_is_called() -> None:
    def called(values: Object) -> str:
        return str(objects(render(values), "ConfigMap")["gstack-config"]["data"]["GSTACK_PUBLIC_URL"])

    assert called(CLOUDSTACK) == "https://gce.example.org"
    # A trial is reached as its notes say, unless it is told otherwise.
    assert called(VALUES["trial"]) == "http://127.0.0.1:5000"
    ingress = {"enabled": True, "hosts": ["trial.example.org"]}
    assert called({**VALUES["trial"], "ingress": ingress}) == "http://trial.example.org"
    assert called({**VALUES["trial"], **PUBLIC_URL}) == "https://gce.example.org"


def test_every_service_finds_pods(rendered: list[Object]) -> None:
    labels = [pod["metadata"]["labels"] for _, pod in pods(rendered)]
    for name, service in objects(rendered, "Service").items():
        selector = service["spec"]["selector"].items()
        assert sum(selector <= one.items() for one in labels) == 1, name


def test_images_can_be_named_in_full() -> None:
    rendered = render(VALUES["everything"])
    first = {service: deployed(rendered, service)["containers"][0]["image"] for service in SERVICES}
    assert first["gateway"] == f"registry.example.org/gstack/gstack-gateway:2.0.0@sha256:{'0' * 64}"
    assert first["auth"] == "registry.example.org/gstack/gstack-auth:2.0.0"
    assert all(pod["spec"]["imagePullSecrets"] == [{"name": "registry"}] for _, pod in pods(rendered))


# Availability


def test_probes_ask_three_different_questions(rendered: list[Object]) -> None:
    for service in SERVICES:
        container = deployed(rendered, service)["containers"][0]
        startup, liveness, readiness = (container[f"{name}Probe"] for name in ("startup", "liveness", "readiness"))
        questions = [one.get("httpGet", one.get("grpc")) for one in (startup, liveness, readiness)]
        assert questions[1] != questions[2], service
        assert startup["failureThreshold"] * startup["periodSeconds"] >= 120, service
        # Slower to kill than to take out.
        assert liveness["failureThreshold"] * liveness["periodSeconds"] >= 60, service
        assert readiness["failureThreshold"] * readiness["periodSeconds"] <= 15, service


def test_liveness_depends_on_the_process_alone(rendered: list[Object]) -> None:
    alone = [{"path": "/healthz", "port": "metrics"}, {"port": 5001, "service": "liveness"}]
    alone.append({"port": 5002, "service": "liveness"})
    for service in SERVICES:
        probe = deployed(rendered, service)["containers"][0]["livenessProbe"]
        assert probe.get("httpGet", probe.get("grpc")) in alone, service


def test_readiness_of_a_service_is_its_own() -> None:
    """Customers get errors in JSON from a gateway without translators, not a page of the ingress."""
    for name in ("default", "plaintext", "everything"):
        gateway = deployed(render(VALUES[name]), "gateway")["containers"][0]
        assert gateway["readinessProbe"]["httpGet"] == {"path": "/readyz/gateway", "port": "metrics"}
    for service, port in (("translator", 5001), ("auth", 5002)):
        container = deployed(render(VALUES["plaintext"]), service)["containers"][0]
        assert container["readinessProbe"]["grpc"] == container["startupProbe"]["grpc"] == {"port": port}


def test_a_gateway_with_tls_is_probed_with_tls() -> None:
    for name, scheme in (("default", "HTTP"), ("everything", "HTTPS")):
        gateway = deployed(render(VALUES[name]), "gateway")["containers"][0]
        assert gateway["startupProbe"]["httpGet"] == {"path": "/readyz", "port": "http", "scheme": scheme}


def test_probes_of_grpc_are_not_used_with_mtls(rendered: list[Object]) -> None:
    """Kubernetes speaks no TLS there."""
    for service in SERVICES:
        container = deployed(rendered, service)["containers"][0]
        if "GSTACK_TLS_CERT" in variables(container, rendered):
            assert not any("grpc" in container[f"{name}Probe"] for name in ("startup", "liveness", "readiness"))


def test_a_pod_has_time_to_drain(rendered: list[Object]) -> None:
    for service in SERVICES:
        spec = deployed(rendered, service)
        drain = float(variables(spec["containers"][0], rendered).get("GSTACK_GATEWAY_DRAIN_SECONDS", 1))
        assert spec["terminationGracePeriodSeconds"] > drain + 30 + 5, service


def test_an_upgrade_takes_no_replica_away_before_another_is_ready(rendered: list[Object]) -> None:
    for service in SERVICES:
        strategy = objects(rendered, "Deployment")[f"gstack-{service}"]["spec"]["strategy"]
        assert strategy == {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}


def test_replicas_are_spread_over_machines_and_zones(rendered: list[Object]) -> None:
    for service in SERVICES:
        spec = objects(rendered, "Deployment")[f"gstack-{service}"]["spec"]
        found = spec["template"]["spec"]["topologySpreadConstraints"]
        assert {one["topologyKey"] for one in found} == {"kubernetes.io/hostname", "topology.kubernetes.io/zone"}
        assert {one["whenUnsatisfiable"] for one in found} == {"ScheduleAnyway"}
        assert all(one["labelSelector"] == spec["selector"] for one in found)


def test_each_service_has_a_budget_that_lets_a_machine_be_drained(rendered: list[Object]) -> None:
    budgets = objects(rendered, "PodDisruptionBudget")
    assert set(budgets) == {f"gstack-{service}" for service in SERVICES}
    for name, budget in budgets.items():
        assert budget["spec"]["maxUnavailable"] == 1
        assert "minAvailable" not in budget["spec"], "one replica alone could never be evicted"
        assert budget["spec"]["selector"] == objects(rendered, "Deployment")[name]["spec"]["selector"]


def test_translators_alone_scale_by_themselves(rendered: list[Object]) -> None:
    scalers = objects(rendered, "HorizontalPodAutoscaler")
    targets = {one["spec"]["scaleTargetRef"]["name"] for one in scalers.values()}
    for name, deployment in objects(rendered, "Deployment").items():
        # A number here would take back what the autoscaler did at every upgrade.
        assert ("replicas" in deployment["spec"]) == (name not in targets), name
    assert targets <= {"gstack-translator"}
    for one in scalers.values():
        assert one["spec"]["metrics"][0]["resource"]["name"] == "cpu"
        assert one["spec"]["behavior"]["scaleDown"]["stabilizationWindowSeconds"] >= 300


def test_autoscaling_by_calls_and_none_at_all() -> None:
    [scaler] = objects(render(VALUES["everything"]), "HorizontalPodAutoscaler").values()
    assert scaler["spec"]["metrics"][1]["pods"]["metric"]["name"] == "gstack_rpc_running"
    assert not objects(render(VALUES["plaintext"]), "HorizontalPodAutoscaler")


# Migrations


def test_migrations_run_before_an_upgrade(rendered: list[Object]) -> None:
    job = objects(rendered, "Job")["gstack-migrations"]
    hooks = job["metadata"]["annotations"]["helm.sh/hook"].split(",")
    # What the release makes itself is not there before it is installed.
    own = {"StatefulSet", "ExternalSecret", "Secret"} & {one["kind"] for one in rendered}
    assert hooks == (["pre-upgrade"] if own else ["pre-install", "pre-upgrade"])
    assert job["spec"]["activeDeadlineSeconds"] and job["spec"]["backoffLimit"]
    commands = [one["command"][:5] for one in job["spec"]["template"]["spec"]["containers"]]
    assert commands == [["gstack", "db", "upgrade", "--service", service] for service in ("translator", "auth")]
    needs = [source for one in containers(job["spec"]["template"]) for source in one.get("envFrom", [])]
    assert not needs, "a hook runs before there is a ConfigMap"


def test_services_wait_for_the_database_that_starts_with_them() -> None:
    rendered = render(VALUES["trial"])
    for service in ("translator", "auth"):
        first = deployed(rendered, service)["initContainers"][0]
        assert first["command"] == ["gstack", "db", "upgrade", "--service", service, "--wait", "120"]


def test_d7_an_upgrade_comes_to_translators_then_auth_then_gateways(rendered: list[Object]) -> None:
    """Helm changes all at once: those that call wait for those that are called, with what they know each other by."""
    waits = {}
    for service in SERVICES:
        spec = deployed(rendered, service)
        for one in spec.get("initContainers", []):
            if one["name"] == "order":
                waits[service] = one["command"][2:]
                [main_one] = spec["containers"]
                assert {key: one[key] for key in one if key not in ("name", "command")} == {
                    key: main_one[key] for key in one if key not in ("name", "command")
                }
                assert one["command"][:2] == ["gstack", "await"]
    assert waits == {"auth": ["translator"], "gateway": ["translator", "auth"]}


def test_d7_the_next_pod_goes_when_callers_know_the_one_before(rendered: list[Object]) -> None:
    for service, seconds in (("translator", 45), ("auth", 45), ("gateway", 10)):
        assert objects(rendered, "Deployment")[f"gstack-{service}"]["spec"]["minReadySeconds"] == seconds
    slow = objects(render({**CLOUDSTACK, "clusterDnsSeconds": 60}), "Deployment")
    assert slow["gstack-auth"]["spec"]["minReadySeconds"] == 75


# Network

PROMETHEUS, STRANGER, RESOLVER, INGRESS, NEIGHBOUR = (
    Peer(name, {"app": name}, namespace)
    for name, namespace in (
        ("prometheus", "monitoring"),
        ("stranger", "other"),
        ("resolver", "kube-system"),
        ("ingress", "ingress"),
        ("neighbour", NAMESPACE),
    )
)
INTERNET, METADATA = Peer("internet", address="203.0.113.7"), Peer("metadata", address="169.254.169.254")
PORTS = [("TCP", port) for port in (53, 80, 443, 4318, 5000, 5001, 5002, 5003, 5432, 6443, 8080, 9000)]
PORTS.append(("UDP", 53))
OUTSIDE = [PROMETHEUS, STRANGER, RESOLVER, INGRESS, NEIGHBOUR, INTERNET, METADATA]
INNER = {
    ("gateway", "translator", 5001),
    ("gateway", "auth", 5002),
    ("auth", "translator", 5001),
    ("test", "gateway", 5000),
    *(("prometheus", service, 9000) for service in SERVICES),
    # Any pod may be a resolver: clusters differ in where theirs runs.
    *(
        (source, target.name, 53)
        for source in (*SERVICES, "migrations", "test")
        for target in OUTSIDE
        if target.namespace
    ),
}


def test_nobody_talks_to_whom_they_need_not() -> None:
    assert reachable(render(VALUES["default"]), OUTSIDE, PORTS) == INNER | {
        *((peer.name, "gateway", 5000) for peer in OUTSIDE),
        ("translator", "internet", 443),
        *((source, "internet", 5432) for source in ("translator", "auth", "migrations")),
    }


def test_nobody_talks_to_whom_they_need_not_in_a_trial() -> None:
    assert reachable(render(VALUES["trial"]), OUTSIDE, PORTS) == INNER | {
        *((peer.name, "gateway", 5000) for peer in OUTSIDE),
        ("translator", "simulator", 5003),
        *((source, "postgres", 5432) for source in ("translator", "auth", "migrations")),
    }


def test_the_network_can_be_narrowed_and_widened_by_name() -> None:
    assert reachable(render(VALUES["everything"]), OUTSIDE, PORTS) == INNER | {
        ("ingress", "gateway", 5000),
        ("translator", "internet", 8080),
        *((source, "postgres", 5432) for source in ("translator", "auth", "migrations")),
        *((source, peer.name, 4318) for source in SERVICES for peer in OUTSIDE if peer.namespace),
    }


@pytest.mark.parametrize(
    ("url", "port"),
    [
        ("http://cloud.example.org/client/api", 80),
        ("https://cloud.example.org/client/api", 443),
        ("https://[2001:db8::1]/client/api", 443),
        ("http://[2001:db8::1]:8080/client/api", 8080),
    ],
)
def test_translators_reach_cloudstack_at_the_port_of_its_address(url: str, port: int) -> None:
    found = reachable(render({"cloudstack": {"url": url}, **PUBLIC_URL}), [INTERNET], PORTS)
    assert {edge for edge in found if edge[:2] == ("translator", "internet")} == {
        ("translator", "internet", port),
        ("translator", "internet", 5432),
    }


def test_network_policies_can_be_left_to_others() -> None:
    assert not objects(render({**CLOUDSTACK, "networkPolicy": {"enabled": False}}), "NetworkPolicy")


# Ways in, certificates, monitoring


def test_ingress_and_http_route_lead_to_the_gateway() -> None:
    [ingress] = objects(render(VALUES["everything"]), "Ingress").values()
    [path] = ingress["spec"]["rules"][0]["http"]["paths"]
    assert path["backend"]["service"] == {"name": "gstack-gateway", "port": {"number": 443}}
    [route] = objects(render(VALUES["external-secrets"]), "HTTPRoute").values()
    assert route["apiVersion"] == "gateway.networking.k8s.io/v1"
    assert route["spec"]["hostnames"] == ["gce.example.org"]
    assert route["spec"]["rules"][0]["backendRefs"] == [{"name": "gstack-gateway", "port": 80}]


def test_cert_manager_makes_certificates_of_roles() -> None:
    rendered = render(VALUES["cert-manager"])
    certificates = objects(rendered, "Certificate")
    for service in SERVICES:
        spec = certificates[f"gstack-{service}"]["spec"]
        assert spec["dnsNames"] == [role_name(service)]
        assert set(spec["usages"]) == {"digital signature", "server auth", "client auth"}
        assert spec["issuerRef"] == {"name": "gstack", "kind": "Issuer", "group": "cert-manager.io"}
        mounted = {one["secret"]["secretName"] for one in deployed(rendered, service)["volumes"] if "secret" in one}
        assert spec["secretName"] in mounted


def test_a5_without_certificates_there_is_a_secret() -> None:
    for name, values in VALUES.items():
        rendered = render(values)
        for service in SERVICES:
            known = variables(deployed(rendered, service)["containers"][0], rendered)
            assert ("GSTACK_TLS_CERT" in known) != ("GSTACK_SERVICES_KEY_FILE" in known) == (name == "plaintext")
    volumes = deployed(render(VALUES["plaintext"]), "gateway")["volumes"]
    assert [one["secret"]["secretName"] for one in volumes if "secret" in one] == ["gstack-gateway"]
    external = {**VALUES["external-secrets"], "mtls": {"enabled": False}}
    for name, secret in objects(render(external), "ExternalSecret").items():
        keys = {one["secretKey"] for one in secret["spec"]["data"]}
        assert "services.key" in keys and "tls.crt" not in keys, name


def test_monitoring_carries_the_files_of_the_chart() -> None:
    rendered = render(VALUES["everything"])
    [monitor] = objects(rendered, "PodMonitor").values()
    assert monitor["metadata"]["labels"]["release"] == "prometheus"
    [endpoint] = monitor["spec"]["podMetricsEndpoints"]
    for service in SERVICES:
        ports = {one["name"]: one["containerPort"] for one in deployed(rendered, service)["containers"][0]["ports"]}
        assert ports[endpoint["port"]] == 9000
    [rule] = objects(rendered, "PrometheusRule").values()
    assert rule["spec"] == yaml.safe_load((CHART / "files" / "alerts.yaml").read_text())
    dashboard = objects(rendered, "ConfigMap")["gstack-dashboard"]
    assert dashboard["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert json.loads(dashboard["data"]["gstack.json"]) == json.loads((CHART / "files" / "dashboard.json").read_text())


def test_nothing_needs_more_than_kubernetes_unless_it_is_asked_for() -> None:
    assert not [one for one in render(CLOUDSTACK) if one["apiVersion"].startswith(CRDS)]
    assert not [one for one in render(VALUES["trial"]) if one["apiVersion"].startswith(CRDS)]


# Things of the chart that run


@pytest.fixture
def generated(tmp_path: Path) -> Path:
    """Files as pods see them, of the Secrets that the chart makes."""
    for name, secret in objects(render(VALUES["trial"]), "Secret").items():
        folder = tmp_path / name.removeprefix("gstack-")
        folder.mkdir()
        for key, value in secret["data"].items():
            (folder / key).write_bytes(base64.b64decode(value))
            (folder / key).chmod(0o440)
    return tmp_path


def test_generated_keys_work(generated: Path) -> None:
    sealed = sealing.Keyring(generated / "auth" / "sealing.key").seal(b"text", "purpose")
    assert sealing.Keyring(generated / "translator" / "sealing.key").open(sealed, "purpose") == b"text"
    assert sealing.Keyring(generated / "auth" / "master.key").primary_id != sealing.key_id_of(sealed)
    callers = [trust.Secret(generated / one / "services.key") for one in SERVICES]
    assert len({one.shown() for one in callers}) == 1
    for service, file in (("auth", "gstack_auth_database_url"), ("translator", "gstack_database_url")):
        user, password = f"gstack_{service}", (generated / "postgres" / service).read_text()
        url = f"postgresql+psycopg://{user}:{password}@gstack-postgres.{NAMESPACE}.svc.cluster.local/{user}"
        assert (generated / service / file).read_text() == url


def test_a4_the_bundled_database_runs_the_script_of_the_chart() -> None:
    rendered = render(VALUES["trial"])
    script = objects(rendered, "ConfigMap")["gstack-postgres"]["data"]["databases.sql"]
    assert script.strip() == (CHART / "files" / "databases.sql").read_text().strip()
    spec = objects(rendered, "StatefulSet")["gstack-postgres"]["spec"]["template"]["spec"]
    [container] = spec["containers"]
    mounts = {one["mountPath"]: one["name"] for one in container["volumeMounts"]}
    volumes = {one["name"]: one for one in spec["volumes"]}
    assert volumes[mounts["/docker-entrypoint-initdb.d"]]["configMap"] == {"name": "gstack-postgres"}
    folder = variables(container, rendered)["PASSWORDS"]
    secret = volumes[mounts[folder]]["secret"]["secretName"]
    assert {"auth", "translator"} <= set(objects(rendered, "Secret")[secret]["data"])


def test_generated_certificates_work(generated: Path) -> None:
    """A handshake in which both sides show theirs."""
    tls = {one: Tls(*(generated / one / name for name in ("tls.crt", "tls.key", "ca.crt"))) for one in SERVICES}
    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_secure_port("127.0.0.1:0", tls["translator"].server_credentials())
    server.start()
    try:
        options = [("grpc.ssl_target_name_override", role_name("translator"))]
        with grpc.secure_channel(f"127.0.0.1:{port}", tls["gateway"].channel_credentials(), options) as channel:
            grpc.channel_ready_future(channel).result(timeout=10)
    finally:
        server.stop(None)


@pytest.fixture
def endpoint() -> Iterator[tuple[str, dict[str, int]]]:
    """An address, and the status with which each path is answered there."""
    statuses: dict[str, int] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(statuses.get(self.path, 404))
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", statuses
        server.shutdown()


def test_the_test_of_the_release_can_fail(endpoint: tuple[str, dict[str, int]]) -> None:
    address, statuses = endpoint
    [pod] = objects(render(VALUES["default"]), "Pod").values()
    [container] = pod["spec"]["containers"]
    program, target = container["command"][:3], container["command"][3]
    assert target == f"http://gstack-gateway.{NAMESPACE}.svc.cluster.local:80"

    def passes() -> bool:
        done = subprocess.run([sys.executable, *program[1:], address], capture_output=True, check=False, timeout=60)
        return done.returncode == 0

    statuses |= {"/readyz": 200, "/discovery/v1/apis/compute/v1/rest": 200}
    assert passes()
    statuses["/readyz"] = 503
    assert not passes()


# In a cluster that has something already


def owned(secrets: list[Object]) -> list[Object]:
    """As a release before has left them."""
    marks = {"meta.helm.sh/release-name": "gstack", "meta.helm.sh/release-namespace": NAMESPACE}
    return [{**one, "metadata": {**one["metadata"], "annotations": marks}} for one in secrets]


def secrets_after(folder: Path, known: list[Object]) -> dict[str, dict[str, str]]:
    """What the chart's Secrets hold after a trial is installed where these are."""
    with cluster(folder, owned(known)) as kubeconfig:
        done = install(VALUES["trial"], kubeconfig)
    assert done.returncode == 0, done.stderr
    manifests = [one for one in yaml.safe_load_all(json.loads(done.stdout)["manifest"]) if one]
    return {name: one["data"] for name, one in objects(manifests, "Secret").items()}


def test_generated_secrets_stay(tmp_path: Path) -> None:
    known = objects(render(VALUES["trial"]), "Secret")
    before = {name: one["data"] for name, one in known.items()}
    assert secrets_after(tmp_path, list(known.values())) == before
    assert secrets_after(tmp_path, []) != before


def test_a_lost_certificate_costs_no_key(tmp_path: Path) -> None:
    known = objects(render(VALUES["trial"]), "Secret")
    after = secrets_after(tmp_path, [one for name, one in known.items() if name != "gstack-gateway"])
    authorities = {after[f"gstack-{service}"]["ca.crt"] for service in SERVICES}
    assert len(authorities) == 1
    assert authorities != {known["gstack-auth"]["data"]["ca.crt"]}
    for name, one in known.items():
        kept = {key: value for key, value in one["data"].items() if key not in ("tls.crt", "tls.key", "ca.crt")}
        assert kept.items() <= after[name].items()


def test_an_installation_without_secrets_says_so_instead_of_waiting(tmp_path: Path) -> None:
    namespace = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "kube-root-ca.crt"}}
    with cluster(tmp_path, [namespace]) as kubeconfig:
        done = install(VALUES["default"], kubeconfig)
    assert done.returncode != 0
    assert "the Secret gstack-gateway is missing" in done.stderr
    assert "gstack secrets" in done.stderr


def test_notes_tell_the_next_step(tmp_path: Path) -> None:
    public = {"enabled": True, "hosts": ["gce.example.org"], "tls": [{"hosts": ["gce.example.org"]}]}
    with cluster(tmp_path, []) as kubeconfig:
        plain, bundled, trial = (
            json.loads(install(values, kubeconfig).stdout)["info"]["notes"]
            for values in (
                CLOUDSTACK,
                {**CLOUDSTACK, "postgresql": {"enabled": True}, "ingress": public},
                VALUES["trial"],
            )
        )
    assert "gstack-auth (not there yet)" in plain
    assert "gstack secrets FOLDER --kubernetes gstack --database-host HOST" in plain
    assert "PASSWORDS=FOLDER/postgres psql" in plain and "psql" not in bundled
    assert "gstack secrets FOLDER --kubernetes gstack --database-host gstack-postgres" in bundled
    assert "https://gce.example.org/oauth2/token" in bundled
    assert "not there yet" not in trial
    assert "port-forward -n cloud service/gstack-gateway 5000:80" in trial
    assert "http://127.0.0.1:5000/compute/v1/projects/demo/zones" in trial
