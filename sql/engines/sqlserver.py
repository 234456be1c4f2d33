"""SQL Server, through pyodbc."""

import re
from collections.abc import Mapping
from typing import Any

from sqlalchemy import URL, Connection, Engine

from sql.engines.generic import Generic, at_utc, columns_of_information_schema
from sql.engines.refusals import (
    BAD_VALUE,
    NO_COLUMN,
    NO_SUCH_OR_NOT_GRANTED,
    NO_TABLE,
    NOT_GRANTED,
    NOT_SQL,
    STANDARD,
    TIME_LIMIT,
    WRONG_LOGIN,
)


class SQLServer(Generic):
    names = ("mssql",)
    driver, needs = (
        "mssql+pyodbc",
        "pyodbc (the extra `mssql`), unixODBC (unixodbc) and Microsoft's ODBC driver (msodbcsql18)",
    )
    grant_on_table = "grant select on {table} ({columns}) to {role};"
    known_codes = STANDARD | {
        "Msg 18456": WRONG_LOGIN,
        "Msg 4060": NO_SUCH_OR_NOT_GRANTED,
        "Msg 229": NOT_GRANTED,
        "Msg 230": NOT_GRANTED,
        "Msg 208": NO_TABLE,
        "Msg 207": NO_COLUMN,
        "Msg 102": NOT_SQL,
        "Msg 156": NOT_SQL,
        "Msg 195": NOT_SQL,
        "Msg 241": BAD_VALUE,
        "Msg 245": BAD_VALUE,
        "Msg 8114": BAD_VALUE,
        "HYT00": TIME_LIMIT,
    }
    no_answer = frozenset(("08001", "08S01"))
    columns = staticmethod(columns_of_information_schema)

    def open(self, url: URL, application: str, keep: bool) -> Engine:
        if "driver" not in url.query:
            url = url.update_query_dict({"driver": "ODBC Driver 18 for SQL Server"})
        return super().open(url, application, keep)

    def published_schema(self, schema: str, url: URL) -> str:
        return "dbo" if schema == "public" else schema

    def bind(self, bound: Mapping[str, Any]) -> dict[str, Any]:
        return at_utc(bound)

    def prepare(self, connection: Connection, seconds: float) -> None:
        connection.connection.driver_connection.timeout = max(1, int(seconds))

    def codes(self, error: Any) -> list[str]:
        """Its number, which pyodbc leaves in the text in parentheses, before the SQLSTATE, which is often only 42000."""
        said = str(getattr(error, "args", ("", ""))[-1])
        numbers = [f"Msg {number}" for number in re.findall(r"\((\d{3,5})\) \(SQL\w+\)", said)]
        states = super().codes(error)
        # A login that nobody answers has the state of a statement that takes too long.
        return [] if "HYT00" in states and "(SQLDriverConnect)" in said else [*numbers, *states]
