"""The model registry: the models of a source, and which one serves."""

import getpass
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Engine, func, insert, select, text, update

from rnn_core.contracts.errors import ContractError, ForecastError
from sql.store.schema import model

SERVING: tuple[str, ...] = ("champion", "provisional")
# Forecasters of a source: of its stays, of the next lengths of stay per unit, and the recurrent one of arrivals.
NAMES: tuple[str, ...] = ("stay", "unit", "arrivals")
STAGES: tuple[str, ...] = ("candidate", "provisional", "challenger", "champion", "retired")

# Begins the reason of a model that was trained to be looked at (`train --no-serve`), until somebody promotes it.
KEPT_BACK = "Trained not to serve"

# Written by the registry alone.
_OWN = ("version", "stage", "stage_reason", "staged_at", "staged_by", "trained_by", "served_as", "served_at")
_REQUIRED = ("model_id", "name", "source", "data_cutoff", "artifact", "config", "metrics")


def register(connection: Connection, row: Mapping[str, Any]) -> int:
    """Add a model as a candidate and return its version, the next one of its source and name.

    `row` holds columns of forecast.model, at least `_REQUIRED`. Registering the same model with the same artifact again
    returns its version. The row belongs to the connection's transaction. Raises ContractError for wrong columns,
    ForecastError if another model has that id.
    """
    allowed = [c.name for c in model.c if c.name not in _OWN]
    if wrong := sorted((set(row) - set(allowed)) | (set(_REQUIRED) - set(row))):
        raise ContractError(
            f"A model is registered with {list(_REQUIRED)} and optionally {allowed}; missing or unknown: {wrong}."
        )
    _lock(connection, row["source"], row["name"])
    known = connection.execute(select(model).where(model.c.model_id == row["model_id"])).one_or_none()
    if known is None:
        ours = (model.c.source == row["source"], model.c.name == row["name"])
        version = connection.execute(select(func.coalesce(func.max(model.c.version), 0) + 1).where(*ours)).scalar_one()
        connection.execute(insert(model).values(**row, version=version, trained_by=getpass.getuser()))
        return version
    if (known.source, known.name, known.artifact) != (row["source"], row["name"], row["artifact"]):
        raise ForecastError(
            f"A model {known.model_id} is already registered with another artifact; give the new one another id."
        )
    return known.version


def serving_model(engine: Engine, source: str, name: str) -> dict[str, Any] | None:
    """The row of the model that serves `source`: its champion, else its provisional model, else None."""
    with engine.connect() as connection:
        return _serving(connection, source, name)


def challenger(engine: Engine, source: str, name: str = "stay") -> dict[str, Any] | None:
    """The row of the newest challenger that was trained after the serving model, None if there is none."""
    query = (
        select(model)
        .where(model.c.source == source, model.c.name == name, model.c.stage == "challenger")
        .order_by(model.c.version.desc())
        .limit(1)
    )
    with engine.connect() as connection:
        serving = _serving(connection, source, name)
        row = connection.execute(query).mappings().one_or_none()
    return dict(row) if row and serving and row["version"] > serving["version"] else None


def read_model(engine: Engine, model_id: str) -> dict[str, Any]:
    """The row of a model. Raises ForecastError, which lists the existing ones, if there is none."""
    with engine.begin() as connection:
        return _read(connection, model_id)


def list_models(engine: Engine, source: str | None = None, name: str | None = None) -> list[dict[str, Any]]:
    """Rows of forecast.model, newest version first within (source, name)."""
    query = select(model).order_by(model.c.source, model.c.name, model.c.version.desc())
    query = query.where(model.c.source == source) if source else query
    query = query.where(model.c.name == name) if name else query
    with engine.connect() as connection:
        return [dict(row) for row in connection.execute(query).mappings()]


def set_stage(engine: Engine, model_id: str, stage: str, reason: str) -> dict[str, Any] | None:
    """`assign_stage` in a transaction of its own."""
    with engine.begin() as connection:
        return assign_stage(connection, model_id, stage, reason)


def assign_stage(connection: Connection, model_id: str, stage: str, reason: str) -> dict[str, Any] | None:
    """Set a model's stage with a reason; a model that begins to serve retires the previous one, whose row is returned.

    Raises ForecastError for an unknown model, and if a provisional model would replace a champion.
    """
    if stage not in STAGES:
        raise ContractError(f"A model's stage is one of {list(STAGES)}; found {stage!r}.")
    chosen = _read(connection, model_id)
    if stage not in SERVING:
        _write_stage(connection, model_id, stage, reason)
        return None
    before = _serving(connection, chosen["source"], chosen["name"])
    if before and before["model_id"] == model_id and before["stage"] == stage:
        return None
    if before and before["stage"] == "champion" and stage == "provisional":
        raise ForecastError(
            f"{before['model_id']} is champion of {chosen['source']}, and a provisional model cannot replace a "
            f"champion. Promote {model_id} or make it a challenger."
        )
    return _hand_over(connection, before, model_id, stage, reason, served_at=func.clock_timestamp())


def retire_serving(connection: Connection, source: str, name: str, reason: str) -> str | None:
    """Let nothing serve any more; returns the id of the model that did, None if none did."""
    _lock(connection, source, name)
    before = _serving(connection, source, name)
    if before is None:
        return None
    _write_stage(connection, before["model_id"], "retired", reason)
    return before["model_id"]


def rollback(engine: Engine, source: str, name: str, reason: str = "rolled back") -> dict[str, Any]:
    """Restore the model that served before the current one, in its former stage; returns its row.

    A second rollback goes one further back. Raises ForecastError if there is none to go back to.
    """
    with engine.begin() as connection:
        _lock(connection, source, name)
        now = _serving(connection, source, name)
        query = select(model.c.model_id, model.c.served_as).order_by(model.c.served_at.desc()).limit(1)
        query = query.where(model.c.source == source, model.c.name == name, model.c.stage == "retired")
        query = query.where(model.c.served_at.is_not(None))
        earlier = connection.execute(query.where(model.c.served_at < now["served_at"]) if now else query).one_or_none()
        if earlier is None:
            raise ForecastError(
                f"No {name} model served {source} before {now['model_id'] if now else 'now'}, so there is none to go "
                "back to; promote one by its id (see `icu-forecast models list`)."
            )
        _hand_over(connection, now, earlier.model_id, earlier.served_as, reason)
        return _read(connection, earlier.model_id)


def _hand_over(
    connection: Connection, before: Mapping[str, Any] | None, model_id: str, stage: str, reason: str, **served: Any
) -> dict[str, Any] | None:
    """Retire `before` first: the unique index allows one serving model at any moment."""
    replaced = before if before and before["model_id"] != model_id else None
    if replaced:
        _write_stage(connection, replaced["model_id"], "retired", f"replaced by {model_id}: {reason}")
    _write_stage(connection, model_id, stage, reason, served_as=stage, **served)
    return _read(connection, replaced["model_id"]) if replaced else None


def _write_stage(connection: Connection, model_id: str, stage: str, reason: str, **more: Any) -> None:
    by = getpass.getuser()
    values = {"stage": stage, "stage_reason": reason, "staged_at": func.clock_timestamp(), "staged_by": by, **more}
    connection.execute(update(model).where(model.c.model_id == model_id).values(**values))


def _serving(connection: Connection, source: str, name: str) -> dict[str, Any] | None:
    query = select(model).where(model.c.source == source, model.c.name == name, model.c.stage.in_(SERVING))
    row = connection.execute(query).mappings().one_or_none()
    return dict(row) if row else None


def _read(connection: Connection, model_id: str) -> dict[str, Any]:
    """The model's row, after the stages of its source and name are locked for this transaction."""
    query = select(model).where(model.c.model_id == model_id)
    row = connection.execute(query).mappings().one_or_none()
    if row is None:
        known = list(connection.execute(select(model.c.model_id).order_by(model.c.model_id)).scalars())
        raise ForecastError(f"There is no model {model_id!r}; there are: {', '.join(known) or 'none yet'}.")
    _lock(connection, row["source"], row["name"])
    return dict(connection.execute(query).mappings().one())


def _lock(connection: Connection, source: str, name: str) -> None:
    """Serialise changes of one source's models; held to the end of the transaction."""
    connection.execute(
        text("select pg_advisory_xact_lock(hashtextextended(:key, 0))"), {"key": f"registry {source} {name}"}
    )
