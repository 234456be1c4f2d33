"""A user's own SELECT, run in a session that may only read."""

from itertools import count
from typing import Any

import psycopg
from sqlalchemy import Engine

from rnn_core.contracts.errors import ForecastError


def run_query(engine: Engine, query: str) -> list[dict[str, Any]]:
    """Rows of one statement, keyed by column name; none if it returns no table. Of columns with the same name the second is
    `name_2`, and so on.

    Raises ForecastError with the database's own message: the user wrote the query, and sees what it quotes.
    """
    with engine.connect() as connection:
        # A session setting outlives what the query itself might commit, and must not go back into the pool.
        connection.detach()
        connection.exec_driver_sql("set default_transaction_read_only = on")
        connection.commit()
        try:
            # Prepared: the server takes one statement only, and percent signs and colons are plain text.
            cursor = connection.connection.cursor().execute(query, prepare=True)
            names = _told_apart([column.name for column in cursor.description or ()])
            return [dict(zip(names, row, strict=True)) for row in cursor] if names else []
        except psycopg.Error as error:
            raise ForecastError(f"The query failed: {str(error).strip()}") from None


def _told_apart(names: list[str]) -> list[str]:
    apart: list[str] = []
    for name in names:
        numbered = (f"{name}_{number}" for number in count(2))
        free = (new for new in numbered if new not in names and new not in apart)
        apart.append(next(free) if name in apart else name)
    return apart
