"""Settings from environment, TOML file and defaults."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from gstack.kernel.settings import Settings


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"GSTACK_{name.upper()}", raising=False)
    monkeypatch.delenv("GSTACK_CONFIG", raising=False)
    monkeypatch.setenv("GSTACK_STATE_DIR", str(tmp_path / "state"))


def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    path = tmp_path / "gstack.toml"
    path.write_text(text)
    monkeypatch.setenv("GSTACK_CONFIG", str(path))


def test_defaults() -> None:
    settings = Settings()
    assert settings.gateway_listen == "127.0.0.1:5000"
    assert settings.link_base == "https://www.googleapis.com"
    assert settings.naming == "rfc1035"


def test_the_first_source_wins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config(
        tmp_path, monkeypatch, 'cloudstack_url = "http://file"\nmax_body = 5\nnaming = "verbatim"\ngateway_threads = 3'
    )
    monkeypatch.setenv("GSTACK_CLOUDSTACK_URL", "http://environment")
    monkeypatch.setenv("GSTACK_MAX_BODY", "6")
    settings = Settings(max_body=7)
    assert settings.max_body == 7
    assert settings.cloudstack_url == "http://environment"
    assert settings.naming == "verbatim"
    assert settings.gateway_threads == 3


def test_an_unknown_variable_is_looked_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GSTACK_CLIENT_API_KEY", "x")
    monkeypatch.setenv("GSTACK_NOSUCH", "x")
    assert not hasattr(Settings(), "nosuch")


def test_an_unknown_key_of_the_file_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config(tmp_path, monkeypatch, 'cloudstack_ulr = "http://x"')
    with pytest.raises(ValidationError, match="cloudstack_ulr"):
        Settings()


def test_an_unknown_argument_is_an_error() -> None:
    with pytest.raises(ValidationError, match="nosuch"):
        Settings(nosuch=1)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("naming", "upper"),
        ("gateway_threads", "0"),
        ("max_body", "many"),
        ("cloudstack_timeout", "0"),
        ("log_level", "loud"),
    ],
)
def test_values_that_are_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"GSTACK_{name.upper()}", value)
    with pytest.raises(ValidationError, match=name):
        Settings()


def test_the_key_of_page_tokens_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GSTACK_PAGE_TOKEN_KEY", "hush")
    settings = Settings()
    assert settings.page_token_key.get_secret_value() == "hush"
    assert "hush" not in repr(settings) + str(settings) + settings.model_dump_json()


def test_files_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings()
    assert settings.translator_database() == f"sqlite:///{tmp_path}/state/translator.sqlite"
    assert settings.auth_database() == f"sqlite:///{tmp_path}/state/auth.sqlite"
    assert settings.sealing_key_path() == tmp_path / "state" / "sealing.key"
    assert settings.master_key_path() == tmp_path / "state" / "master.key"
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700


def test_places_that_an_operator_chose(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GSTACK_DATABASE_URL", "postgresql://db/translator")
    monkeypatch.setenv("GSTACK_AUTH_DATABASE_URL", "postgresql://db/auth")
    monkeypatch.setenv("GSTACK_SEALING_KEY_FILE", "/keys/sealing")
    monkeypatch.setenv("GSTACK_MASTER_KEY_FILE", "/keys/master")
    settings = Settings()
    assert settings.translator_database() == "postgresql://db/translator"
    assert settings.auth_database() == "postgresql://db/auth"
    assert str(settings.sealing_key_path()) == "/keys/sealing"
    assert str(settings.master_key_path()) == "/keys/master"
    assert not settings.state_dir.exists()


def test_every_setting_is_described() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description and field.description.endswith("."), name
