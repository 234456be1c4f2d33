"""The examples in docstrings run and give what they show."""

import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for floor in ("rnn_core", "sql", "flows")
    for path in sorted((ROOT / floor).rglob("*.py"))
    if ">>> " in path.read_text()
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_of_a_module_give_what_they_show(name):
    failed, tried = doctest.testmod(importlib.import_module(name))
    assert tried and not failed
