"""Service accounts and their keys, for IAM's REST API and for the page `Keys`.

A service account acts with the CloudStack keys of the user that made it. Nobody else sees it, not even another member
of the project: who could make a key for it would act as that user. Its keys are limited to projects, at least to one.
"""

from __future__ import annotations

import binascii
import datetime
import re
import secrets
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_public_key,
)
from cryptography.x509.oid import NameOID

from auth_service.limits import Limits
from auth_service.people import People
from auth_service.store.auth_store import AuthStore
from auth_service.store.credentials import Credential
from gstack.auth.v1 import iam_pb2 as pb
from gstack.auth.v1 import identity_pb2
from gstack.kernel.accounts import default_service_account, project_of
from gstack.kernel.errors import ApiError, invalid, required
from gstack.kernel.settings import Settings

# Google's limits.
_ACCOUNT_ID = re.compile(r"[a-z](?:[-a-z0-9]{4,28}[a-z0-9])")
_MAX_DISPLAY_NAME = 100
_MAX_DESCRIPTION = 256
_DEFAULT_NAME = "Compute Engine default service account"
_MAX_KEYS = 10
_MAX_ACCOUNTS = 100
_PAGE = 100
_NEVER = "9999-12-31T23:59:59Z"
_LAST_DAY = datetime.datetime(9999, 12, 31, 23, 59, 59, tzinfo=datetime.UTC)
_DAY = 24 * 3600.0
_DAYS = (0, 3650)
_ALGORITHM = "KEY_ALG_RSA_2048"
_BITS = (2048, 4096)
# 65537 and the few others in use: a large one makes each check of a signature slow.
_MAX_EXPONENT = 2**32
_MAX_PUBLIC = 16 * 1024
# Each of them is asked about.
_MAX_PROJECTS = 100


@dataclass(frozen=True)
class Caller:
    """Who asks Google's APIs that are answered here, as auth and translators know it. subject: name or address."""

    owner: str
    credential_id: str
    subject: str
    sealed: bytes

    @classmethod
    def of(cls, people: People, credential: Credential) -> Caller:
        subject = credential.subject
        return cls(credential.owner, credential.id, subject, people.sealed(credential, subject, {}))


@dataclass(frozen=True)
class _Public:
    """What is kept of a key pair: PEM of the key and of its certificate, and when it ends (0 is never)."""

    key: str
    certificate: str
    expires: float


@dataclass(frozen=True)
class KeyFile:
    key_id: str
    email: str
    # JSON of Google's `service_account` type.
    file: str


class ServiceAccounts:
    def __init__(self, store: AuthStore, people: People, limits: Limits, settings: Settings):
        self._store = store
        self._people = people
        self._limits = limits
        self._universe = settings.universe_domain

    # Accounts

    def create(self, caller: Caller, request: pb.CreateServiceAccountRequest) -> pb.ServiceAccount:
        project = self._people.project(caller.owner, caller.sealed, request.project)
        body = request.createServiceAccountRequest
        row = self._add(caller, project, body.accountId, body.serviceAccount)
        return _account(row)

    def list(self, caller: Caller, request: pb.ListServiceAccountsRequest) -> pb.ListServiceAccountsResponse:
        project = self._people.project(caller.owner, caller.sealed, request.project)
        if not 0 <= request.pageSize <= _PAGE:
            raise invalid("pageSize", f"'{request.pageSize}'. It must be at most {_PAGE}.")
        size = request.pageSize or _PAGE
        self._default(caller, project)
        # The token is the last address of the page before: nothing to sign, it only says where to go on.
        rows = [
            row
            for row in self._store.service_accounts.of(caller.owner, project.key)
            if row["email"] > request.pageToken
        ]
        page = rows[:size]
        return pb.ListServiceAccountsResponse(
            accounts=[_account(row) for row in page],
            nextPageToken=page[-1]["email"] if len(rows) > size else "",
        )

    def get(self, caller: Caller, request: pb.GetServiceAccountRequest) -> pb.ServiceAccount:
        return _account(self.find(caller, request.project, request.account))

    def patch(self, caller: Caller, request: pb.PatchServiceAccountRequest) -> pb.ServiceAccount:
        body = request.patchServiceAccountRequest
        masks = [one.strip() for one in body.updateMask.split(",") if one.strip()]
        if not masks:
            raise required("updateMask")
        names = {"displayName": "display_name", "display_name": "display_name", "description": "description"}
        for mask in masks:
            if mask not in names:
                raise invalid("updateMask", f"'{mask}'. Only displayName and description can change.")
        return self._change(caller, request, body.serviceAccount, {names[mask] for mask in masks})

    def update(self, caller: Caller, request: pb.UpdateServiceAccountRequest) -> pb.ServiceAccount:
        return self._change(caller, request, request.serviceAccount, {"display_name", "description"})

    def delete(self, caller: Caller, request: pb.DeleteServiceAccountRequest) -> pb.Empty:
        account = self.find(caller, request.project, request.account)
        if project_of(account["email"]):
            text = "A project always has its default service account. It can be disabled."
            raise ApiError(400, text, "failedPrecondition")
        self._store.service_accounts.delete(account["id"])
        return pb.Empty()

    def enable(self, caller: Caller, request: pb.EnableServiceAccountRequest) -> pb.Empty:
        self._store.service_accounts.change(self.find(caller, request.project, request.account)["id"], disabled=False)
        return pb.Empty()

    def disable(self, caller: Caller, request: pb.DisableServiceAccountRequest) -> pb.Empty:
        self._store.service_accounts.change(self.find(caller, request.project, request.account)["id"], disabled=True)
        return pb.Empty()

    # Keys

    def create_key(self, caller: Caller, base: str, request: pb.CreateServiceAccountKeyRequest) -> pb.ServiceAccountKey:
        account = self.find(caller, request.project, request.account)
        projects = {account["project_key"]: account["project"]}
        row, private = self._new_key(caller, account, projects, read_only=False, expires=0.0)
        key = _key(account, row)
        key.privateKeyType = "TYPE_GOOGLE_CREDENTIALS_FILE"
        key.privateKeyData = self._file(account, row["id"], private, base).encode()
        return key

    def upload_key(self, caller: Caller, request: pb.UploadServiceAccountKeyRequest) -> pb.ServiceAccountKey:
        account = self.find(caller, request.project, request.account)
        public = _read_public(request.uploadServiceAccountKeyRequest.publicKeyData)
        projects = {account["project_key"]: account["project"]}
        row = self._add_key(caller, account, public, projects, uploaded=True, read_only=False)
        return _key(account, row)

    def list_keys(self, caller: Caller, request: pb.ListServiceAccountKeysRequest) -> pb.ListServiceAccountKeysResponse:
        account = self.find(caller, request.project, request.account)
        # There are no keys that we manage for the caller.
        wanted = not request.keyTypes or set(request.keyTypes) & {"USER_MANAGED", "KEY_TYPE_UNSPECIFIED"}
        rows = self._store.service_account_keys.of(account["id"]) if wanted else []
        return pb.ListServiceAccountKeysResponse(keys=[_key(account, row) for row in rows])

    def get_key(self, caller: Caller, request: pb.GetServiceAccountKeyRequest) -> pb.ServiceAccountKey:
        account, row = self._find_key(caller, request)
        key = _key(account, row)
        if request.publicKeyType == "TYPE_RAW_PUBLIC_KEY":
            key.publicKeyData = row["public_key"].encode()
        elif request.publicKeyType == "TYPE_X509_PEM_FILE":
            # There is none for a public key that was uploaded alone.
            key.publicKeyData = (row["certificate"] or row["public_key"]).encode()
        return key

    def delete_key(self, caller: Caller, request: pb.DeleteServiceAccountKeyRequest) -> pb.Empty:
        _, row = self._find_key(caller, request)
        self._store.service_account_keys.delete(row["id"])
        return pb.Empty()

    def enable_key(self, caller: Caller, request: pb.EnableServiceAccountKeyRequest) -> pb.Empty:
        _, row = self._find_key(caller, request)
        self._store.service_account_keys.disable(row["id"], False)
        return pb.Empty()

    def disable_key(self, caller: Caller, request: pb.DisableServiceAccountKeyRequest) -> pb.Empty:
        _, row = self._find_key(caller, request)
        self._store.service_account_keys.disable(row["id"], True)
        return pb.Empty()

    # The page

    def make_key_file(
        self, caller: Caller, account_id: str, projects: Sequence[str], read_only: bool, days: int, base: str
    ) -> KeyFile:
        """A key of the account of this name, which is made if there is none. Raises ApiError naming the field."""
        if not projects:
            raise required("projects")
        if len(projects) > _MAX_PROJECTS:
            raise invalid("projects", f"a key is limited to at most {_MAX_PROJECTS} projects.")
        if not _DAYS[0] <= days <= _DAYS[1]:
            raise invalid("days", f"'{days}'. It must be from {_DAYS[0]} to {_DAYS[1]}.")
        found = [self._people.project(caller.owner, caller.sealed, name) for name in projects]
        existing = self._store.service_accounts.of(caller.owner, found[0].key)
        account: Any = next((row for row in existing if row["account_id"] == account_id), None)
        if account is None:
            account = self._add(caller, found[0], account_id, pb.ServiceAccount())
        expires = time.time() + days * _DAY if days else 0.0
        limited = {project.key: project.name for project in found}
        row, private = self._new_key(caller, account, limited, read_only=read_only, expires=expires)
        return KeyFile(row["id"], account["email"], self._file(account, row["id"], private, base))

    # Helpers

    def find(self, caller: Caller, project: str, account: str) -> Any:
        """By e-mail address or unique id, in a project or in any (`-`). Raises 404 for what is not the caller's."""
        number = project_of(account)
        key = None
        if number or project != "-":
            found = self._people.project(caller.owner, caller.sealed, number if project == "-" else project)
            key = found.key
            if number == str(found.number):
                return self._default(caller, found)
        rows = self._store.service_accounts.of(caller.owner, key)
        named = [row for row in rows if account in (row["email"], row["unique_id"])]
        # Clients make the address up from the names of account and project, also where that is another tenant's.
        for row in named or [row for row in rows if account == _address(row["account_id"], _host(row["project"]))]:
            if key is None:
                # A key that is limited to some projects sees no others here either.
                self._people.project(caller.owner, caller.sealed, row["project_key"])
            return row
        raise ApiError(404, f"Unknown service account: projects/{project}/serviceAccounts/{account}", "notFound")

    def _default(self, caller: Caller, project: identity_pb2.Project) -> Any:
        """The project's default account: who may use the project has one of this address, made when it is asked for.

        It acts with the keys of who asks, as any service account does, so it gives nobody more than they have.
        """
        email = default_service_account(project.number)
        account_id = email.partition("@")[0]

        def stored() -> Any:
            rows = self._store.service_accounts.of(caller.owner, project.key)
            return next((row for row in rows if row["account_id"] == account_id), None)

        found = stored()
        if found is None:
            described = pb.ServiceAccount(displayName=_DEFAULT_NAME)
            # Another replica may be first.
            self._store.service_accounts.add(**_row(caller, project, account_id, email, described))
            found = stored()
        return found

    def _find_key(self, caller: Caller, request: Any) -> tuple[Any, Any]:
        account = self.find(caller, request.project, request.account)
        for row in self._store.service_account_keys.of(account["id"]):
            if row["id"] == request.key:
                return account, row
        raise ApiError(404, f"Service account key {request.key} does not exist.", "notFound")

    def _add(
        self, caller: Caller, project: identity_pb2.Project, account_id: str, asked: pb.ServiceAccount
    ) -> dict[str, Any]:
        if not account_id:
            raise required("accountId")
        if not _ACCOUNT_ID.fullmatch(account_id):
            raise invalid(
                "accountId",
                f"'{account_id[:60]}'. It must be 6 to 30 lower-case letters, digits and hyphens, a letter first.",
            )
        _check_texts(asked)
        self._limits.key(caller.owner)
        own = self._store.service_accounts.of(caller.owner, project.key)
        if sum(not project_of(row["email"]) for row in own) >= _MAX_ACCOUNTS:
            raise ApiError(429, f"A project has at most {_MAX_ACCOUNTS} service accounts.", "quotaExceeded")
        host = self._store.service_accounts.host(caller.owner, project.key, _host(project.name))
        row = _row(caller, project, account_id, _address(account_id, host), asked)
        if not self._store.service_accounts.add(**row):
            raise ApiError(
                409, f"Service account {account_id} already exists within project {project.name}.", "alreadyExists"
            )
        return row

    def _change(self, caller: Caller, request: Any, asked: pb.ServiceAccount, fields: set[str]) -> pb.ServiceAccount:
        _check_texts(asked)
        row = self.find(caller, request.project, request.account)
        if asked.etag and asked.etag != _etag(row):
            raise ApiError(409, "There were concurrent changes. Read the service account again.", "aborted")
        values = {"display_name": asked.displayName, "description": asked.description}
        changed = {name: value for name, value in values.items() if name in fields}
        self._store.service_accounts.change(row["id"], **changed)
        return _account({**row, **changed})

    def _new_key(
        self, caller: Caller, account: Any, projects: dict[str, str], *, read_only: bool, expires: float
    ) -> tuple[dict[str, Any], str]:
        """A key pair in memory: the row has the public half, the text is the private one (PKCS8 in PEM)."""
        pair = rsa.generate_private_key(public_exponent=65537, key_size=_BITS[0])
        public = _Public(_pem(pair.public_key()), _certificate(pair, account["unique_id"], expires), expires)
        row = self._add_key(caller, account, public, projects, uploaded=False, read_only=read_only)
        return row, pair.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()

    def _add_key(
        self,
        caller: Caller,
        account: Any,
        public: _Public,
        projects: dict[str, str],
        *,
        uploaded: bool,
        read_only: bool,
    ) -> dict[str, Any]:
        self._limits.key(caller.owner)
        if len(self._store.service_account_keys.of(account["id"])) >= _MAX_KEYS:
            raise ApiError(429, f"A service account has at most {_MAX_KEYS} keys.", "quotaExceeded")
        row = {
            "id": secrets.token_hex(20),
            "service_account_id": account["id"],
            "public_key": public.key,
            "certificate": public.certificate,
            "uploaded": uploaded,
            "created": time.time(),
            "expires": public.expires,
            "disabled": False,
            "last_used": 0.0,
            "projects": orjson.dumps(projects).decode(),
            "read_only": read_only,
        }
        self._store.service_account_keys.add(**row)
        return row

    def _file(self, account: Any, key_id: str, private: str, base: str) -> str:
        content = {
            "type": "service_account",
            "project_id": account["project"],
            "private_key_id": key_id,
            "private_key": private,
            "client_email": account["email"],
            "client_id": account["unique_id"],
            "auth_uri": f"{base}/oauth2/auth",
            "token_uri": f"{base}/oauth2/token",
            "auth_provider_x509_cert_url": f"{base}/oauth2/v3/certs",
            "universe_domain": self._universe,
        }
        return orjson.dumps(content, option=orjson.OPT_INDENT_2).decode() + "\n"


def _row(
    caller: Caller, project: identity_pb2.Project, account_id: str, email: str, asked: pb.ServiceAccount
) -> dict[str, Any]:
    return {
        "id": str(uuid.uuid4()),
        "unique_id": f"1{secrets.randbelow(10**20):020}",
        "owner": caller.owner,
        "credential_id": caller.credential_id,
        "project_key": project.key,
        "project": project.name,
        "account_id": account_id,
        "email": email,
        "display_name": asked.displayName,
        "description": asked.description,
        "disabled": False,
        "created": time.time(),
    }


def _address(account_id: str, host: str) -> str:
    return f"{account_id}@{host}.iam.gserviceaccount.com"


def _host(project: str) -> str:
    """A project's name as part of an e-mail address."""
    return re.sub(r"[^a-z0-9.-]+", "-", project.lower()).strip("-.")[:100] or "project"


def _check_texts(asked: pb.ServiceAccount) -> None:
    for field, text, most in (
        ("displayName", asked.displayName, _MAX_DISPLAY_NAME),
        ("description", asked.description, _MAX_DESCRIPTION),
    ):
        if "\0" in text:
            raise invalid(f"serviceAccount.{field}", "it must not hold a NUL character.")
        if len(text.encode()) > most:
            raise invalid(f"serviceAccount.{field}", f"it must not be longer than {most} bytes.")


def _etag(row: Any) -> bytes:
    text = orjson.dumps([row["display_name"], row["description"], row["disabled"]])
    return binascii.crc32(text).to_bytes(4, "big")


def _account(row: Any) -> pb.ServiceAccount:
    return pb.ServiceAccount(
        name=f"projects/{row['project']}/serviceAccounts/{row['email']}",
        projectId=row["project"],
        uniqueId=row["unique_id"],
        email=row["email"],
        displayName=row["display_name"],
        etag=_etag(row),
        description=row["description"],
        oauth2ClientId=row["unique_id"],
        disabled=row["disabled"],
    )


def _key(account: Any, row: Any) -> pb.ServiceAccountKey:
    return pb.ServiceAccountKey(
        name=f"projects/{account['project']}/serviceAccounts/{account['email']}/keys/{row['id']}",
        keyAlgorithm=_ALGORITHM,
        validAfterTime=_time(row["created"]),
        validBeforeTime=_time(row["expires"]) if row["expires"] else _NEVER,
        keyOrigin="USER_PROVIDED" if row["uploaded"] else "GOOGLE_PROVIDED",
        keyType="USER_MANAGED",
        disabled=row["disabled"],
        disableReason="SERVICE_ACCOUNT_KEY_DISABLE_REASON_USER_INITIATED" if row["disabled"] else "",
    )


def _time(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _read_public(data: bytes) -> _Public:
    """From PEM of a certificate or of a public key. Raises 400."""
    field = "publicKeyData"
    certificate, expires = "", 0.0
    if len(data) > _MAX_PUBLIC:
        raise invalid(field, f"it must not be longer than {_MAX_PUBLIC} bytes.")
    try:
        if b"BEGIN CERTIFICATE" in data:
            parsed = x509.load_pem_x509_certificate(data)
            expires = parsed.not_valid_after_utc.timestamp()
            certificate = parsed.public_bytes(Encoding.PEM).decode()
            key: Any = parsed.public_key()
        else:
            key = load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm):
        raise invalid(field, "it must be the PEM of an X.509 certificate or of a public key.") from None
    if not isinstance(key, rsa.RSAPublicKey) or not _BITS[0] <= key.key_size <= _BITS[1]:
        raise invalid(field, f"it must be an RSA key of {_BITS[0]} to {_BITS[1]} bits.")
    if key.public_numbers().e > _MAX_EXPONENT:
        raise invalid(field, "its public exponent is too large.")
    if expires and expires <= time.time():
        raise invalid(field, "the certificate is expired.")
    return _Public(_pem(key), certificate, expires)


def _pem(key: rsa.RSAPublicKey) -> str:
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def _certificate(pair: rsa.RSAPrivateKey, name: str, expires: float) -> str:
    """The public half as clients ask for it; it certifies nothing."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    ends = datetime.datetime.fromtimestamp(expires, datetime.UTC) if expires else _LAST_DAY
    builder = x509.CertificateBuilder(subject, subject, pair.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(datetime.datetime.now(datetime.UTC)).not_valid_after(ends)
    return builder.sign(pair, hashes.SHA256()).public_bytes(Encoding.PEM).decode()
