"""Every metadata key that Google's guest environment acts on, and what becomes of it here.

docs/guests.md shows this table; keys that are not in it are data of the customer, kept and returned.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from translator_service.kept.ssh_keys import is_true


class Effect(StrEnum):
    WORKS = "works"
    REFUSED = "refused"
    KEPT = "kept"


@dataclass(frozen=True)
class Decision:
    """keys: a trailing `*` stands for any end. KEPT: returned as it was put in, without an effect, and `why`."""

    keys: tuple[str, ...]
    effect: Effect
    why: str


_LOGIN = (
    "OS Login is Google's own service; who set it would be shut out, or let in by keys that it should shut out. "
    "Put keys into `ssh-keys`."
)
DECISIONS = (
    Decision(("user-data",), Effect.WORKS, "Reaches the guest to the byte, whatever its format."),
    Decision(("user-data-encoding",), Effect.WORKS, "`base64`: decoded before it reaches the guest. Others: 400."),
    Decision(("startup-script",), Effect.WORKS, "Runs at every boot, as root, in cloud-init's last stage."),
    Decision(
        ("startup-script-url",),
        Effect.WORKS,
        "The same, fetched at every boot, after `startup-script`. `gs://` objects must be public: there is no service "
        "account in the guest.",
    ),
    Decision(
        ("shutdown-script", "shutdown-script-url"),
        Effect.WORKS,
        "Runs when the guest shuts down in order, for 90 s at most. Needs systemd. A forced stop does not run it.",
    ),
    Decision(
        ("ssh-keys",),
        Effect.WORKS,
        "Users with sudo and their keys. A key with `expireOn` ends then; keys that ended are not installed.",
    ),
    Decision(("sshKeys",), Effect.WORKS, "The same. That of an instance keeps the project's keys away, as on GCE."),
    Decision(("block-project-ssh-keys",), Effect.WORKS, "Of an instance: keeps the project's keys away."),
    Decision(
        ("enable-oslogin", "enable-oslogin-2fa", "enable-oslogin-sk", "enable-oslogin-certificates"),
        Effect.REFUSED,
        f"True is 400: {_LOGIN}",
    ),
    Decision(
        ("windows-keys",),
        Effect.WORKS,
        "`gcloud compute reset-windows-password`: gstack answers on serial port 4 with the password that CloudStack "
        "made, see below. Not a part of the user data.",
    ),
    Decision(
        ("windows-startup-script-*", "windows-shutdown-script-*", "sysprep-specialize-script-*"),
        Effect.KEPT,
        "No agent of Google's runs in a Windows template. `user-data` that begins with `#ps1_sysnative` reaches "
        "cloudbase-init to the byte.",
    ),
    Decision(
        ("disable-account-manager", "disable-address-manager", "enable-wsfc", "wsfc-addrs", "wsfc-agent-port"),
        Effect.KEPT,
        "Settings of Google's agent for Windows. CloudStack gives a guest its addresses by DHCP.",
    ),
    Decision(("enable-diagnostics", "enable-windows-ssh"), Effect.KEPT, "The same."),
    Decision(
        ("serial-port-enable",),
        Effect.KEPT,
        "There is no interactive serial console; CloudStack has a console of its own.",
    ),
    Decision(
        ("serial-port-logging-enable",),
        Effect.KEPT,
        "CloudStack keeps no serial output; port 1 says how to get a console.",
    ),
    Decision(("enable-guest-attributes",), Effect.KEPT, "The guest has no metadata server to write attributes to."),
    Decision(
        ("google-logging-enable", "google-logging-use-fluentbit", "google-monitoring-enable"),
        Effect.KEPT,
        "Google's logging and monitoring are not there.",
    ),
    Decision(
        ("google-compute-default-zone", "google-compute-default-region"),
        Effect.KEPT,
        "Read by gcloud from the project, where it finds them.",
    ),
    Decision(
        ("google-compute-enable-virtio-rng",), Effect.KEPT, "CloudStack's offerings and templates decide on devices."
    ),
    Decision(
        ("gce-container-declaration", "gce-software-declaration", "cos-*"),
        Effect.KEPT,
        "Read by agents in Google's images from Google's metadata server, which is not there. Start containers with "
        "`user-data` or `startup-script`.",
    ),
    Decision(("vmdnssetting", "VmDnsSetting"), Effect.KEPT, "The network's domain in CloudStack decides on names."),
    Decision(("created-by", "instance-template"), Effect.KEPT, "Written by instance groups for others to read."),
    Decision(
        ("kube-env", "kube-labels", "kubeconfig", "kubelet-config", "configure-sh", "cluster-name"),
        Effect.KEPT,
        "Data of a cluster's nodes, which read it from Google's metadata server.",
    ),
    Decision(("cluster-location", "cluster-uid"), Effect.KEPT, "The same."),
)


def decision(key: str) -> Decision | None:
    """What is decided of a key; None for one that Google's guest environment does not know."""
    return next((one for one in DECISIONS if any(_matches(key, pattern) for pattern in one.keys)), None)


def refusal(key: str, value: str) -> str:
    """Why an item cannot be taken, "" if it can."""
    if key == "user-data-encoding" and value not in ("", "base64"):
        return "Only base64 is known as an encoding of user-data."
    found = decision(key)
    if found and found.effect is Effect.REFUSED and is_true(value):
        return f"It is not supported here: {_LOGIN}"
    return ""


def table() -> str:
    """The rows of docs/guests.md."""
    lines = ["| key | here | what that means |", "|---|---|---|"]
    for one in DECISIONS:
        lines.append(f"| {', '.join(f'`{key}`' for key in one.keys)} | {one.effect} | {one.why} |")
    return "\n".join(lines) + "\n"


def _matches(key: str, pattern: str) -> bool:
    return key.startswith(pattern[:-1]) if pattern.endswith("*") else key == pattern
