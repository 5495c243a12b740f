"""`gstack certs`, `gstack secrets`, and settings that come from files."""

from __future__ import annotations

import base64
import datetime
import json
from pathlib import Path

import pytest
import time_machine
from click.testing import CliRunner, Result
from cryptography import x509

from gstack.cli import main
from gstack.cli.certs import DAYS, SERVICES
from gstack.kernel import sealing
from gstack.kernel.settings import Settings
from gstack.kernel.tls import Tls, role_name


def gstack(*arguments: str) -> Result:
    done = CliRunner().invoke(main, [str(one) for one in arguments])
    assert done.exit_code == 0, done.output
    return done


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def certificate(folder: Path, service: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate((folder / service / "tls.crt").read_bytes())


def test_certificates_are_for_roles_and_of_one_ca(tmp_path: Path) -> None:
    gstack("certs", tmp_path)
    authority = x509.load_pem_x509_certificate((tmp_path / "ca" / "ca.crt").read_bytes())
    for service in SERVICES:
        found = certificate(tmp_path, service)
        found.verify_directly_issued_by(authority)
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert names.get_values_for_type(x509.DNSName) == [role_name(service)]
        for key in (tmp_path / service / "tls.key", tmp_path / "ca" / "ca.key"):
            assert key.stat().st_mode & 0o777 == 0o600


def test_certificates_are_renewed_before_they_end_and_not_sooner(tmp_path: Path) -> None:
    gstack("certs", tmp_path)
    before = content(tmp_path)
    assert "good for a while" in gstack("certs", tmp_path).output
    assert content(tmp_path) == before
    soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=DAYS - 29)
    with time_machine.travel(soon):
        assert "gateway, translator, auth" in gstack("certs", tmp_path).output
        assert certificate(tmp_path, "auth").not_valid_after_utc > soon + datetime.timedelta(days=DAYS - 1)
    after = content(tmp_path)
    assert {name for name in before if before[name] != after[name]} == {
        f"{service}/tls.{kind}" for service in SERVICES for kind in ("crt", "key")
    }


def test_secrets_of_a_deployment_are_made_once(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    gstack("secrets", folder)
    made = content(folder)
    tls = {"tls.crt", "tls.key", "ca.crt"}
    wanted = {
        "auth": {"master.key", "sealing.key", "services.key", "gstack_auth_database_url", *tls},
        "translator": {"sealing.key", "services.key", "gstack_database_url", *tls},
        "gateway": {"services.key", *tls},
        "postgres": {"password", "auth", "translator"},
        "ca": {"ca.crt", "ca.key"},
    }
    assert set(made) == {f"{part}/{name}" for part, names in wanted.items() for name in names}
    assert made["auth/sealing.key"] == made["translator/sealing.key"] != made["auth/master.key"]
    assert made["auth/services.key"] == made["translator/services.key"] == made["gateway/services.key"]
    for service, file in (("auth", "gstack_auth_database_url"), ("translator", "gstack_database_url")):
        user, password = f"gstack_{service}", made[f"postgres/{service}"].decode()
        assert made[f"{service}/{file}"].decode() == f"postgresql+psycopg://{user}:{password}@postgres/{user}"
    assert len({made[f"postgres/{name}"] for name in ("password", "auth", "translator")}) == 3
    assert folder.stat().st_mode & 0o777 == 0o700
    gstack("secrets", folder)
    assert content(folder) == made


def test_a_new_sealing_key_reaches_translators(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gstack("secrets", tmp_path)
    monkeypatch.setenv("GSTACK_SEALING_KEY_FILE", str(tmp_path / "auth" / "sealing.key"))
    gstack("keys", "stage", "--ring", "sealing")
    gstack("secrets", tmp_path)
    rings = [sealing.read_ring(tmp_path / part / "sealing.key") for part in ("auth", "translator")]
    assert [key.state for key in rings[1]] == ["primary", "staged"] and rings[0] == rings[1]


def test_secrets_for_kubernetes(tmp_path: Path) -> None:
    url, own = (f"postgresql+psycopg://{user}:pw@db.example.org/{user}" for user in ("keys", "work"))
    options = ("--database-url", own, "--auth-database-url", url)
    told = json.loads(gstack("secrets", tmp_path, "--kubernetes", "cloud", *options).output)
    secrets = {item["metadata"]["name"]: item["data"] for item in told["items"]}
    assert set(secrets) == {"cloud-gateway", "cloud-translator", "cloud-auth", "cloud-postgres"}
    assert "master.key" in secrets["cloud-auth"]
    assert not {"master.key", "ca.key"} & {*secrets["cloud-translator"], *secrets["cloud-gateway"]}
    assert base64.b64decode(secrets["cloud-auth"]["gstack_auth_database_url"]).decode() == url
    assert base64.b64decode(secrets["cloud-translator"]["gstack_database_url"]).decode() == own


def test_a4_one_database_user_for_both_is_refused(tmp_path: Path) -> None:
    one, other = (f"postgresql+psycopg://{user}:pw@db.example.org/gce" for user in ("one", "other"))

    def refused(*options: str) -> str:
        done = CliRunner().invoke(main, ["secrets", str(tmp_path / "secrets"), *options])
        assert done.exit_code == 2
        return done.output

    assert "a database user each" in refused("--database-url", one, "--auth-database-url", one)
    assert "give both" in refused("--database-url", one)
    assert "an address is" in refused("--database-url", "db.example.org", "--auth-database-url", one)
    gstack("secrets", tmp_path / "secrets", "--database-url", one, "--auth-database-url", other)
    # One alone is changed where the other is known, and is held against it.
    assert "a database user each" in refused("--database-url", other)


def test_settings_from_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gstack_database_url").write_text("postgresql+psycopg://a@b/c\n")
    (tmp_path / "tls.crt").write_text("no setting")
    monkeypatch.setenv("GSTACK_SECRETS_DIR", str(tmp_path))
    assert Settings().database_url == "postgresql+psycopg://a@b/c"
    monkeypatch.setenv("GSTACK_DATABASE_URL", "sqlite://")
    assert Settings().database_url == "sqlite://"
    # The same images run where there are no secrets.
    monkeypatch.setenv("GSTACK_SECRETS_DIR", str(tmp_path / "nowhere"))
    monkeypatch.delenv("GSTACK_DATABASE_URL")
    assert Settings().database_url == ""


def test_tls_is_whole_or_not_at_all(tmp_path: Path) -> None:
    gstack("certs", tmp_path)
    own = tmp_path / "auth"
    assert Tls.of(Settings()) is None
    with pytest.raises(ValueError, match="GSTACK_TLS_KEY and GSTACK_TLS_CA"):
        Tls.of(Settings(tls_cert=own / "tls.crt"))
    with pytest.raises(ValueError, match="certificates in PEM"):
        Tls.of(Settings(tls_cert=own / "tls.key", tls_key=own / "tls.key", tls_ca=own / "ca.crt"))
    with pytest.raises(FileNotFoundError):
        Tls.of(Settings(tls_cert=own / "none", tls_key=own / "tls.key", tls_ca=own / "ca.crt"))
