"""The options of a training: one for each field of the configs, checked before anything is read."""

from dataclasses import fields, is_dataclass

import pytest

from rnn_core.contracts.config import ModelConfig, NetworkConfig, TrainConfig
from rnn_core.contracts.errors import ContractError
from rnn_core.contracts.options import TrainingConfig, configure, read_options, settings, write_options

# Set by the data, by the task, or through another field.
DERIVED = {"head", "n_channels", "n_concepts", "n_static", "longest_hours"}
DERIVED_PATHS = {("model", "network", "cell"), ("unit", "seed"), ("arrivals", "seed")}


def leaves(config, path=()):
    for field in fields(config):
        value = getattr(config, field.name)
        yield from leaves(value, (*path, field.name)) if is_dataclass(value) else [(*path, field.name)]


def test_every_field_of_the_configs_is_an_option_or_derived():
    fields_ = [path for path in leaves(TrainingConfig()) if path[-1] not in DERIVED and path not in DERIVED_PATHS]
    assert [one.path for one in settings().values()] == fields_


def test_without_options_the_configs_are_the_defaults():
    assert configure({}) == TrainingConfig() and configure({"epochs": None}).model == ModelConfig(forecaster="blend")


def test_text_of_the_command_line_and_values_of_a_file_give_the_same(tmp_path):
    file = tmp_path / "wide.yaml"
    file.write_text("layers: [64, 32]\nlearning_rate: 1.0e-3\nwide: false\ncell: [lstm, gru]\nunit-layers: 16\n")
    text = {"layers": "64, 32", "learning-rate": "0.001", "wide": "false", "cell": "lstm,gru", "unit-layers": "16"}
    assert configure(read_options(file)) == configure(text)
    config = configure(text)
    assert (config.model.network.units, config.unit.units) == ((64, 32), (16,))
    assert (config.model.network.cell, config.model.train.cells) == ("lstm", ("lstm", "gru"))


def test_one_cell_is_that_of_the_network_and_epochs_limit_the_trees_unless_they_are_chosen():
    assert configure({"cell": "gru"}).model == ModelConfig("blend", network=NetworkConfig(cell="gru"))
    assert configure({"epochs": 3}).model.trees.trees == 3
    assert configure({"epochs": 3, "trees": 50}).model.trees.trees == 50
    assert configure({"seed": 7}).unit.seed == configure({"seed": 7}).arrivals.seed == 7


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {"learning-rat": 1},
            r"no option learning-rat \(did you mean learning-rate\?\); known are alert-budget, arrivals",
        ),
        ({"learning-rate": "fast"}, "learning-rate should be a valid number.*found 'fast'"),
        ({"learning-rate": 0}, "learning-rate should be greater than 0; found 0"),
        ({"cell": "lstm,foo"}, "cell is one of elman, jordan, lstm, gru; found 'lstm,foo'"),
        ({"forecaster": "oracle"}, "forecaster is one of recurrent, trees, logistic, blend"),
        ({"layers": "64,0"}, "layers should be greater than or equal to 1"),
        ({"layers": ""}, "layers should be a valid integer"),
        ({"dropout": 1}, "dropout should be less than 1"),
        ({"epochs": True}, "epochs should be a valid integer.*found True"),
        ({"wide": "perhaps"}, "wide should be a valid boolean"),
        ({"members": 1}, "at least 2 members, not 1"),
        ({"horizon": "0,24,48"}, "reaches at least 168 hours; found 0,24,48"),
        ({"horizon": "6,24,240"}, "horizon begins at 0"),
        ({"concepts": "lactat"}, "found lactat"),
        ({"first-hour": 10_000}, "first-hour is before last-hour"),
        ({"alert-budget": "0.1,0.2,0.3"}, "alert-budget falls"),
        ({"blend": "trees"}, "two or more kinds"),
    ],
    ids=lambda value: "" if isinstance(value, str) else next(iter(value)),
)
def test_what_is_not_allowed_is_named_with_what_is(options, sentence):
    with pytest.raises(ContractError, match=sentence):
        configure(options)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("layers: [64", "line 1: this is no YAML"),
        ("- 64", "names of options and their values"),
        (None, "cannot be read"),
    ],
)
def test_a_file_that_holds_no_options_is_refused_with_a_sentence(tmp_path, text, sentence):
    file = tmp_path / "options.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ContractError, match=sentence):
        read_options(file)


def test_options_that_were_written_are_read_again(tmp_path):
    chosen = {"layers": (64, 32), "learning-rate": 1e-5, "cell": ("gru",), "wide": False}
    file = tmp_path / "best.yaml"
    file.write_text(write_options(chosen))
    assert configure(read_options(file)) == configure(chosen)
    assert configure(chosen).model.train == TrainConfig(learning_rate=1e-5)
