"""A home of its own for a part of a process: no setting of the installation applies in it, all apply again after it."""

import os
from datetime import date

import pytest

from flows.runtime import clock
from flows.runtime.settings import Settings, export_settings, load_settings, own_home
from rnn_core.contracts.census import Calendar
from rnn_core.contracts.errors import ForecastError


@pytest.fixture
def installation_settings(tmp_path, monkeypatch):
    """Settings from the environment and from a file."""
    for name in [name for name in os.environ if name.startswith("ICU_")]:
        monkeypatch.delenv(name)
    (tmp_path / ".env").write_text("ICU_OVERLAP_HOURS=3\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ICU_HOME", str(tmp_path / "installation"))
    monkeypatch.setenv("ICU_SOURCES__WARD__ADAPTER", "clif")
    monkeypatch.delenv("PREFECT_HOME", raising=False)
    load_settings.cache_clear()
    yield load_settings()
    load_settings.cache_clear()


def test_in_a_home_of_its_own_no_setting_of_the_installation_applies(installation_settings, tmp_path):
    assert (installation_settings.overlap_hours, set(installation_settings.sources)) == (3, {"ward"})
    with own_home(tmp_path / "own"):
        own = load_settings()
        assert (own.home, own.overlap_hours, own.sources) == (tmp_path / "own", 48, {})
        assert os.environ["PREFECT_HOME"] == str(tmp_path / "own" / "prefect")
        export_settings({})
        assert "ICU_OVERLAP_HOURS" not in os.environ


@pytest.mark.parametrize("fails", [False, True])
def test_after_a_home_of_its_own_everything_is_as_before(installation_settings, tmp_path, fails):
    environment, env_file = dict(os.environ), Settings.model_config["env_file"]
    try:
        with own_home(tmp_path / "own"):
            os.environ["ICU_NOTIFY"] = "json://127.0.0.1"
            del os.environ["PATH"]
            if fails:
                raise InterruptedError
    except InterruptedError:
        assert fails
    assert dict(os.environ) == environment
    assert Settings.model_config["env_file"] == env_file == ".env"
    assert load_settings() == installation_settings


def test_a_home_that_cannot_be_used_leaves_the_settings_as_they_were(installation_settings, tmp_path, monkeypatch):
    def refuse(_settings):
        raise PermissionError

    monkeypatch.setattr("flows.runtime.settings.quiet_environment", refuse)
    environment = dict(os.environ)
    with pytest.raises(PermissionError), own_home(tmp_path / "own"):
        pytest.fail("the block ran")
    assert dict(os.environ) == environment and load_settings() == installation_settings


def test_the_calendar_of_a_source_has_its_time_zone_and_holidays(installation_settings, monkeypatch):
    monkeypatch.setenv("ICU_SOURCES__WARD__DATA_TIMEZONE", "Europe/Zurich")
    monkeypatch.setenv("ICU_SOURCES__WARD__HOLIDAYS", '["2026-12-25", "2026-08-01"]')
    load_settings.cache_clear()
    expected = Calendar("Europe/Zurich", frozenset({date(2026, 12, 25), date(2026, 8, 1)}))
    assert clock.calendar("ward") == expected
    monkeypatch.setenv("ICU_SOURCES__WARD__HOLIDAYS", '["Christmas"]')
    load_settings.cache_clear()
    with pytest.raises(ForecastError, match="HOLIDAYS"):
        load_settings()
