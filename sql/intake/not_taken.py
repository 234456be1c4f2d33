"""What a source holds and its SELECTs do not return, by name: the adapter's `not_taken.sql`, for `source check`."""

from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from sql.intake.adapter import Adapter
from sql.intake.reading import statement


def read_not_taken(adapter: Adapter, engine: Engine) -> list[dict] | None:
    """A row per name: kind ("row", or "stay" for rows of stays), name, rows, stays (patients where a row names no stay).

    None if the adapter has no such SELECT, or the database refuses it: the user may lack rights on its tables.
    """
    if adapter.not_taken_sql is None:
        return None
    names = ", ".join("'" + line.variable.replace("'", "''") + "'" for line in adapter.concept_map)
    select = statement(adapter, adapter.not_taken_sql.replace("{variables}", names), engine)
    # A colon would be read as a parameter.
    try:
        with engine.connect() as connection:
            found = connection.execute(text(select.replace(":", r"\:"))).mappings().all()
    except DBAPIError:
        return None
    return [
        {"kind": row["kind"], "name": row["name"] or "", "rows": int(row["n_rows"]), "stays": int(row["n_stays"])}
        for row in found
    ]
