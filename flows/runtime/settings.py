"""Settings, read from the environment and .env under the prefix ICU_; no other module reads the environment."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import date
from functools import cache
from pathlib import Path
from typing import Annotated, Literal
from zoneinfo import available_timezones

from dotenv import dotenv_values
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from rnn_core.contracts.errors import ForecastError

_ROOT = Path(__file__).resolve().parents[2]
_PREFIX = "ICU_"


def _default_home() -> Path:
    return (_ROOT if (_ROOT / "pyproject.toml").is_file() else Path.cwd()) / ".icu"


class SourceSettings(BaseModel):
    """Settings of one source: ICU_SOURCES__<NAME>__URL and so on."""

    model_config = ConfigDict(extra="forbid")

    adapter: str | None = Field(None, description="folder in sql/sources; default: the source's own name")
    url: SecretStr | None = Field(None, description="SQLAlchemy URL of the source database")
    db_schema: str | None = Field(None, description="schema that holds the source's tables; default: as published")
    schemas: dict[str, str] = Field(default_factory=dict, description="schema per placeholder, where there are several")
    data_timezone: str = Field("UTC", description="time zone of the source's times that carry none")
    shift_days: int | None = Field(
        None, description="days added to every time; default: as in the adapter's source.yaml"
    )
    read_timeout_minutes: Annotated[float, Field(gt=0)] = 60.0
    timezone: str = Field("UTC", description="time zone in which the source's schedules are read")
    holidays: frozenset[date] = Field(
        frozenset(), description="dates on which as many patients come as on a Sunday, past ones too"
    )
    schedules: dict[str, str] = Field(
        default_factory=dict, description="cron line per deployment, e.g. forecast_hourly; empty for none"
    )

    @field_validator("timezone", "data_timezone")
    @classmethod
    def _known_zone(cls, name: str) -> str:
        if name not in available_timezones():
            raise ValueError("is not a time zone; expected a name like Europe/Zurich")
        return name


class Settings(BaseSettings):
    """All settings; any other name under ICU_ is refused, since it is most likely misspelt."""

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX, env_nested_delimiter="__", env_file=".env", extra="ignore", frozen=True
    )

    home: Path = Field(default_factory=_default_home, description="folder of all state in embedded mode")
    database_url: SecretStr | None = Field(None, description="PostgreSQL of icu-forecast; without it, the embedded one")
    artifacts: Path | None = Field(
        None, description="folder of model artifacts, shared by all workers; default HOME/artifacts"
    )
    sources: dict[str, SourceSettings] = Field(default_factory=dict)
    notify: SecretStr | None = Field(
        None, description="where alerts go: an Apprise URL, or prefect:<kind>/<name> of a block"
    )
    board: Literal["hourly"] | None = Field(None, description="hourly: each forecast writes the board to HOME/reports")
    compute: str = Field(
        "inline", description="what computes shards: inline, processes:N, or a Dask scheduler at tcp:// or tls://"
    )
    compute_tls: Path | None = Field(
        None, description="folder with ca.pem, cert.pem and key.pem for a tls:// scheduler"
    )
    overlap_hours: Annotated[float, Field(ge=0)] = 48.0

    @field_validator("compute")
    @classmethod
    def _known_engine(cls, name: str) -> str:
        if not re.fullmatch(r"inline|processes:[1-9]\d?|(tcp|tls)://[\w.:\[\]-]+:\d+", name):
            raise ValueError("expected inline, processes:4, tcp://host:8786 or tls://host:8786")
        return name

    @property
    def artifact_folder(self) -> Path:
        return self.artifacts or self.home / "artifacts"

    @property
    def embedded(self) -> bool:
        return self.database_url is None

    def source(self, name: str) -> SourceSettings:
        """Settings of a source; the defaults if it has none."""
        return self.sources.get(name, SourceSettings())

    @property
    def cluster_folder(self) -> Path:
        return self.home / "postgres"


@cache
def load_settings() -> Settings:
    """The settings of this process. Raises ForecastError that names each invalid setting, never its value."""
    known = {_PREFIX + name.upper() for name in Settings.model_fields}
    given = {*os.environ, *_read_env_file()}
    unknown = sorted(name for name in given if name.startswith(_PREFIX) and name.split("__")[0] not in known)
    if unknown:
        raise ForecastError(f"Unknown settings {', '.join(unknown)}; known are {', '.join(sorted(known))}.")
    try:
        return Settings()
    except ValidationError as error:
        faults = "; ".join(
            f"{_PREFIX}{'__'.join(str(part) for part in fault['loc']).upper()}: {fault['msg']}"
            for fault in error.errors(include_input=False, include_url=False)
        )
        raise ForecastError(f"Invalid settings: {faults}. See .env.example.") from None


def _read_env_file() -> dict[str, str | None]:
    """The settings of the file that applies here, .env; none within `own_home`."""
    env_file = Settings.model_config["env_file"]
    return dotenv_values(env_file) if env_file else {}


def mlflow_uri() -> str | None:
    """Where trainings are logged to: MLFLOW_TRACKING_URI of the environment or .env, a name of MLflow's; None without."""
    return os.environ.get("MLFLOW_TRACKING_URI") or _read_env_file().get("MLFLOW_TRACKING_URI") or None


def export_settings(more: dict[str, str]) -> None:
    """Put the settings and `more` into the environment, with absolute paths, for processes started in another folder."""
    settings = load_settings()
    os.environ |= {name: value for name, value in _read_env_file().items() if value and name not in os.environ}
    os.environ |= {"ICU_HOME": str(settings.home.resolve()), "ICU_ARTIFACTS": str(settings.artifact_folder.resolve())}
    os.environ |= more


@contextmanager
def own_home(folder: Path) -> Iterator[None]:
    """Work in `folder` with default settings, ignoring those of the installation; restore them at the end."""
    environment, env_file = dict(os.environ), Settings.model_config["env_file"]
    for name in [name for name in os.environ if name.startswith(_PREFIX)]:
        del os.environ[name]
    Settings.model_config["env_file"] = None
    os.environ["ICU_HOME"] = str(folder)
    load_settings.cache_clear()
    try:
        quiet_environment(load_settings())
        yield
    finally:
        os.environ.clear()
        os.environ.update(environment)
        Settings.model_config["env_file"] = env_file
        load_settings.cache_clear()


def quiet_environment(settings: Settings) -> None:
    """Set defaults of our libraries, before they are imported: no telemetry, state under our folder."""
    defaults = {
        "DO_NOT_TRACK": "1",
        "GX_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_HOME": str(settings.home / "prefect"),
        # The first temporary server migrates its database, which takes longer than the default on a slow machine.
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
        # A run that dies together with its worker is found by its missing heartbeat (prefect.yaml).
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        # A tracking server that is away must not hold up a training for the minutes that MLflow would wait.
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        # A forecast and a training can share a GPU only if neither allocates all of its memory at start.
        "TF_FORCE_GPU_ALLOW_GROWTH": "true",
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    # Prefect creates its folder but not the parents. If the folder cannot be written to, doctor reports it.
    with suppress(OSError):
        settings.home.mkdir(parents=True, exist_ok=True)
