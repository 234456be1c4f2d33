"""One model serves a source at a time; promotions and rollbacks hand over without a gap."""

from concurrent.futures import ThreadPoolExecutor

import builders_sql as b
import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from rnn_core.contracts.errors import ContractError, ForecastError
from sql.published import registry


def stages(engine):
    return {m["model_id"]: m["stage"] for m in registry.list_models(engine)}


def row(model_id, **changes):
    return {
        "model_id": model_id,
        "name": "stay",
        "source": b.SOURCE,
        "data_cutoff": b.NOW,
        "artifact": "a",
        "config": {"units": [64]},
        "metrics": {"auroc": 0.8},
    } | changes


def test_versions_count_up_per_source_and_name(engine):
    with engine.begin() as connection:
        assert registry.register(connection, row("m1")) == 1
        assert registry.register(connection, row("m2")) == 2
        assert registry.register(connection, row("u1", name="unit")) == 1
        assert registry.register(connection, row("o1", source="other")) == 1
    assert [m["model_id"] for m in registry.list_models(engine, b.SOURCE, "stay")] == ["m2", "m1"]
    assert registry.list_models(engine, "other")[0]["metrics"] == {"auroc": 0.8}
    assert stages(engine) == dict.fromkeys(["m1", "m2", "u1", "o1"], "candidate")


def test_registering_the_same_model_again_adds_nothing(engine):
    for _ in range(2):
        with engine.begin() as connection:
            assert registry.register(connection, row("m1")) == 1
    with engine.begin() as connection, pytest.raises(ForecastError, match="another artifact"):
        registry.register(connection, row("m1", artifact="b"))


def test_two_registrations_at_once_get_two_versions(engine):
    def register(model_id):
        with engine.begin() as connection:
            return registry.register(connection, row(model_id))

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(register, ["m1", "m2", "m3", "m4"])) == [1, 2, 3, 4]


def test_columns_that_the_registry_writes_itself_are_refused(engine):
    with engine.begin() as connection:
        with pytest.raises(ContractError, match="stage"):
            registry.register(connection, row("m1", stage="champion"))
        with pytest.raises(ContractError, match="artifact"):
            registry.register(connection, {k: v for k, v in row("m1").items() if k != "artifact"})


def test_nothing_serves_before_a_model_is_given_a_serving_stage(engine):
    b.add_model(engine, "m1", stage="challenger")
    assert registry.serving_model(engine, b.SOURCE, "stay") is None


def test_a_provisional_model_serves_until_a_champion_takes_over(engine):
    b.add_model(engine, "m1", stage="provisional")
    assert registry.serving_model(engine, b.SOURCE, "stay")["model_id"] == "m1"
    b.add_model(engine, "m2", stage=None)
    assert registry.set_stage(engine, "m2", "champion", "better on the hold-out")["model_id"] == "m1"
    serving = registry.serving_model(engine, b.SOURCE, "stay")
    assert (serving["model_id"], serving["stage"]) == ("m2", "champion")
    assert serving["stage_reason"] == "better on the hold-out"
    assert serving["staged_at"] is not None
    assert stages(engine) == {"m1": "retired", "m2": "champion"}
    assert registry.list_models(engine)[1]["stage_reason"] == "replaced by m2: better on the hold-out"


def test_a_provisional_model_can_itself_become_champion(engine):
    b.add_model(engine, "m1", stage="provisional")
    assert registry.set_stage(engine, "m1", "champion", "enough outcomes now") is None
    assert stages(engine) == {"m1": "champion"}


def test_a_newer_provisional_replaces_a_provisional_and_no_champion(engine):
    b.add_model(engine, "m1", stage="provisional")
    b.add_model(engine, "m2", stage="provisional")
    assert stages(engine) == {"m1": "retired", "m2": "provisional"}
    registry.set_stage(engine, "m1", "champion", "r")
    with pytest.raises(ForecastError, match="m1 is champion"):
        registry.set_stage(engine, "m2", "provisional", "r")
    assert stages(engine) == {"m1": "champion", "m2": "retired"}


def test_promoting_the_champion_again_changes_nothing(engine):
    b.add_model(engine, "m1")
    before = registry.serving_model(engine, b.SOURCE, "stay")
    assert registry.set_stage(engine, "m1", "champion", "again") is None
    assert registry.serving_model(engine, b.SOURCE, "stay") == before


def test_models_of_another_source_or_name_are_left_alone(engine):
    b.add_model(engine, "m1")
    b.add_model(engine, "u1", name="unit")
    b.add_model(engine, "o1", source="other")
    b.add_model(engine, "m2")
    assert stages(engine) == {"m1": "retired", "u1": "champion", "o1": "champion", "m2": "champion"}


def test_rollback_goes_back_one_by_one_and_not_forth(engine):
    for model_id in ("m1", "m2", "m3"):
        b.add_model(engine, model_id)
    assert registry.rollback(engine, b.SOURCE, "stay")["model_id"] == "m2"
    assert registry.rollback(engine, b.SOURCE, "stay", "bad too")["model_id"] == "m1"
    assert stages(engine) == {"m1": "champion", "m2": "retired", "m3": "retired"}
    with pytest.raises(ForecastError, match="No stay model served hospital before m1"):
        registry.rollback(engine, b.SOURCE, "stay")
    assert stages(engine) == {"m1": "champion", "m2": "retired", "m3": "retired"}


def test_rollback_passes_over_models_that_never_served(engine):
    b.add_model(engine, "m1")
    b.add_model(engine, "lost", stage="challenger")
    registry.set_stage(engine, "lost", "retired", "not better")
    b.add_model(engine, "m2")
    assert registry.rollback(engine, b.SOURCE, "stay")["model_id"] == "m1"


def test_rollback_to_a_provisional_model_says_provisional_again(engine):
    b.add_model(engine, "m1", stage="provisional")
    b.add_model(engine, "m2")
    back = registry.rollback(engine, b.SOURCE, "stay", "wrong units")
    assert (back["model_id"], back["stage"], back["stage_reason"]) == ("m1", "provisional", "wrong units")
    assert stages(engine)["m2"] == "retired"


def test_an_unknown_model_is_answered_with_those_there_are(engine):
    with pytest.raises(ForecastError, match="'m9'; there are: none yet"):
        registry.set_stage(engine, "m9", "champion", "r")
    b.add_model(engine, "m1")
    b.add_model(engine, "m2")
    with pytest.raises(ForecastError, match="'m9'; there are: m1, m2"):
        registry.set_stage(engine, "m9", "champion", "r")


def test_an_unknown_stage_is_refused(engine):
    b.add_model(engine, "m1")
    with pytest.raises(ContractError, match="'best'"):
        registry.set_stage(engine, "m1", "best", "r")


def test_promotions_at_once_leave_one_champion(engine):
    candidates = [b.add_model(engine, f"m{n}", stage=None) for n in range(6)]
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda model_id: registry.set_stage(engine, model_id, "champion", "race"), candidates))
    assert sorted(stages(engine).values()) == ["champion"] + ["retired"] * 5


def test_the_database_itself_refuses_a_second_serving_model(engine):
    b.add_model(engine, "m1")
    b.add_model(engine, "m2", stage=None)
    with pytest.raises(IntegrityError, match="ix_model_one_serving"), engine.begin() as connection:
        connection.execute(text("update forecast.model set stage = 'provisional' where model_id = 'm2'"))
