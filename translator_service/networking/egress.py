"""What instances may send: in GCE everything, in most isolated networks of CloudStack nothing.

The rules of a network whose offering denies allow (recordings, Surprises 69 to 72). Without any the network is closed:
it is opened for the instances of gstack when the operator wants that, and told otherwise. Where somebody made rules,
they have decided.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import structlog

from translator_service.cloudstack.client import Answer, all_rows
from translator_service.cloudstack.errors import CloudStackError
from translator_service.cloudstack.rows import Row
from translator_service.networking import networks
from translator_service.operations.run import Run

log = structlog.get_logger()


def is_closed(network: Row) -> bool:
    """Whether this row of listNetworks lets nothing out that no egress rule allows."""
    return network.get("egressdefaultpolicy") is False and not network.get("vpcid")


def open_if_wanted(run: Run, closed: list[str]) -> dict[str, Any]:
    """The closed networks of these, once the others are open. A part of a step."""
    left = []
    for network in closed:
        rules = run.patiently(partial(_rules, run, network))
        if all_rows(rules):
            continue
        if run.scope.environment.settings.open_egress and _open(run, network):
            continue
        left.append(network)
    return {"closed": left}


def _rules(run: Run, network: str) -> list[Answer]:
    return run.client().read_all("listEgressFirewallRules", networkid=network)


def _open(run: Run, network: str) -> bool:
    try:
        run.follow(f"egress/{network}", "createEgressFirewallRule", networkid=network, protocol="all")
    except CloudStackError as error:
        # Another insert was quicker, or the account's role forbids it.
        log.warning("egress_not_opened", network=network, error=str(error))
        return error.code == 537
    return True


def tell(run: Run, outcome: Any) -> None:
    """Warn of the networks that stay closed. outcome: of `open_if_wanted`, an error when nothing is known."""
    for network in outcome["closed"] if isinstance(outcome, dict) else ():
        name = networks.name_of(run.scope, network, network)
        run.warn(
            "NOT_CRITICAL_ERROR",
            f"Network '{name}' lets nothing out: its offering denies egress, and it has no egress rules.",
        )
