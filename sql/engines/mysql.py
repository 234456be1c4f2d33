"""MySQL and MariaDB, one engine: a schema is a database, and a number says why it refuses."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import URL, Connection, Engine, event, text

from sql.engines.generic import Generic, at_utc, columns_of_information_schema
from sql.engines.refusals import (
    FULL,
    NO_COLUMN,
    NO_DATABASE,
    NO_SUCH_OR_NOT_GRANTED,
    NO_TABLE,
    NOT_GRANTED,
    NOT_RUNNING,
    NOT_SQL,
    STANDARD,
    TIME_LIMIT,
    WRONG_LOGIN,
)


class MySQL(Generic):
    names = ("mysql", "mariadb")
    driver, needs = "mysql+pymysql", "PyMySQL (the extra `mysql`)"
    can_plan = True
    with_zone = re.compile("timestamp")
    grant_on_table = "grant select ({columns}) on {table} to {role};"
    # A number comes before the SQLSTATE: a database that does not exist has that of a syntax error.
    known_codes = STANDARD | {
        "1045": WRONG_LOGIN,
        "1698": WRONG_LOGIN,
        "1044": NO_SUCH_OR_NOT_GRANTED,
        "1049": NO_DATABASE,
        "1040": FULL,
        "1203": FULL,
        "1226": FULL,
        "1053": NOT_RUNNING,
        "1969": TIME_LIMIT,
        "3024": TIME_LIMIT,
        "1142": NOT_GRANTED,
        "1143": NOT_GRANTED,
        "1146": NO_TABLE,
        "1054": NO_COLUMN,
        "1064": NOT_SQL,
    }
    # Of the client: no server there, or it went away.
    no_answer = frozenset(("2002", "2003", "2005", "2006", "2013"))
    # To reflect a table, SQLAlchemy needs more than the grants of columns that `source grants` prints.
    columns = staticmethod(columns_of_information_schema)

    def make_read_only(self, engine: Engine) -> None:
        @event.listens_for(engine, "connect")
        def _connect(session: Any, _record: object) -> None:
            with session.cursor() as cursor:
                cursor.execute("set session transaction read only")

    def published_schema(self, schema: str, url: URL) -> str:
        return (url.database or schema) if schema == "public" else schema

    def whole_reads(self, engine: Engine, selects: Iterable[str], bound: Mapping[str, Any]) -> dict[str, int]:
        """Tables of which a plan says that no index could be used, by the name that the SELECT gives them."""
        whole: dict[str, int] = {}
        with engine.connect() as connection:
            for sql in selects:
                for step in connection.execute(text(f"explain {sql}"), self.bind(bound)).mappings():
                    # Names in angle brackets are steps of the SELECT itself.
                    if step["type"] in ("ALL", "index") and not step["possible_keys"] and "<" not in step["table"]:
                        name = _table(sql, step["table"])
                        whole[name] = max(int(step["rows"] or 0), whole.get(name, 0))
        return whole

    def bind(self, bound: Mapping[str, Any]) -> dict[str, Any]:
        return at_utc(bound)

    def prepare(self, connection: Connection, seconds: float) -> None:
        # MariaDB and MySQL name their limits differently, and each skips what is written for the other.
        limits = (
            f"/*M!100101 , max_statement_time = {seconds:.3f} *//*!50708 , max_execution_time = {1000 * seconds:.0f} */"
        )
        connection.exec_driver_sql(f"set time_zone = '+00:00' {limits}")


def _table(sql: str, name: str) -> str:
    """The table that a SELECT calls `name`."""
    found = re.search(rf"\.`?(\w+)`?\s+(?:as\s+)?`?{re.escape(name)}`?\b", sql, re.IGNORECASE)
    return found[1] if found else name
