"""Why a database refused: a sentence per SQLSTATE or number of its error, never its text, which may quote a row."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple


class Said(NamedTuple):
    """What a code means, and what to do: two parts of a sentence."""

    cause: str
    advice: str


@dataclass(frozen=True)
class Refusal:
    """code: SQLSTATE, number or name of the error. cause and advice: parts of a sentence."""

    code: str
    cause: str
    advice: str

    def __str__(self) -> str:
        return f"{self.cause} ({self.code}); {self.advice}"


WRONG_LOGIN = Said("it refuses this user or the password", "check both, and that the server admits the user from here")
NO_DATABASE = Said("it has no database of that name", "check the name at the end of the URL")
NO_SUCH_OR_NOT_GRANTED = Said(
    "it has no database of that name, or none that this user may use",
    "check the name at the end of the URL, and the grants",
)
FULL = Said("it has no free connection", "try again later, or ask its administrator for more")
NOT_RUNNING = Said("it is starting, or was shut down", "try again later")
TIME_LIMIT = Said(
    "its own time limit was exceeded",
    "raise it for this user (statement_timeout, max_statement_time), or add an index",
)
NOT_GRANTED = Said("this user may not select what is read", "grant it; `source grants` prints what is needed")
NO_TABLE = Said("a table or schema is missing", "check the schema setting and the SELECT")
NO_COLUMN = Said("a column is missing", "check the SELECT against the table")
NOT_SQL = Said("the SELECT is not valid SQL there", "correct it")
BAD_VALUE = Said(
    "it could not convert or compute a value of the SELECT", "let the SELECT pass on text that is no number or time"
)
NO_RESOURCES = Said("it has no memory or disk left", "ask its administrator")
UNKNOWN = Said("it refused", "look the code up in its manual")

# By SQLSTATE, or by the first digits of one: those of the standard, and PostgreSQL's own.
STANDARD = {
    "28": WRONG_LOGIN,
    "3D000": NO_DATABASE,
    "53300": FULL,
    "57P": NOT_RUNNING,
    "57014": TIME_LIMIT,
    "42501": NOT_GRANTED,
    "42P01": NO_TABLE,
    "3F000": NO_TABLE,
    "42703": NO_COLUMN,
    "42601": NOT_SQL,
    "42704": Said("it does not know a setting or name", "check `options` of the URL, and the SELECT"),
    "22023": Said("it does not know a setting or name", "check `options` of the URL, and the SELECT"),
    "22021": (
        not_text := Said(
            "it could not convert a text or a character to the other encoding",
            "mend that text in its table, and keep the SELECT in plain ASCII",
        )
    ),
    "22P05": not_text,
    "22": BAD_VALUE,
    "42": Said("the SELECT does not fit its tables", "run `source check`"),
    "53": NO_RESOURCES,
    "08": Said("it broke the connection", "check the network and its log"),
}


def refusal_of(codes: list[str], known: Mapping[str, Said]) -> Refusal:
    """The refusal with the first of these codes that is known, in full or by its longest beginning; else with the first."""
    code, said = next(((code, said) for code in codes if (said := _said_of(code, known))), (codes[0], UNKNOWN))
    return Refusal(f"SQLSTATE {code}" if len(code) == 5 else f"error {code}", *said)


def _said_of(code: str, known: Mapping[str, Said]) -> Said | None:
    beginnings = (code[:length] for length in range(len(code), 0, -1))
    return next((known[beginning] for beginning in beginnings if beginning in known), None)
