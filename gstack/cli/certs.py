"""A private CA for the services and the certificates that it issues: `gstack certs`, and HTTPS of `gstack up --tls`."""

from __future__ import annotations

import datetime
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import click
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

SERVICES = ("gateway", "translator", "auth")
_CA_DAYS = 3650
# The longest that clients which follow the CA/Browser Forum's older rule accept from a private CA.
DAYS = 820
_RENEW_DAYS = 30


class Authority:
    """A CA in two files, made when they are not there."""

    def __init__(self, cert: Path, key: Path, name: str):
        self.path = cert
        if not (cert.exists() and key.exists()):
            self._make(cert, key, name)
        try:
            self._cert = x509.load_pem_x509_certificate(cert.read_bytes())
            loaded = serialization.load_pem_private_key(key.read_bytes(), None)
        except ValueError:
            raise click.ClickException(f"{cert} and {key} must hold a certificate and its key in PEM") from None
        assert isinstance(loaded, ec.EllipticCurvePrivateKey), key
        self._key = loaded

    def issue(self, cert: Path, key: Path, names: Sequence[x509.GeneralName], days: int = DAYS) -> bool:
        """Write a certificate for these names, unless there is one of this CA that is good for a while."""
        if self._is_good(cert, key, names):
            return False
        own = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, str(names[0].value))])
        purposes = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        usage = x509.KeyUsage(True, False, False, False, False, False, False, False, False)
        builder = (
            _builder(self._cert.subject, subject, own, days)
            .add_extension(x509.SubjectAlternativeName(names), False)
            .add_extension(x509.BasicConstraints(False, None), True)
            .add_extension(usage, True)
            .add_extension(x509.ExtendedKeyUsage(purposes), False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), False)
        )
        _write_key(key, own)
        write(cert, builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM), 0o644)
        return True

    def _is_good(self, cert: Path, key: Path, names: Sequence[x509.GeneralName]) -> bool:
        if not (cert.exists() and key.exists()):
            return False
        try:
            known = x509.load_pem_x509_certificate(cert.read_bytes())
            known.verify_directly_issued_by(self._cert)
            told = known.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
            return False
        left = known.not_valid_after_utc - datetime.datetime.now(datetime.UTC)
        return list(told) == list(names) and left > datetime.timedelta(days=_RENEW_DAYS)

    @staticmethod
    def _make(cert: Path, key: Path, name: str) -> None:
        own = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        builder = (
            _builder(subject, subject, own, _CA_DAYS)
            .add_extension(x509.BasicConstraints(True, 0), True)
            .add_extension(usage, True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(own.public_key()), False)
        )
        cert.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write_key(key, own)
        write(cert, builder.sign(own, hashes.SHA256()).public_bytes(serialization.Encoding.PEM), 0o644)


def issue_all(folder: Path) -> list[str]:
    """Certificates of the services for each other, in folders of their own; names of those that were made."""
    from gstack.kernel.tls import role_name

    authority = Authority(folder / "ca" / "ca.crt", folder / "ca" / "ca.key", "gstack services")
    made = []
    for service in SERVICES:
        own = folder / service
        own.mkdir(mode=0o700, parents=True, exist_ok=True)
        if authority.issue(own / "tls.crt", own / "tls.key", [x509.DNSName(role_name(service))]):
            made.append(service)
        write(own / "ca.crt", authority.path.read_bytes(), 0o644)
    return made


@click.command("certs")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
def command(folder: Path) -> None:
    """Make certificates with which the services know each other (mTLS), and the private CA that issues them.

    Writes FOLDER/ca/{ca.crt,ca.key} and FOLDER/{gateway,translator,auth}/{tls.crt,tls.key,ca.crt}. Run it again to
    renew what ends within 30 days; services take renewed files without a restart.
    """
    made = issue_all(folder)
    click.echo(f"New certificates for {', '.join(made)}." if made else "All certificates are good for a while.")
    click.echo(f"{folder / 'ca' / 'ca.key'} makes new ones: keep it where no service runs.")


def write(path: Path, content: bytes, mode: int) -> None:
    """Put this into the file in one step, so that nobody reads half of it."""
    if path.exists() and path.read_bytes() == content:
        return
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, mode)
        file.write(content)
    Path(name).replace(path)


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    write(path, key.private_bytes(*form), 0o600)


def _builder(
    issuer: x509.Name, subject: x509.Name, key: ec.EllipticCurvePrivateKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    made = x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number())
    # Clocks of machines differ a little.
    return made.not_valid_before(now - datetime.timedelta(minutes=5)).not_valid_after(
        now + datetime.timedelta(days=days)
    )
