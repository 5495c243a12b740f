"""What the replay may find different, and what it leaves out. Everything else must agree."""

from __future__ import annotations

# Commands of the recordings that the simulator does not have; a test asserts that they really are not implemented.
SKIPPED_COMMANDS = {
    "createPortForwardingRule", "listPortForwardingRules", "deletePortForwardingRule", "updatePortForwardingRule",
    "createLoadBalancerRule", "listLoadBalancerRules", "deleteLoadBalancerRule", "updateLoadBalancerRule",
    "assignToLoadBalancerRule", "removeFromLoadBalancerRule", "listLoadBalancerRuleInstances",
    "createLBStickinessPolicy", "listLBStickinessPolicies", "createLBHealthCheckPolicy",
    "createSnapshot", "listSnapshots", "extractVolume", "listEventTypes", "quotaIsEnabled",
}  # fmt: skip

# recording -> exchange name -> why the simulator answers otherwise.
_NO_EVENTS = "the simulator keeps no events"
_DOCUMENTATION = "listApis has the parameters of a command, but not its documentation"
ALLOWED: dict[str, dict[str, str]] = {
    "a": {
        "listEvents last 5": _NO_EVENTS,
        "listApis name=listZones": _DOCUMENTATION,
        "listApis name=deployVirtualMachine": _DOCUMENTATION,
    },
    "i": {
        "createTags Snapshot (job finished)": "the simulator has no snapshots",
        "listTemplates by tag": "the simulator has no createTemplate, so no image that came from an instance",
    },
    "c": {"listEvents of a VM": _NO_EVENTS},
}

# (recording, exchange name) -> seconds that passed before this exchange: expunging, garbage collection of networks.
WAITS: dict[tuple[str, str], float] = {}
