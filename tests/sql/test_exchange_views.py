"""Views in the forms of others: CLIF 3.0 tables, FHIR resources; checked with those who define them where they are there."""

import json
from datetime import date, datetime
from importlib.util import find_spec
from pathlib import Path

import builders_sql as b
import pandas as pd
import pytest
import yaml
from builders_sql import NOW, hours
from sqlalchemy import insert, text, update

from sql.store.schema import batch, model, trial

NUMBERS = ("discharge_24h_prob", "discharge_48h_prob", "discharge_72h_prob", "mortality_risk", "prolonged_stay_risk")


@pytest.fixture
def champion(engine):
    return b.add_model(engine, "m1")


def scores(engine):
    return b.tuples(engine, "select * from clif.scores order by recorded_dttm, hospitalization_id, model_id")


def registry(engine):
    return b.rows(engine, "select * from clif.model_registry order by model_id")


def documents(engine) -> dict[str, dict]:
    """The resources by stay."""
    return {r["stay_id"]: r["resource"] for r in b.rows(engine, "select * from forecast.fhir_risk_assessment")}


def read_by(engine, adapter: str) -> None:
    b.add_batch(engine)
    with engine.begin() as connection:
        connection.execute(update(batch).values(adapter=adapter))


# -------------------------------------------------------------------------------- clif


def test_every_published_number_is_a_score_of_a_model_of_its_own_that_the_registry_names(engine, champion):
    b.add_stay(engine, "s1-2")
    b.add_forecasts(engine, {"s1-2": 0.5, "s2": None}, model_id=champion)
    assert scores(engine) == [
        (f"m1/{number}", "s1-2", NOW, value)
        for number, value in zip(NUMBERS, (0.25, 0.5, 0.625, 0.5, 0.2), strict=True)
    ]
    assert [row["model_id"] for row in registry(engine)] == [f"m1/{number}" for number in NUMBERS]
    read_by(engine, "clif")
    assert {row.hospitalization_id for row in scores(engine)} == {"s1"}, "the number of the ICU stay is ours"


def test_scores_are_those_that_readers_saw(engine, champion):
    b.add_forecasts(engine, {"s1": 0.5}, model_id=champion)
    b.add_forecasts(engine, {"s1": 0.4}, model_id=champion, as_of=NOW - hours(1), kind="backfill")
    b.add_model(engine, "m2", stage="challenger")
    b.add_forecasts(engine, {"s1": 0.9}, model_id="m2", role="shadow", as_of=NOW + hours(1))
    assert {(row.model_id.split("/")[0], row.recorded_dttm) for row in scores(engine)} == {("m1", NOW)}


def test_a_model_is_live_while_it_serves_and_no_trial_is_open(engine):
    b.add_model(engine, "m1")
    b.add_model(engine, "m2")
    b.add_model(engine, "m3", stage="candidate")
    b.add_model(engine, "unit", name="unit")
    with engine.begin() as connection:
        connection.execute(update(model).where(model.c.model_id == "m2").values(served_at=NOW))
    found = [row for row in registry(engine) if row["model_id"].endswith("/mortality_risk")]
    assert [(row["model_id"][:2], row["model_version"], row["is_live"]) for row in found] == [
        ("m1", "1", 0),
        ("m2", "2", 1),
        ("m3", "3", 0),
    ]
    assert [row["release_date"] for row in found][1:] == [date(2031, 5, 10), None]
    assert {row["model_category"] for row in found} == {"icu_forecast_mortality_risk"}
    with engine.begin() as connection:
        connection.execute(insert(trial).values(source=b.SOURCE, started_at=NOW, ends_at=NOW + hours(9)))
    assert {row["is_live"] for row in registry(engine)} == {0}


_TYPES = {str: "VARCHAR", float: "DOUBLE", datetime: "DATETIME", date: "DATE", int: "INT"}


@pytest.mark.skipif(find_spec("clifpy") is None, reason="clifpy is not installed: its schemas are not there")
@pytest.mark.parametrize("table", ["scores", "model_registry"])
def test_the_clif_views_have_the_columns_and_types_of_clifpys_schema(engine, champion, table):
    b.add_stay(engine, "s1")
    b.add_forecasts(engine, {"s1": 0.5}, model_id=champion)
    folder = Path(find_spec("clifpy").submodule_search_locations[0])
    schema = yaml.safe_load((folder / "schemas" / "3.0" / f"{table}_schema.yaml").read_text())
    row = b.rows(engine, f"select * from clif.{table}")[0]
    assert [(name, _TYPES[type(value)]) for name, value in row.items()] == [
        (column["name"], column["data_type"]) for column in schema["columns"]
    ]
    assert schema["required_columns"] == [c["name"] for c in schema["columns"] if c["required"]]


# A soak: the import takes 5 s.
@pytest.mark.soak
def test_the_clif_views_pass_clifpys_own_checks(engine, champion):
    validator = pytest.importorskip("clifpy.utils.validator", reason="clifpy is not installed with its dependencies")
    b.add_stay(engine, "s1")
    b.add_forecasts(engine, {"s1": 0.5}, model_id=champion)

    def faults(table: str, frame: pd.DataFrame) -> list[str]:
        schema = validator._load_schema(table, clif_version="3.0")
        checks = ("check_required_columns", "check_column_dtypes", "check_datetime_format")
        done = {name: getattr(validator, name)(frame, schema, table) for name in checks}
        return [name for name, check in done.items() if check.errors or check.warnings]

    found = {
        table: pd.DataFrame(b.rows(engine, f"select * from clif.{table}")) for table in ("scores", "model_registry")
    }
    assert {table: faults(table, frame) for table, frame in found.items()} == {"scores": [], "model_registry": []}
    assert faults("scores", found["scores"].assign(score_value="high")) == ["check_column_dtypes"]
    assert faults("scores", found["scores"].drop(columns="recorded_dttm")) == ["check_required_columns"]
    scored, known = (set(frame["model_id"]) for frame in found.values())
    assert scored == known


# -------------------------------------------------------------------------------- FHIR


def test_a_current_forecast_is_a_fhir_document_with_its_drivers(engine, champion):
    b.add_stay(engine, "s1", intime=NOW - hours(30))
    run_id = b.add_forecasts(engine, {"s1": 0.5}, model_id=champion)
    with engine.begin() as connection:
        connection.execute(
            text(
                "insert into forecast.stay_forecast_driver values"
                " ('m1', :source, :at, 's1', 1, :run_id, 'lactate', 'raises', 0.4, 4.25, 'mmol/L', :at),"
                " ('m1', :source, :at, 's1', 2, :run_id, 'sex', 'lowers', -0.1, null, null, null)"
            ),
            {"source": b.SOURCE, "at": NOW, "run_id": run_id},
        )
    (found,) = documents(engine).values()
    death, prolonged, *leaving = found.pop("prediction")
    by = {"display": b.SOURCE}
    assert len(found.pop("id")) == 32
    assert found == {
        "resourceType": "RiskAssessment",
        "identifier": [{"value": "m1/s1/2031-05-10T12:00:00Z", "assigner": by}],
        "status": "final",
        "method": {"coding": [{"code": "m1"}], "text": "icu-forecast"},
        "subject": {"type": "Patient", "identifier": {"value": "p-s1", "assigner": by}},
        "encounter": {"type": "Encounter", "identifier": {"value": "s1", "assigner": by}},
        "occurrenceDateTime": "2031-05-10T12:00:00Z",
    }
    assert death == {
        "outcome": {"coding": [{"code": "mortality_risk"}], "text": "Dies in this stay"},
        "probabilityDecimal": 50.0,
        "qualitativeRisk": {"text": "high"},
        "whenPeriod": {"start": "2031-05-10T12:00:00Z"},
        "rationale": "What the risk depends on, not its causes: lactate 4.25 mmol/L raises it; sex lowers it",
    }
    assert (prolonged["probabilityDecimal"], prolonged["whenPeriod"]) == (20.0, {"start": "2031-05-16T06:00:00Z"})
    assert [(p["outcome"]["text"], p["probabilityDecimal"], p["whenPeriod"]["end"]) for p in leaving] == [
        ("Leaves alive within 24 hours", 25.0, "2031-05-11T12:00:00Z"),
        ("Leaves alive within 48 hours", 50.0, "2031-05-12T12:00:00Z"),
        ("Leaves alive within 72 hours", 62.5, "2031-05-13T12:00:00Z"),
    ]


@pytest.fixture
def uncertain(engine) -> dict[str, dict]:
    """Documents of a provisional model: a forecast, an abstention, and a stay scored without a risk of death."""
    for stay_id in ("s1", "s2", "s3"):
        b.add_stay(engine, stay_id)
    b.add_model(engine, "m1", stage="provisional")
    reasons = {"status": ["scored", "abstained", "scored"], "status_reason": [None, "too_early", "outcome_not_learned"]}
    numbers = {name: [0.25, None, 0.25] for name in NUMBERS if name != "mortality_risk"}
    b.add_forecasts(engine, {"s1": 0.5, "s2": None, "s3": None}, model_id="m1", **reasons, **numbers)
    return documents(engine)


def test_a_fhir_document_says_what_is_provisional_abstained_or_without_a_risk(uncertain):
    provisional = "Provisional: there were too few outcomes to judge the model when it published."
    assert {stay: ([n["text"] for n in d["note"]], d["status"]) for stay, d in uncertain.items()} == {
        "s1": ([provisional], "preliminary"),
        "s2": (["No forecast: too_early.", provisional], "cancelled"),
        "s3": (["No risk of death: outcome_not_learned.", provisional], "preliminary"),
    }
    assert "prediction" not in uncertain["s2"] and "null" not in json.dumps(uncertain)
    left = uncertain["s3"]["prediction"]
    assert [p["outcome"]["coding"][0]["code"] for p in left] == ["prolonged_stay_risk", *NUMBERS[:3]]
    assert left[1]["outcome"]["text"] == "Leaves within 24 hours, alive or not"


def test_fhir_resources_reads_the_documents_as_r4_and_as_r5(uncertain):
    reason = "fhir.resources is not installed"
    r5 = pytest.importorskip("fhir.resources.riskassessment", reason=reason).RiskAssessment
    r4 = pytest.importorskip("fhir.resources.R4B.riskassessment", reason=reason).RiskAssessment
    for document in uncertain.values():
        for release in (r4, r5):
            assert json.loads(release.model_validate(document).model_dump_json()) == document
