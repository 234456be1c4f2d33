import math

import pytest
from builders_source import FOLDER, concept_map

from rnn_core.contracts.concepts import BY_NAME
from rnn_core.contracts.errors import ContractError
from sql.intake.adapter import Beds, _read_beds, adapter_names, load_adapter

COLUMNS = ["variable", "unit", "concept", "scale", "offset"]


@pytest.fixture(params=adapter_names())
def source(request):
    return request.param


def test_the_databases_that_teams_have_are_there():
    wanted = {"clif", "eicu", "mimic_iii", "mimic_iv", "omop", "physionet_2012", "site"}
    assert wanted <= set(adapter_names())


def test_a_folder_holds_all_that_a_source_is(source):
    adapter = load_adapter(source)
    assert adapter.title and adapter.licence and adapter.availability
    readme = (FOLDER / source / "README.md").read_text()
    for heading in ("What is a stay", "What is known when", "Indices"):
        assert f"\n## {heading}\n" in readme
    for select in adapter.selects().values():
        assert select.startswith("-- ") and "Grain: " in select.split("with ")[0].split("select")[0]
        words = select.lower().split()
        assert not {"insert", "update", "delete", "create", "drop", "alter"} & set(words)


def test_every_line_of_a_concept_map_names_a_concept_and_finite_numbers_or_nothing(source):
    for line in concept_map(source):
        assert list(line)[:5] == COLUMNS and set(line) - {"label", "delay_hours"} == set(COLUMNS)
        assert line["variable"] and line["unit"]
        if line["concept"]:
            assert line["concept"] in BY_NAME, line
            assert math.isfinite(float(line["scale"])) and float(line["scale"]) != 0
            assert math.isfinite(float(line["offset"]))
        else:
            assert line["scale"] == line["offset"] == ""


def test_no_variable_and_unit_is_mapped_twice(source):
    keys = [(line["variable"], line["unit"]) for line in concept_map(source)]
    assert len(keys) == len(set(keys))


def test_beds_are_a_number_null_or_a_number_with_the_staffed_ones():
    given = {"ICU1": 12, "ICU2": None, "ICU3": {"beds": 8, "staffed": 6}, "ICU4": {"beds": None, "staffed": 2}, 5: 0}
    assert _read_beds("ward", given) == {
        "ICU1": Beds(12),
        "ICU2": Beds(None),
        "ICU3": Beds(8, 6),
        "ICU4": Beds(None, 2),
        "5": Beds(0),
    }


@pytest.mark.parametrize("wrong", [-1, 1.5, True, "12", [12], {"beds": 8, "staffed": 9}, {"staff": 3, "beds": 8}])
def test_beds_that_cannot_be_name_their_unit(wrong):
    with pytest.raises(ContractError, match=r"ward/source.yaml: the beds of ICU2 must be a whole number, null, or"):
        _read_beds("ward", {"ICU1": 1, "ICU2": wrong})
