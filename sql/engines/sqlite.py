"""SQLite: a file whose times are text and that has neither users, schemas nor intervals."""

import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, event
from sqlalchemy.engine.interfaces import Dialect

from sql.engines.cells import readable_text
from sql.engines.generic import Generic


class SQLite(Generic):
    names = ("sqlite",)
    is_a_file = True
    has_one_schema = True
    can_plan = True

    def make_read_only(self, engine: Engine) -> None:
        @event.listens_for(engine, "do_connect")
        def _connect(_dialect: Dialect, _record: object, args: list, options: dict) -> None:
            # A plain path would create an empty database if there is none.
            args[0], options["uri"] = f"{Path(args[0]).resolve().as_uri()}?mode=ro", True

    def published_schema(self, schema: str, url: URL) -> str:
        return "main"

    def columns(self, engine: Engine, schema: str, table: str) -> dict[str, str]:
        # It keeps the case of the imported file and ignores it.
        return {name.lower(): kind for name, kind in super().columns(engine, schema, table).items()}

    def spell(self, select: str) -> str:
        """Its datetime() gives the same text for the sum of a column and an interval."""
        return re.sub(r"([\w.:]+) ([+-]) interval '(\d+ \w+)'", r"datetime(\1, '\2\3')", select)

    def bind(self, bound: Mapping[str, Any]) -> dict[str, str]:
        # Times are text there, with or without fractions of a second: read a second more, the excess is cut off.
        margin = {"since": -timedelta(seconds=1), "until": timedelta(seconds=1)}
        return {name: _iso(value + margin[name]) for name, value in bound.items()}

    def prepare(self, connection: Connection, seconds: float) -> None:
        connection.connection.driver_connection.text_factory = readable_text


def _iso(time: datetime) -> str:
    """With four digits of the year, which strftime leaves out before 1000: texts compare."""
    return time.replace(tzinfo=None).isoformat(" ", "seconds")
