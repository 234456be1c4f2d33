"""SELECTs of a source in the dialect of another engine, by sqlglot: what it leaves undone is done here, the rest is named."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rnn_core.contracts.errors import ForecastError
from sql.engines.generic import BOUND
from sql.intake.adapter import folder_of, load_adapter

try:
    import sqlglot
    from sqlglot import ErrorLevel, exp
    from sqlglot.dialects.dialect import Dialect
    from sqlglot.transforms import ensure_bools
except ImportError:
    raise ForecastError(
        "To translate SELECTs, sqlglot is needed and not installed; install the extra `translate`."
    ) from None

# SQLAlchemy's names of dialects that sqlglot calls otherwise.
_SQLGLOT = {"postgresql": "postgres", "mssql": "tsql", "mariadb": "mysql"}
_OURS = {"tsql": "mssql", "postgres": "postgresql"}
# Engines in which a condition is no value, and those that add hours by a function.
_WITHOUT_BOOLEANS, _DATEADD = ("tsql", "oracle"), ("tsql", "snowflake", "redshift", "databricks")
_DAY = re.compile(r"\d{4}-\d\d-\d\d")
_COMPARED = (exp.LT, exp.LTE, exp.GT, exp.GTE, exp.EQ, exp.NEQ, exp.Between)
# Later than every time that can be, and not the last that there is: hours are added to it.
_NEVER = "9999-01-01"
_SECONDS = {"SECOND": 1, "MINUTE": 60, "HOUR": 3600, "DAY": 86400}


@dataclass(frozen=True)
class Translation:
    """sql: the SELECT with its placeholders and bounds. doubts: what may not mean the same there, or not be understood."""

    sql: str
    doubts: tuple[str, ...]


def dialect_of(name: str) -> str:
    """SQLAlchemy's name, which `source.yaml` and names of files use, of a dialect named in its way or in sqlglot's.

    Raises ForecastError for one that sqlglot does not know.
    """
    found = _SQLGLOT.get(name.lower(), name.lower())
    if found not in Dialect.classes:
        known = ", ".join(sorted(_OURS.get(known, known) for known in Dialect.classes if known))
        raise ForecastError(f"There is no dialect called {name!r}; known are {known}.")
    return _OURS.get(found, found)


def translate(select: str, written_for: str, to: str) -> Translation:
    """A SELECT of an adapter, written for one dialect, in another; dialects as `dialect_of` gives them.

    Comments stay behind. Raises ForecastError, with its line, for a SELECT that cannot be read.
    """
    target = _SQLGLOT.get(to, to)
    try:
        tree = sqlglot.parse_one(_hide(select), read=_SQLGLOT.get(written_for, written_for))
    except sqlglot.ParseError as error:
        line = error.errors[0]["line"] if error.errors else "?"
        raise ForecastError(
            f"Its line {line} is not understood as SQL of {written_for}; correct it, or translate the SELECT by hand."
        ) from None
    for step in _STEPS:
        tree = step(tree, target)
    generator = Dialect.get_or_raise(target).generator(pretty=True, comments=False, unsupported_level=ErrorLevel.IGNORE)
    sql = _show(generator.generate(tree))
    doubts = [*generator.unsupported_messages, *_doubts(tree, target)]
    if "{hours}" in sql:
        doubts.append("the list {delays} has another form there: write it by hand")
    return Translation(sql + "\n", tuple(dict.fromkeys(doubts)))


# -------------------------------------------------------------------------------------------- placeholders


def _hide(select: str) -> str:
    """Placeholders and bounds as names, which sqlglot reads and leaves as they are."""
    select = select.replace("{delays}", "(icu_fill_delays, icu_fill_hours)")
    return BOUND.sub(r"icu_bound_\1", re.sub(r"\{(\w+)\}", r"icu_fill_\1", select))


def _show(sql: str) -> str:
    sql = re.sub(r"\(\s*icu_fill_delays,\s*icu_fill_hours\s*\)", "{delays}", sql)
    return re.sub(r"icu_bound_(\w+)", r":\1", re.sub(r"icu_fill_(\w+)", r"{\1}", sql))


# -------------------------------------------------------------------------------------------- steps


def _windows_in_place(tree: exp.Expression, _: str) -> exp.Expression:
    """`over name` with what the name stands for: few engines have a WINDOW clause."""
    for select in tree.find_all(exp.Select):
        named = {window.this.name: window for window in select.args.pop("windows", None) or ()}
        for window in select.find_all(exp.Window):
            while (alias := window.args.get("alias")) is not None and alias.name in named:
                base = named[alias.name]
                window.set("alias", base.args.get("alias"))
                for part in ("partition_by", "order", "spec"):
                    if not window.args.get(part) and base.args.get(part):
                        given = base.args[part]
                        window.set(part, [p.copy() for p in given] if isinstance(given, list) else given.copy())
    return tree


def _times_as_times(tree: exp.Expression, _: str) -> exp.Expression:
    """A day written as text beside a comparison: many engines would read it by the settings of the session, or not at all."""
    for literal in list(tree.find_all(exp.Literal)):
        if literal.is_string and literal.this == "infinity":
            literal.replace(_time(_NEVER))
        elif literal.is_string and _DAY.fullmatch(literal.this) and isinstance(literal.parent, _COMPARED):
            literal.replace(_time(literal.this))
    return tree


def _time(day: str) -> exp.Cast:
    return exp.cast(exp.Literal.string(f"{day} 00:00:00"), exp.DataType.Type.TIMESTAMP)


def _rows_compared(tree: exp.Expression, target: str) -> exp.Expression:
    """`(a, b) < (c, d)` column by column."""
    if target not in _WITHOUT_BOOLEANS:
        return tree
    for less in list(tree.find_all(exp.LT)):
        if isinstance(less.this, exp.Tuple) and isinstance(less.expression, exp.Tuple):
            (a, b), (c, d) = less.this.expressions, less.expression.expressions
            later = exp.and_(exp.EQ(this=a.copy(), expression=c.copy()), exp.LT(this=b.copy(), expression=d.copy()))
            less.replace(exp.paren(exp.or_(exp.LT(this=a.copy(), expression=c.copy()), later)))
    return tree


def _sums_of_times(tree: exp.Expression, target: str) -> exp.Expression:
    """Units of intervals in the singular; as a function where an engine has no intervals."""
    for interval in list(tree.find_all(exp.Interval)):
        if interval.unit is not None:
            interval.set("unit", exp.var(interval.unit.name.upper().rstrip("S")))
        if target in _DATEADD or (target == "mysql" and isinstance(interval.parent, exp.Mul)):
            _as_function(interval)
    return tree


def _as_function(interval: exp.Interval) -> None:
    amount: exp.Expression = exp.Literal.number(interval.this.this)
    unit, whole = interval.unit.name, interval
    if isinstance(whole.parent, exp.Mul):
        times = whole.parent.this if whole.parent.expression is whole else whole.parent.expression
        seconds = exp.Mul(this=times.copy(), expression=exp.Literal.number(_SECONDS[unit]))
        whole, amount, unit = whole.parent, seconds, "SECOND"
    added = whole.parent
    if not isinstance(added, exp.Add | exp.Sub) or added.expression is not whole:
        return
    amount = exp.Neg(this=amount) if isinstance(added, exp.Sub) else amount
    added.replace(exp.DateAdd(this=added.this.copy(), expression=amount, unit=exp.var(unit)))


def _conditions(tree: exp.Expression, target: str) -> exp.Expression:
    """Conditions that are used as values, and values as conditions, where an engine keeps them apart."""
    if target not in _WITHOUT_BOOLEANS:
        return tree
    for node in list(tree.find_all(exp.NullSafeNEQ)):
        same = exp.or_(exp.EQ(this=node.this.copy(), expression=node.expression.copy()), _both_null(node))
        node.replace(_is(same, "0", "1"))
    for node in list(tree.find_all(exp.Coalesce)):
        otherwise = node.expressions[-1]
        if isinstance(otherwise, exp.Boolean) and isinstance(node.this, exp.Connector | exp.Predicate):
            # True where it is not false, or false where it is not true.
            holds = exp.not_(node.this.copy()) if otherwise.this else node.this.copy()
            node.replace(_case(holds, "0", "1") if otherwise.this else _case(holds, "1", "0"))
    for node in list(tree.find_all(exp.Is)):
        if isinstance(node.expression, exp.Boolean):
            value = str(int(node.expression.this))
            node.replace(exp.EQ(this=_case(node.this.copy(), "1", "0"), expression=exp.Literal.number(value)))
    for select in tree.find_all(exp.Select):
        for shown in select.expressions:
            value = shown.this if isinstance(shown, exp.Alias) else shown
            if isinstance(value, exp.Connector | exp.Predicate):
                value.replace(_case(value.copy(), "1", "0"))
    return ensure_bools(tree)


def _both_null(node: exp.Binary) -> exp.Expression:
    return exp.paren(
        exp.and_(*(exp.Is(this=side.copy(), expression=exp.null()) for side in (node.this, node.expression)))
    )


def _case(condition: exp.Expression, yes: str, no: str) -> exp.Case:
    return exp.Case().when(condition, yes).else_(no)


def _is(condition: exp.Expression, yes: str, no: str) -> exp.EQ:
    return exp.EQ(this=_case(condition, yes, no), expression=exp.Literal.number(1))


def _types(tree: exp.Expression, target: str) -> exp.Expression:
    """Text of a length that can be compared and grouped; a number for a truth value."""
    text = {"tsql": "nvarchar(4000)", "oracle": "varchar2(4000)"}.get(target)
    for kind in list(tree.find_all(exp.DataType)):
        if text and kind.this in (exp.DataType.Type.TEXT, exp.DataType.Type.VARCHAR) and not kind.expressions:
            kind.replace(exp.DataType.build(text, dialect=target))
        elif target == "oracle" and kind.this == exp.DataType.Type.BOOLEAN:
            kind.replace(exp.DataType.build("number(1)", dialect=target))
    return tree


def _of_oracle(tree: exp.Expression, target: str) -> exp.Expression:
    """`*` beside other columns needs its table, a time its form, and only one character can be trimmed by TRIM."""
    if target != "oracle":
        return tree
    for select in tree.find_all(exp.Select):
        if len(select.expressions) > 1:
            for star in [shown for shown in select.expressions if isinstance(shown, exp.Star)]:
                star.replace(exp.column(exp.Star(), table=select.args["from_"].this.alias_or_name))
    for cast in list(tree.find_all(exp.Cast)):
        if cast.is_type(exp.DataType.Type.TIMESTAMP) and isinstance(cast.this, exp.Literal):
            form = exp.Literal.string("YYYY-MM-DD HH24:MI:SS")
            cast.replace(exp.Anonymous(this="TO_TIMESTAMP", expressions=[cast.this.copy(), form]))
    for trim in list(tree.find_all(exp.Trim)):
        if trim.expression and len(trim.expression.name) > 1 and not trim.args.get("position"):
            signs = trim.expression
            inner = exp.Anonymous(this="RTRIM", expressions=[trim.this.copy(), signs.copy()])
            trim.replace(exp.Anonymous(this="LTRIM", expressions=[inner, signs.copy()]))
    return tree


def _apply(tree: exp.Expression, target: str) -> exp.Expression:
    """SQL Server's CROSS APPLY for `cross join lateral`."""
    for join in list(tree.find_all(exp.Join)) if target == "tsql" else ():
        if isinstance(join.this, exp.Lateral):
            join.set("kind", None)
            join.this.set("cross_apply", True)
    return tree


def _greatest_of_what_is_known(tree: exp.Expression, target: str) -> exp.Expression:
    """PostgreSQL and SQL Server leave a null out of GREATEST and LEAST; elsewhere it makes the whole null."""
    if target in ("tsql", "postgres", "duckdb"):
        return tree
    for node in list(tree.find_all(exp.Greatest, exp.Least)):
        given = [node.this, *node.expressions]
        turned = [given[n:] + given[:n] for n in range(len(given))]
        node.replace(
            type(node)(
                this=_known(turned[0]), expressions=[_known(values) for values in turned[1:]], ignore_nulls=False
            )
        )
    return tree


def _known(values: list[exp.Expression]) -> exp.Expression:
    """The first of these that is not null."""
    first, *others = (value.copy() for value in values)
    return first if isinstance(first, exp.Literal) else exp.Coalesce(this=first, expressions=others)


_STEPS: tuple[Callable[[exp.Expression, str], exp.Expression], ...] = (
    _windows_in_place,
    _times_as_times,
    _rows_compared,
    _sums_of_times,
    _conditions,
    _types,
    _of_oracle,
    _apply,
    _greatest_of_what_is_known,
)


# -------------------------------------------------------------------------------------------- doubts

_REGEX = (exp.RegexpLike, exp.RegexpILike)
# Functions that a step here has put in.
_OURS_PUT_IN = frozenset(("TO_TIMESTAMP", "LTRIM", "RTRIM"))


def _doubts(tree: exp.Expression, target: str) -> Iterator[str]:
    if tree.find(*_REGEX):
        n = len(list(tree.find_all(*_REGEX)))
        yield f"{n} regular expressions (`~`), which are spelled differently or missing there: write LIKE, or your own names"
    if target == "oracle" and tree.find(exp.DPipe, exp.Concat):
        yield "a text joined with null is that text there, and null in PostgreSQL"
    if tree.find(exp.AtTimeZone):
        yield "AT TIME ZONE means something else there, or is missing: return times without a zone, and set local_times"
    if unknown := sorted({node.name.upper() for node in tree.find_all(exp.Anonymous)} - _OURS_PUT_IN):
        yield f"functions that are passed on as they are, known there or not: {', '.join(unknown)}"
    if target == "tsql" and tree.find(exp.Greatest, exp.Least):
        yield "GREATEST and LEAST need SQL Server 2022"
    if target in ("mysql", "oracle") and tree.find(exp.Values):
        yield "a list of VALUES with named columns is not understood by MariaDB, and by Oracle from 23 on only"
    if target == "mysql":
        for trim in tree.find_all(exp.Trim):
            if trim.expression and len(trim.expression.name) > 1:
                yield f"TRIM takes {trim.expression.sql()} as one text there, not as a set of characters"


@dataclass(frozen=True)
class TranslatedFile:
    """A file of an adapter as it is to be written; doubts: as of its `Translation`."""

    path: Path
    sql: str
    doubts: tuple[str, ...]


def translate_adapter(name: str, to: str) -> list[TranslatedFile]:
    """All SELECTs of the adapter `name` in another dialect, under the names that the adapter reads (`stays.mssql.sql`).

    Raises ForecastError for a dialect that is not known, one that the SELECTs are written in already, and for a SELECT that
    is not understood.
    """
    adapter, folder, to = load_adapter(name), folder_of(name), dialect_of(to)
    plain = [dialect for dialect in adapter.dialects if dialect not in adapter.written_for]
    if to in plain:
        raise ForecastError(f"The SELECTs of {name} are written for {', '.join(plain)}; there is nothing to translate.")
    files = []
    for path in sorted(folder.glob("*.sql")):
        if path.name.count(".") == 1:
            try:
                made = translate(path.read_text(), plain[0], to)
            except ForecastError as error:
                raise ForecastError(f"{path.name} of {name} was not translated. {error}") from None
            files.append(
                TranslatedFile(
                    path.with_name(f"{path.stem}.{to}.sql"), _HEADER.format(path.name, to) + made.sql, made.doubts
                )
            )
    return files


_HEADER = """-- {0} for {1}, written by `icu-forecast source translate`; the comments are in {0}. Run that command again when it
-- changes.
"""
