"""What the replay may find different, and what it leaves out. Everything else must agree."""

from __future__ import annotations

# Commands of the recordings that the simulator does not have; a test asserts that they really are not implemented.
SKIPPED_COMMANDS = {
    "createPortForwardingRule", "listPortForwardingRules", "deletePortForwardingRule", "updatePortForwardingRule",
    "createLoadBalancerRule", "listLoadBalancerRules", "deleteLoadBalancerRule", "updateLoadBalancerRule",
    "assignToLoadBalancerRule", "removeFromLoadBalancerRule", "listLoadBalancerRuleInstances",
    "createLBStickinessPolicy", "listLBStickinessPolicies", "createLBHealthCheckPolicy",
}  # fmt: skip

# recording -> exchange name -> why the simulator answers otherwise.
ALLOWED: dict[str, dict[str, str]] = {}

# (recording, exchange name) -> seconds that passed before this exchange: expunging, garbage collection of networks.
WAITS: dict[tuple[str, str], float] = {}
