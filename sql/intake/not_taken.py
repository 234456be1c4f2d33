"""What a source holds and its SELECTs do not return, by name: the adapter's `not_taken.sql`, for `source check`."""

from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from sql.intake.adapter import Adapter
from sql.intake.reading import statement
from sql.store.deadline import within


def read_not_taken(adapter: Adapter, engine: Engine) -> list[dict] | None:
    """A row per name: kind, name, rows, stays (patients where a row names no stay).

    kind: "row", "stay" for rows of stays, or "untimed" for rows without a usable time, by the name of their table.

    None if the adapter has no such SELECT, the database refuses it (the user may lack rights on its tables), or it takes
    longer than a read may.
    """
    if adapter.not_taken_sql is None:
        return None
    names = ", ".join("'" + line.variable.replace("'", "''") + "'" for line in adapter.concept_map)
    select = statement(adapter, adapter.not_taken_sql.replace("{variables}", names), engine)

    def look() -> list[dict]:
        with engine.connect() as connection:
            # A colon would be read as a parameter.
            found = connection.execute(text(select.replace(":", r"\:"))).mappings().all()
        return [
            {"kind": row["kind"], "name": row["name"] or "", "rows": int(row["n_rows"]), "stays": int(row["n_stays"])}
            for row in found
        ]

    try:
        return within(60 * adapter.read_timeout_minutes, look)
    except (DBAPIError, TimeoutError):
        return None
