"""The dashboard and the alerts, held against a real Prometheus that watches a real gstack."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from gstack.cli.certs import issue_all
from tests.clients.conftest import Stack, free_ports, make_stack
from tests.clients.sequences import machine
from tests.packages import install
from tests.waits import LONG, until

pytestmark = pytest.mark.xdist_group("prometheus")

ROOT = Path(__file__).parents[2]
FILES = ROOT / "deploy" / "helm" / "gstack" / "files"
ALERTS, DASHBOARD, UNIT_TESTS = (
    FILES / "alerts.yaml",
    FILES / "dashboard.json",
    Path(__file__).with_name("alerts_test.yaml"),
)
SERVICES = ("auth", "translator", "gateway")
DEVICE = "urn:ietf:params:oauth:grant-type:device_code"

RULES: list[dict[str, Any]] = [
    rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]
]
PANELS: list[dict[str, Any]] = [
    panel for panel in json.loads(DASHBOARD.read_text())["panels"] if panel["type"] != "row"
]
# Grafana's variables as they are when nobody chose anything.
VARIABLES = {"$__rate_interval": "1m", "$__range": "15m", "$namespace": ".*"}
# Labels that scraping gives to targets, and those of no metric of gstack's.
TARGET_LABELS = {"job", "instance", "namespace"}


def queries() -> Iterator[tuple[str, str]]:
    """(title of the panel, PromQL) of everything that the dashboard asks."""
    for panel in PANELS:
        for target in panel["targets"]:
            query = target["expr"]
            for name, value in VARIABLES.items():
                query = query.replace(name, value)
            yield panel["title"], query


@dataclass(frozen=True)
class Selector:
    metric: str
    matchers: tuple[tuple[str, str, str], ...]


def selectors(query: str) -> Iterator[Selector]:
    for metric, inside in re.findall(r"\b(gstack_\w+)(?:\{([^}]*)\})?", query):
        yield Selector(metric, tuple(re.findall(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"', inside)))


def grouping_labels(query: str) -> set[str]:
    lists = re.findall(r"\b(?:by|on|group_left)\s*\(([^)]*)\)", query)
    return {label.strip() for one in lists for label in one.split(",")}


def values(kind: str, text: str) -> list[str]:
    """The patterns of a matcher; of a plain list of alternatives each, so that none of them is dead."""
    if kind in ("=", "!="):
        return [re.escape(text)]
    return [text] if "(" in text else text.split("|")


class Prometheus:
    def __init__(self, url: str):
        self.url = url

    def get(self, path: str, **parameters: Any) -> Any:
        reply = requests.get(f"{self.url}/api/v1/{path}", parameters, timeout=LONG).json()
        assert reply["status"] == "success", (parameters, reply.get("error"))
        return reply["data"]

    def wait(self) -> None:
        """Until every target was scraped."""

        def up() -> bool:
            try:
                return {target["health"] for target in self.get("targets")["activeTargets"]} == {"up"}
            except requests.ConnectionError:
                return False

        until(up, pause=0.2, told=lambda: self.get("targets"))

    def wait_for_samples(self, count: int) -> None:
        """Until every target was scraped so often from now on."""

        def scraped() -> bool:
            asked = self.get("query", query=f"count_over_time(up[{time.time() - began:.0f}s])")["result"]
            return len(asked) == targets and all(int(one["value"][1]) >= count for one in asked)

        targets, began = len(self.get("targets")["activeTargets"]), time.time() - 1
        until(scraped, pause=0.2)


def too_many(stack: Stack, count: int, method: str, url: str, **options: Any) -> set[int]:
    """Statuses of requests of which some are refused while CloudStack has no answer for the others."""
    stack.simulate("POST", "faults", {"kind": "hang", "count": count})
    with ThreadPoolExecutor(count) as pool:
        try:
            asked = [pool.submit(requests.request, method, url, timeout=LONG, **options) for _ in range(count)]
            until(lambda: any(one.done() for one in asked))
        finally:
            stack.simulate("DELETE", "faults")
        return {one.result().status_code for one in asked}


def use(stack: Stack) -> None:
    """Make everything happen that an alert or the dashboard knows of. CloudStack is gone at the end."""
    token = stack.token()
    bearer = {"Authorization": f"Bearer {token}"}
    instances = stack.api + "/zones/ch-gv2/instances"
    wrong = {"grant_type": "client_credentials", "client_id": "nobody", "client_secret": "wrong"}

    for _ in range(3):
        assert stack.call("GET", "/zones/ch-gv2/instances", token=token).status_code == 200
    assert stack.call("GET", "/zones/nowhere", token=token).status_code == 404
    assert stack.call("GET", "/global/backendBuckets", token=token).status_code == 400
    assert requests.get(f"{stack.url}/healthz", timeout=LONG).status_code == 200
    accounts = f"{stack.url}/v1/projects/demo/serviceAccounts"
    assert requests.get(accounts, headers=bearer, timeout=LONG).status_code == 200
    assert "error" not in stack.finish(
        stack.call("POST", "/zones/ch-gv2/instances", machine("seen"), token=token).json()
    )

    assert requests.post(f"{stack.url}/oauth2/token", wrong, timeout=LONG).status_code == 401
    client = "32555940559.apps.googleusercontent.com"
    asked = requests.post(f"{stack.url}/oauth2/device/code", {"client_id": client}, timeout=LONG).json()
    form = {"grant_type": DEVICE, "device_code": asked["device_code"], "client_id": client}
    polled = [requests.post(f"{stack.url}/oauth2/token", form, timeout=LONG).json()["error"] for _ in range(2)]
    assert polled == ["authorization_pending", "slow_down"]

    for status in (530, 503):
        fault = {"kind": "status", "status": status, "command": "listVirtualMachines", "count": 2}
        stack.simulate("POST", "faults", fault)
        assert requests.get(instances, headers=bearer, timeout=LONG).status_code >= 500
        stack.simulate("DELETE", "faults")
    # One user takes two of the three places; questions of nobody yet known take them all.
    assert 429 in too_many(stack, 6, "GET", instances, headers=bearer)
    assert 503 in too_many(stack, 8, "POST", f"{stack.url}/oauth2/token", data={**wrong, "client_id": "somebody"})

    stack.kill("simulator")
    assert {stack.call("GET", "/zones/ch-gv2/instances", token=token).status_code for _ in range(6)} == {503}
    assert requests.post(f"{stack.url}/oauth2/token", {**wrong, "client_id": "else"}, timeout=LONG).status_code == 503


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    if shutil.which("prometheus") is None:
        install("prometheus")
    folder = tmp_path_factory.mktemp("monitored")
    issue_all(folder / "certificates")
    stack = make_stack(folder)
    stack.environment |= {"GSTACK_GATEWAY_THREADS": "3", "GSTACK_GATEWAY_REQUESTS_PER_USER": "2"}
    *metrics, own = free_ports(4)
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(ALERTS)],
        "scrape_configs": [
            {"job_name": "any", "static_configs": [{"targets": [f"127.0.0.1:{port}" for port in metrics]}]},
        ],
    }
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
    stack.start("simulator")
    for name, port in zip(SERVICES, metrics, strict=True):
        files = {"CERT": "tls.crt", "KEY": "tls.key", "CA": "ca.crt"}
        tls = {f"GSTACK_TLS_{key}": str(folder / "certificates" / name / file) for key, file in files.items()}
        stack.start(name, **{f"GSTACK_{name.upper()}_METRICS_LISTEN": f"127.0.0.1:{port}"}, **tls)
    command = ["prometheus", f"--config.file={folder / 'prometheus.yaml'}", f"--storage.tsdb.path={folder / 'data'}"]
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen([*command, f"--web.listen-address=127.0.0.1:{own}"], stdout=log, stderr=log)
    try:
        stack.wait_ready()
        found = Prometheus(f"http://127.0.0.1:{own}")
        found.wait()
        stack.simulate("PATCH", "settings", {"job_seconds": {"": 0.1}})
        use(stack)
        # Rates need two samples.
        found.wait_for_samples(3)
        yield found
    finally:
        for one in (process, *reversed(stack.processes.values())):
            one.kill()
            one.wait()


# As they are scraped


def test_prometheus_reaches_every_service_and_understands_every_rule(prometheus: Prometheus) -> None:
    assert len(prometheus.get("targets")["activeTargets"]) == len(SERVICES)
    prometheus.wait()
    rules = [rule for group in prometheus.get("rules")["groups"] for rule in group["rules"]]
    assert len(rules) == len(RULES)
    assert [(rule["name"], rule.get("lastError")) for rule in rules if rule["health"] != "ok"] == []


def test_rules_and_dashboard_ask_for_what_there_is(prometheus: Prometheus) -> None:
    """Every metric, every label, and for every value of a label in a query some series that has it."""
    known: dict[str, list[dict[str, str]]] = {}
    for series in prometheus.get("series", **{"match[]": '{__name__=~"gstack_.+"}'}):
        known.setdefault(series["__name__"], []).append(series)
    for query in {*(rule["expr"] for rule in RULES), *(query for _, query in queries())}:
        names: set[str] = set()
        for selector in selectors(query):
            assert selector.metric in known, query
            found = known[selector.metric]
            names |= {label for series in found for label in series}
            for label, kind, text in selector.matchers:
                for pattern in values(kind, text):
                    wanted = [series for series in found if re.fullmatch(pattern, series.get(label, ""))]
                    assert wanted and (label in TARGET_LABELS or label in wanted[0]), (selector.metric, label, pattern)
        assert grouping_labels(query) <= names | TARGET_LABELS, query


def test_every_query_of_the_dashboard_has_data(prometheus: Prometheus) -> None:
    empty = [(title, query) for title, query in queries() if not prometheus.get("query", query=query)["result"]]
    assert empty == []


def test_only_alerts_of_what_happened_are_on_their_way(prometheus: Prometheus) -> None:
    """CloudStack is gone and a gateway was overloaded; the rest must be quiet in a gstack that is well otherwise."""

    def firing() -> set[str]:
        return {alert["labels"]["alertname"] for alert in prometheus.get("alerts")["alerts"]}

    until(lambda: "GstackCloudStackDown" in firing())
    active = firing()
    expected = {"GstackCloudStackDown", "GstackCloudStackFails", "GstackTokensUnavailable", "GstackTokensRefused"}
    assert active <= expected | {
        "GstackErrorBudgetFast",
        "GstackErrorBudgetSlow",
        "GstackOverloaded",
        "GstackReadsSlow",
    }


# As they are written


def test_each_alert_comes_when_it_must_and_only_then() -> None:
    if shutil.which("promtool") is None:
        install("prometheus")
    command = ["promtool", "test", "rules", str(UNIT_TESTS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_has_a_test_in_which_it_comes_and_one_in_which_it_does_not() -> None:
    cases = [case for test in yaml.safe_load(UNIT_TESTS.read_text())["tests"] for case in test["alert_rule_test"]]
    alerts = {rule["alert"] for rule in RULES if "alert" in rule}
    assert {case["alertname"] for case in cases if case["exp_alerts"]} == alerts
    assert {case["alertname"] for case in cases if not case["exp_alerts"]} == alerts


def test_each_alert_says_how_urgent_it_is_and_where_to_read_on() -> None:
    headings = set(re.findall(r"^## (\w+)$", (ROOT / "docs" / "alerts.md").read_text(), re.M))
    alerts = [rule for rule in RULES if "alert" in rule]
    for rule in alerts:
        assert rule["labels"]["severity"] in ("page", "ticket"), rule["alert"]
        assert rule["annotations"]["runbook"] == f"docs/alerts.md#{rule['alert'].lower()}"
        assert rule["annotations"]["summary"] and rule["for"]
    assert headings == {rule["alert"] for rule in alerts}


def test_the_dashboard_can_be_imported_anywhere() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    variable = {"type": "prometheus", "uid": "${datasource}"}
    assert (dashboard["uid"], dashboard["title"]) == ("gstack", "gstack")
    assert dashboard["templating"]["list"][0]["type"] == "datasource"
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))
    titles = [panel["title"] for panel in PANELS]
    assert len(titles) == len(set(titles))
    for panel in PANELS:
        assert panel["description"] and panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert {json.dumps(one["datasource"]) for one in (panel, *panel["targets"])} == {json.dumps(variable)}
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        place = panel["gridPos"]
        columns = range(place["x"], place["x"] + place["w"])
        cells = {(x, y) for x in columns for y in range(place["y"], place["y"] + place["h"])}
        assert max(columns) < 24 and not cells & taken, panel["title"]
        taken |= cells
