"""What is stored as JSON comes back as it was, also from artifacts of earlier versions; what does not fit is refused."""

import json
from dataclasses import replace
from math import inf

import pytest

from rnn_core.contracts.config import ModelConfig, NetworkConfig, Sampling, UnitConfig
from rnn_core.contracts.errors import ContractError

STORED = [
    replace(ModelConfig(), network=NetworkConfig(units=(8, 6), horizon_edges=(0, 6.5), l1=0.1)),
    UnitConfig(units=(3,), dropout=0.2),
    Sampling(),
    Sampling(delayed_entry_hours=4.0, data_hours=48.0),
]


def through_json(data):
    return json.loads(json.dumps(data, allow_nan=False))


@pytest.mark.parametrize("stored", STORED, ids=lambda stored: type(stored).__name__)
def test_what_is_stored_comes_back_with_its_tuples_and_infinities(stored):
    again = type(stored).from_json(through_json(stored.to_json()))
    assert again == stored and hash(again) == hash(stored)


def test_no_limit_is_null_in_json():
    assert Sampling().to_json() == {"delayed_entry_hours": 0.0, "data_hours": None}
    assert Sampling.from_json({"delayed_entry_hours": 1.0, "data_hours": None}).data_hours == inf


def test_the_config_of_an_earlier_version_has_the_defaults_of_what_it_lacks():
    saved = through_json(ModelConfig().to_json())
    del saved["network"]["longest_hours"], saved["train"]["mixed_precision"]
    assert ModelConfig.from_json(saved) == ModelConfig()


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"colour": 1}, r"network\.colour \(unexpected keyword argument\)"),
        ({"cell": "transformer"}, r"network\.cell \(input should be 'elman', 'jordan', 'lstm' or 'gru'\)"),
        ({"units": ["many"]}, r"network\.units\.0 "),
    ],
)
def test_what_does_not_fit_is_refused_with_its_name(change, found):
    saved = through_json(ModelConfig().to_json())
    saved["network"] |= change
    with pytest.raises(ContractError, match=rf"A saved ModelConfig does not fit .*{found}.*train again"):
        ModelConfig.from_json(saved)
