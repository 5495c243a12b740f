"""All settings, declared once. `docs/configuration.md` is generated from this list.

Sources, the first wins: environment `GSTACK_<NAME>`; files `gstack_<name>` in the folder that `GSTACK_SECRETS_DIR`
names, for what must not stand in an environment; the TOML file that `GSTACK_CONFIG` names; the defaults below.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SecretsSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)


def local_address(listen: str) -> str:
    """Where a listener of this machine is reached from this machine."""
    host, _, port = listen.rpartition(":")
    everywhere = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "[::]": "[::1]"}  # noqa: S104 - compared, not listened on
    return f"{everywhere.get(host, host)}:{port}"


class Settings(BaseSettings):
    """What an operator can set. Times are in seconds, sizes in bytes."""

    model_config = SettingsConfigDict(env_prefix="GSTACK_", extra="forbid")

    state_dir: Path = Field(
        default=Path("~/.local/state/gstack").expanduser(),
        description="Folder for keys and SQLite files of this machine.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="Least level logged.")
    log_format: Literal["json", "text"] = Field(default="json", description="One JSON object a line, or text for eyes.")

    gateway_listen: str = Field(default="127.0.0.1:5000", description="Address of the REST gateway.")
    gateway_workers: int = Field(default=1, ge=1, description="Gateway processes.")
    gateway_threads: int = Field(default=72, ge=1, description="Requests that one gateway process serves at a time.")
    gateway_metrics_listen: str = Field(
        default="", description="Address of `/healthz`, `/readyz` and `/metrics` of the gateway. Empty: none."
    )
    gateway_requests_per_user: int = Field(
        default=64, ge=1, description="Requests of one user that one gateway process serves at a time; others get 429."
    )
    gateway_connections: int = Field(
        default=10_000,
        ge=10,
        description="Connections of clients that one gateway process keeps; for another one the longest idle goes. "
        "Also bounded by the files that it may open.",
    )
    gateway_head_seconds: float = Field(
        default=10.0,
        gt=0,
        description="How long a client may take for TLS, for the head of a request, and for its body or the answer "
        "before `GSTACK_GATEWAY_BYTES_PER_SECOND` counts.",
    )
    gateway_bytes_per_second: int = Field(
        default=4096, ge=1, description="Least speed, on average, at which clients send bodies and take answers."
    )
    gateway_idle_seconds: float = Field(
        default=75.0, gt=0, description="How long an unused connection is kept; longer than proxies in front keep it."
    )
    gateway_held_bytes: int = Field(
        default=256 * 1024 * 1024,
        ge=1024 * 1024,
        description="Memory of one gateway process for bodies that arrive and answers that leave; beyond it the "
        "slowest is given up.",
    )
    gateway_drain_seconds: float = Field(
        default=5.0,
        ge=0,
        description="How long a gateway that was told to stop says so on `/readyz`, and still serves, before it stops.",
    )
    gateway_tls_cert: Path | None = Field(default=None, description="Certificate (PEM) of the gateway.")
    gateway_tls_key: Path | None = Field(default=None, description="Private key (PEM) of that certificate.")
    public_url: str = Field(
        default="",
        description="Scheme and host of the endpoint for clients, when a proxy hides it. Empty: that of each request.",
    )
    proxies: int = Field(
        default=0,
        ge=0,
        description="Proxies in front of the gateway that set `X-Forwarded-For`, `-Proto` and `-Host`. Addresses in "
        "limits and in the audit log come from them.",
    )
    link_base: str = Field(
        default="https://www.googleapis.com",
        description="Scheme and host of links in answers; `request` takes those of each request. "
        "libcloud, Terraform and Ansible need the default.",
    )
    max_body: int = Field(default=8 * 1024 * 1024, description="Largest request body.")
    token_cache_seconds: int = Field(default=60, description="How long the gateway trusts a checked token.")
    reply_cache_bytes: int = Field(
        default=64 * 1024 * 1024,
        description="Memory for encoded answers that are reused while CloudStack's is the same.",
    )
    catalog_cache_bytes: int = Field(
        default=64 * 1024 * 1024,
        description="Memory of a translator for lists that seldom change, of all users: zones, offerings, templates, "
        "networks, projects.",
    )

    translator_listen: str = Field(default="127.0.0.1:5001", description="gRPC address of a translator.")
    translator_metrics_listen: str = Field(default="", description="The same of a translator.")
    translator_target: str = Field(
        default="127.0.0.1:5001", description="Where the gateway and auth find translators, a gRPC target."
    )
    translator_threads: int = Field(default=80, ge=4, description="Calls that one translator serves at a time.")
    executor_id: str = Field(
        default="", description="Name of this translator among its replicas. Empty: host name and port."
    )
    operations_at_once: int = Field(
        default=64,
        ge=4,
        description="Operations that one translator has at work at a time; others wait in the database.",
    )
    operations_per_project: int = Field(
        default=16, ge=1, description="Operations of one project that all translators have at work at a time."
    )
    operations_unfinished: int = Field(
        default=500, ge=1, description="Operations of one project that may be unfinished; others get 429."
    )
    scale_running: bool = Field(
        default=False,
        description="Give a running instance a larger machine type without stopping it, where CloudStack scales it "
        "live. GCE never does.",
    )
    open_egress: bool = Field(
        default=False,
        description="Open an isolated network whose offering denies egress, and that has no egress rules, when an "
        "instance is inserted into it. Otherwise the insert warns of it.",
    )
    auth_listen: str = Field(default="127.0.0.1:5002", description="gRPC address of the auth service.")
    auth_metrics_listen: str = Field(default="", description="The same of the auth service.")
    auth_target: str = Field(default="127.0.0.1:5002", description="Where the gateway finds auth, a gRPC target.")
    auth_threads: int = Field(
        default=16,
        ge=2,
        description="Calls that the auth service serves at a time: of bearers, of OAuth, and of people's pages each.",
    )
    connection_age: int = Field(
        default=60, ge=1, description="Age at which gRPC connections are made anew, so that new replicas are found."
    )
    tls_cert: Path | None = Field(
        default=None,
        description="Certificate (PEM) of a service for the others, as `gstack certs` makes. With the next two: mTLS "
        "between services.",
    )
    tls_key: Path | None = Field(default=None, description="Private key (PEM) of that certificate.")
    tls_ca: Path | None = Field(default=None, description="CA (PEM) of the services' certificates.")
    services_key_file: Path | None = Field(
        default=None,
        description="File with the key by which services without those certificates know each other, made by "
        "`gstack keys init --ring services`. Empty: in `state_dir`, made by the first that starts.",
    )
    grpc_reflection: bool = Field(
        default=False, description="Let callers of the gRPC ports ask for the services and messages that there are."
    )

    cloudstack_url: str = Field(
        default="", description="API address of CloudStack, such as `https://cloud.example.org/client/api`."
    )
    cloudstack_ca: Path | None = Field(default=None, description="CA bundle (PEM) for CloudStack, if not a public one.")
    cloudstack_connections: int = Field(
        default=128, ge=1, description="Kept connections of a translator to CloudStack."
    )
    cloudstack_user_data: int = Field(
        default=32768,
        ge=8192,
        le=1048576,
        description="Longest user data that CloudStack takes, in characters of base64: its `vm.userdata.max.length`, "
        "which users cannot ask for.",
    )
    guest_without_script: str = Field(
        default="windows,coreos,flatcar,talos",
        description="Guests that get no script for keys that may come later: words in the name of their template or of "
        "its system in CloudStack, separated by commas.",
    )
    windows_user: str = Field(
        default="Administrator",
        description="User of Windows machines whose password CloudStack makes; its name in the operator's templates.",
    )
    cloudstack_timeout: float = Field(default=60.0, gt=0, description="Longest wait for one answer of CloudStack.")

    database_url: str = Field(
        default="",
        description="SQLAlchemy URL of the translators' database. Empty: SQLite in `state_dir`.",
    )
    auth_database_url: str = Field(
        default="", description="SQLAlchemy URL of the auth service's database. Empty: SQLite in `state_dir`."
    )
    database_connections: int = Field(
        default=20,
        ge=2,
        description="Connections of one process to its database. A translator takes half as many more for operations.",
    )
    sealing_key_file: Path | None = Field(
        default=None,
        description="File with the key that auth and translators share, made by `gstack keys init --ring sealing`. "
        "Empty: in `state_dir`.",
    )
    master_key_file: Path | None = Field(
        default=None,
        description="File with the key that encrypts stored CloudStack keys, made by `gstack keys init`. "
        "Empty: in `state_dir`.",
    )

    naming: Literal["rfc1035", "verbatim"] = Field(
        default="rfc1035", description="`rfc1035` makes GCE names of CloudStack's; `verbatim` shows them as they are."
    )
    names_file: Path | None = Field(
        default=None,
        description="TOML file that maps names: zones, regions, machine types, disk types, families, image projects.",
    )
    image_os_type: str = Field(
        default="Other Linux (64-bit)",
        description="CloudStack's OS type of images that are made of files, or of disks that nobody knows the system "
        "of: a name that `listOsTypes` shows.",
    )
    image_hypervisor: str = Field(
        default="",
        description="Hypervisor of images that are made of files, as `listHypervisors` names it. Empty: its first.",
    )
    access_token_seconds: int = Field(default=3600, description="Life of an access token.")
    login_without_pkce: bool = Field(
        default=True,
        description="Let gcutil sign in, which knows no PKCE. Its client id is gcloud's, which goes on to use PKCE.",
    )
    universe_domain: str = Field(
        default="googleapis.com",
        description="`universe_domain` of service account key files. Another one keeps Google's libraries from telling "
        "Google about the account, and has to be set in every client.",
    )
    rate_requests: int = Field(
        default=1200, ge=1, description="Token, device and sign-in requests of one address in a minute."
    )
    rate_failures: int = Field(
        default=30,
        ge=1,
        description="Those of them that may fail: wrong keys, passwords, codes. Above it whoever is known goes on: "
        "tokens, keys that were good before, browsers in which the user signed in before.",
    )
    login_attempts: int = Field(
        default=4,
        ge=1,
        description="Wrong passwords in a row of one user that CloudStack gets to see: fewer than its "
        "`incorrect.login.attempts.allowed`, with which it disables the user. The last quarter is for browsers in "
        "which the user signed in before.",
    )
    rate_tokens: int = Field(default=10_000, ge=1, description="Tokens that one user gets in an hour.")
    rate_keys: int = Field(default=30, ge=1, description="Service accounts and keys that one user makes in an hour.")
    page_token_key: SecretStr = Field(
        default=SecretStr(""), description="Key that signs page tokens. Empty: made from the sealing key."
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        file = os.environ.get("GSTACK_CONFIG")
        if file and not Path(file).is_file():
            raise FileNotFoundError(f"GSTACK_CONFIG names {file}, which is not there")
        toml = (TomlConfigSettingsSource(settings_cls, file),) if file else ()
        folder = os.environ.get("GSTACK_SECRETS_DIR")
        secrets = (SecretsSettingsSource(settings_cls, folder),) if folder and Path(folder).is_dir() else ()
        return (init_settings, env_settings, *secrets, *toml)

    def state_file(self, name: str) -> Path:
        """A file below `state_dir`, which is made with mode 0700."""
        self.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        return self.state_dir / name

    def translator_database(self) -> str:
        return self.database_url or f"sqlite:///{self.state_file('translator.sqlite')}"

    def workflows_database(self) -> str:
        return self.database_url or f"sqlite:///{self.state_file('workflows.sqlite')}"

    def auth_database(self) -> str:
        return self.auth_database_url or f"sqlite:///{self.state_file('auth.sqlite')}"

    def sealing_key_path(self) -> Path:
        return self.sealing_key_file or self.state_file("sealing.key")

    def master_key_path(self) -> Path:
        return self.master_key_file or self.state_file("master.key")

    def services_key_path(self) -> Path:
        return self.services_key_file or self.state_file("services.key")
