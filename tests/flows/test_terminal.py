"""What the terminal shows of odd values: each as it is, none as markup, and JSON that every reader takes."""

import json
import math
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest

from flows.runtime.terminal import print_counts, print_done, print_rows

ODD = ["[degF]", "ICU:100:7", "80 [/chair]", "[bold]loud", "[link=http://x]y[/link]", "\\[x]", ":smile:"]


def test_a_cell_is_shown_as_it_is_and_never_read_as_markup(capsys):
    print_rows([{"[unit]": value, ":x:": value} for value in ODD], title="80 [/chair] of :100:")
    shown = capsys.readouterr().out
    assert "80 [/chair] of :100:" in shown and "[unit]" in shown and ":x:" in shown
    for value in ODD:
        assert shown.count(value) >= 2


def test_control_characters_do_not_reach_the_terminal(capsys):
    print_rows([{"value": "\x1b[2Jgone\rback\nbelow\x00"}])
    assert r"\x1b[2Jgone\rback\nbelow\x00" in capsys.readouterr().out
    print_counts({"unit": "\x1b]0;title\x07"})
    assert capsys.readouterr().out == "unit  \\x1b]0;title\\x07\n"


@pytest.mark.parametrize("missing", [None, math.nan, math.inf, np.float32("nan"), pd.NaT, pd.NA])
def test_what_is_no_number_is_null_in_json_and_empty_in_a_table(capsys, missing):
    facts = {"value": missing, "parts": {"of": [missing, 1.5, np.int64(2)]}}
    print_rows([facts], as_json=True)
    print_counts(facts, as_json=True)
    print_done("done", facts, as_json=True)
    rows, counts, done = (json.loads(line, parse_constant=pytest.fail) for line in capsys.readouterr().out.splitlines())
    assert rows == [counts] and counts == done == {"value": None, "parts": {"of": [None, 1.5, 2]}}
    print_counts({"value": missing, "at": datetime(2026, 1, 2, 3, 4, tzinfo=UTC)})
    assert capsys.readouterr().out == "value  \nat     2026-01-02 03:04\n"
