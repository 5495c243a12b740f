"""TLS between the services, on both sides: who has no certificate of our CA is not talked to.

Certificates carry the name of a role, `translator.gstack.internal`, not of a host: replicas come and go, and what
counts is that a gateway reaches a translator and no other. Files may be renewed while services run.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import grpc
import structlog
from cryptography import x509

from gstack.kernel import metrics
from gstack.kernel.settings import Settings

log = structlog.get_logger()

DOMAIN = "gstack.internal"
_LOOK_SECONDS = 5.0


def role_name(service: str) -> str:
    """The name in the certificate of a service."""
    return f"{service}.{DOMAIN}"


def roles_of(context: grpc.ServicerContext) -> set[str]:
    """Services that the caller's certificate is for."""
    names: Any = context.auth_context().get("x509_subject_alternative_name", ())
    suffix = f".{DOMAIN}"
    return {text.removesuffix(suffix) for name in names if (text := name.decode()).endswith(suffix)}


class Tls:
    """The certificate of this service, its key and the CA, read again when the files change."""

    def __init__(self, cert: Path, key: Path, ca: Path):
        """Raises OSError or ValueError for files that cannot be used."""
        self._paths = (ca, key, cert)
        self._lock = threading.Lock()
        self._looked = time.monotonic()
        self._seen = self._fingerprint()
        self._load()

    @classmethod
    def of(cls, settings: Settings) -> Tls | None:
        """None when services talk without TLS."""
        given = {"CERT": settings.tls_cert, "KEY": settings.tls_key, "CA": settings.tls_ca}
        missing = [f"GSTACK_TLS_{name}" for name, path in given.items() if path is None]
        if len(missing) == len(given):
            return None
        if settings.tls_cert is None or settings.tls_key is None or settings.tls_ca is None:
            raise ValueError(f"TLS between services needs {' and '.join(missing)} too")
        return cls(settings.tls_cert, settings.tls_key, settings.tls_ca)

    @property
    def version(self) -> int:
        """Another number after the files were changed."""
        self._look()
        return self._version

    def server_credentials(self) -> grpc.ServerCredentials:
        """For a server that asks every caller for a certificate; later handshakes use renewed files."""
        return grpc.dynamic_ssl_server_credentials(self._configuration(), self._configuration, True)

    def channel_credentials(self) -> grpc.ChannelCredentials:
        """Of the files as they are now."""
        ca, key, cert = self._files
        return grpc.ssl_channel_credentials(ca, key, cert)

    def _configuration(self) -> grpc.ServerCertificateConfiguration:
        self._look()
        ca, key, cert = self._files
        return grpc.ssl_server_certificate_configuration([(key, cert)], ca)

    def _look(self) -> None:
        if time.monotonic() - self._looked < _LOOK_SECONDS:
            return
        with self._lock:
            if time.monotonic() - self._looked < _LOOK_SECONDS:
                return
            self._looked = time.monotonic()
            try:
                found = self._fingerprint()
                if found != self._seen:
                    self._load()
                    self._seen = found
            except (OSError, ValueError) as error:
                log.warning("certificate_unreadable", reason=str(error))

    def _load(self) -> None:
        ca, key, cert = (path.read_bytes() for path in self._paths)
        try:
            leaf = x509.load_pem_x509_certificate(cert)
            x509.load_pem_x509_certificates(ca)
        except ValueError:
            raise ValueError(f"{self._paths[2]} and {self._paths[0]} must hold certificates in PEM") from None
        self._files = (ca, key, cert)
        self._version = hash(self._files)
        metrics.CERTIFICATE.set(leaf.not_valid_after_utc.timestamp())

    def _fingerprint(self) -> tuple[tuple[int, int], ...]:
        return tuple((found.st_ino, found.st_mtime_ns) for found in (path.stat() for path in self._paths))
