"""What the replay may find different, and what it leaves out. Everything else must agree."""

from __future__ import annotations

# Commands of the recordings that the simulator does not have; a test asserts that they really are not implemented.
SKIPPED_COMMANDS = {
    "createPortForwardingRule", "listPortForwardingRules", "deletePortForwardingRule", "updatePortForwardingRule",
    "createLoadBalancerRule", "listLoadBalancerRules", "deleteLoadBalancerRule", "updateLoadBalancerRule",
    "assignToLoadBalancerRule", "removeFromLoadBalancerRule", "listLoadBalancerRuleInstances",
    "createLBStickinessPolicy", "listLBStickinessPolicies", "createLBHealthCheckPolicy",
    "createVMSnapshot", "listVMSnapshot", "deleteVMSnapshot", "createSnapshotPolicy",
    "listSnapshotPolicies", "deleteSnapshotPolicies", "revertSnapshot", "extractVolume", "listEventTypes",
    "quotaIsEnabled",
}  # fmt: skip

# recording -> exchange name -> why the simulator answers otherwise.
_NO_EVENTS = "the simulator keeps no events"
_NO_PORTS = "the simulator has no port forwarding, which opened the firewall and blocked static NAT"
_DOCUMENTATION = "listApis has the parameters of a command, but not its documentation"
_HOST = "the host is shown from the moment the instance runs, not while it starts"
_NO_VM_SNAPSHOTS = "the simulator has no snapshots of whole machines, which keep disks where they are"
_MOVES = "which disks move to other storage when they are attached depends on where they are"
_MANY = "the disks before were made and attached without being recorded"
ALLOWED: dict[str, dict[str, str]] = {
    "a": {
        "listEvents last 5": _NO_EVENTS,
        "listApis name=listZones": _DOCUMENTATION,
        "listApis name=deployVirtualMachine": _DOCUMENTATION,
    },
    "f": {
        "listFirewallRules opened by port forwarding": _NO_PORTS,
        "enableStaticNat on an address with rules": _NO_PORTS,
    },
    "e": {
        "updateTemplate": "hasannotations is there in the first answer only, as recorded, and of other commands too",
        "detachVolume while a VM snapshot exists (job finished)": _NO_VM_SNAPSHOTS,
        "detachVolume (job finished)": _NO_VM_SNAPSHOTS,
    },
    "h": {"deployVirtualMachine with securitygroupnames: listVirtualMachines while state=Starting": _HOST},
    "i": {"listTemplates by tag": "the template before was not made from an instance"},
    "u": {
        "stopVirtualMachine b (job finished)": "the hidden disk offering of a machine offering is not shown",
        "listTemplates for the OS type": "templates have no checksum",
        "attachVolume blank data disk as deviceid 0 (job finished)": _MOVES,
        "attachVolume volume from snapshot as deviceid 0 (job finished)": _MOVES,
        "restoreVirtualMachine with swapped root (job finished)": "that installation could restore no machine",
        "listVolumes after restore of a swapped root": "that installation could restore no machine",
        "listTemplates for another OS type": "the world has one template of that installation",
        "createTemplate from a snapshot, password enabled, details (job finished)": "that installation could not",
        "listTemplates self": "it has the template of a snapshot too",
        "listTemplates community as another account": "it has the template of that installation too",
    },
    "c": {
        "listEvents of a VM": _NO_EVENTS,
        "deployVirtualMachine first VM: listVirtualMachines while state=Starting": _HOST,
    },
    "d": {
        "listVolumes zoneid page": "CloudStack's volumes have no order of their own; the simulator's oldest come first",
        "attachVolume one too many": _MANY,
        "attachVolume one too many (job pending)": _MANY,
        "attachVolume one too many (job finished)": _MANY,
    },
}

# How many exchanges of a recording are replayed, where that is not all: then come offerings of machines in more ways
# than the simulator has.
REPLAYED = {"u": 160}

# (recording, exchange name) -> seconds that passed before this exchange: expunging, garbage collection of networks.
WAITS: dict[tuple[str, str], float] = {
    ("b", "map without index: details of the result"): 1.0,
    ("c", "destroyVirtualMachine expunge=true"): 61.0,  # statistics
}
