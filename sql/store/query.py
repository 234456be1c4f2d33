"""A user's own SELECT, run in a session that may only read."""

from typing import Any

import psycopg
from psycopg.rows import dict_row
from sqlalchemy import Engine

from rnn_core.contracts.errors import ForecastError


def run_query(engine: Engine, query: str) -> list[dict[str, Any]]:
    """Rows of one statement, keyed by column name; none if it returns no table.

    Raises ForecastError with the database's own message: the user wrote the query, and sees what it quotes.
    """
    with engine.connect() as connection:
        # A session setting outlives what the query itself might commit, and must not go back into the pool.
        connection.detach()
        connection.exec_driver_sql("set default_transaction_read_only = on")
        connection.commit()
        try:
            # Prepared: the server takes one statement only, and percent signs and colons are plain text.
            cursor = connection.connection.cursor(row_factory=dict_row).execute(query, prepare=True)
            return cursor.fetchall() if cursor.description else []
        except psycopg.Error as error:
            raise ForecastError(f"The query failed: {str(error).strip()}") from None
