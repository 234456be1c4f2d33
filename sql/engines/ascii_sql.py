"""A SELECT for PostgreSQL in plain ASCII: what is not is escaped, so that it means the same in every client encoding."""

import re

_TOKEN = re.compile(
    r"""
    (?P<comment>--[^\n]*|/\*.*?\*/)
    |(?P<escaped>\b[eE]'(?:[^'\\]|\\.|'')*')
    |(?P<unicode>\b[uU]&(?:'(?:[^']|'')*'|"(?:[^"]|"")*"))
    |(?P<quoted>'(?:[^']|'')*'|"(?:[^"]|"")*")
    |\$(?P<tag>\w*)\$(?P<dollars>.*?)\$(?P=tag)\$
    |(?P<name>[^\W\d][\w$]*)
    """,
    re.DOTALL | re.VERBOSE,
)


def in_ascii(select: str) -> str:
    """The same SELECT with escapes for characters beyond ASCII. One outside of texts, names and comments is left.

    PostgreSQL 13 or later, with standard_conforming_strings (the default); its server must know the characters.

    >>> print(in_ascii("select 'µg' as größe, E'\\\\tü' -- für später"))
    select U&'\\00b5g' as U&"gr\\00f6\\00dfe", E'\\t\\u00fc' -- f?r sp?ter
    """
    return select if select.isascii() else _TOKEN.sub(_escaped, select)


def _escaped(token: re.Match[str]) -> str:
    said, kind = token[0], token.lastgroup
    if said.isascii():
        return said
    if kind == "comment":
        return said.encode("ascii", "replace").decode()
    if kind == "escaped":
        return _points(said, r"\u{:04x}", r"\U{:08x}")
    if kind == "unicode":
        return _points(said)
    if kind == "quoted":
        return "U&" + _points(said.replace("\\", r"\\"))
    if kind == "dollars":
        return "U&'" + _points(token["dollars"].replace("\\", r"\\").replace("'", "''")) + "'"
    # Without quotes a name counts in lower case.
    return 'U&"' + _points(said.lower()) + '"'


def _points(said: str, short: str = r"\{:04x}", long: str = r"\+{:06x}") -> str:
    return "".join(c if c.isascii() else (short if c <= "\uffff" else long).format(ord(c)) for c in said)
