"""Oracle, through python-oracledb: names are folded to upper case, whole tables are granted, '' is null."""

from collections.abc import Mapping
from typing import Any, ClassVar

from sqlalchemy import URL, Connection, Engine, event
from sqlalchemy.engine.interfaces import Dialect

from sql.engines.generic import Generic, at_utc
from sql.engines.refusals import (
    BAD_VALUE,
    FULL,
    NO_COLUMN,
    NO_DATABASE,
    NO_RESOURCES,
    NO_TABLE,
    NOT_GRANTED,
    NOT_RUNNING,
    NOT_SQL,
    TIME_LIMIT,
    WRONG_LOGIN,
    Said,
)


class Oracle(Generic):
    names = ("oracle",)
    driver, needs = "oracle+oracledb", "python-oracledb (the extra `oracle`)"
    grant_on_table = "grant select on {table} to {role};"
    known_codes: ClassVar[dict[str, Said]] = {
        "ORA-01017": WRONG_LOGIN,
        "ORA-28000": WRONG_LOGIN,
        "ORA-12514": NO_DATABASE,
        "ORA-12505": NO_DATABASE,
        "ORA-12519": FULL,
        "ORA-02391": FULL,
        "ORA-01033": NOT_RUNNING,
        "ORA-01034": NOT_RUNNING,
        "ORA-01013": TIME_LIMIT,
        "ORA-01031": NOT_GRANTED,
        "ORA-00942": NO_TABLE,
        "ORA-00904": NO_COLUMN,
        "ORA-00900": NOT_SQL,
        "ORA-00933": NOT_SQL,
        "ORA-00936": NOT_SQL,
        "ORA-01722": BAD_VALUE,
        "ORA-01843": BAD_VALUE,
        "ORA-01861": BAD_VALUE,
        "ORA-01652": NO_RESOURCES,
    }
    no_answer = frozenset(("ORA-12541", "ORA-12170", "ORA-03113", "ORA-03114"))

    def make_read_only(self, engine: Engine) -> None:
        @event.listens_for(engine, "begin")
        def _begin(connection: Connection) -> None:
            connection.exec_driver_sql("set transaction read only")

    def published_schema(self, schema: str, url: URL) -> str:
        return (url.username or schema) if schema == "public" else schema

    def quote(self, dialect: Dialect, name: str) -> str:
        # It folds plain names to upper case, and ours are in lower case.
        return dialect.identifier_preparer.quote(name)

    def bind(self, bound: Mapping[str, Any]) -> dict[str, Any]:
        return at_utc(bound)

    def prepare(self, connection: Connection, seconds: float) -> None:
        connection.exec_driver_sql("alter session set time_zone = 'UTC'")
        connection.connection.driver_connection.call_timeout = int(1000 * seconds)

    def codes(self, error: Any) -> list[str]:
        """ORA-01017, which its driver keeps in an object; a code of the driver itself says only that nobody answered."""
        code = getattr((getattr(error, "args", ()) or (None,))[0], "full_code", "") or ""
        return [code] if code.startswith("ORA-") else []
