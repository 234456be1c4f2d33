"""Our SQL that stands in files: read once, with the parts that several files share put in."""

import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_INCLUDE = re.compile(r"^ *-- include (\S+)\n", re.MULTILINE)


@cache
def read_statement(path: str) -> str:
    """The text of `sql/<path>`. A line `-- include parts/<name>.sql` stands for that file of `sql/views/`, so that two
    statements share what they must not differ in."""
    return _INCLUDE.sub(lambda line: (ROOT / "views" / line[1]).read_text(), (ROOT / path).read_text())
