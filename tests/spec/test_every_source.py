"""The spec suite: the same hospital in every source's own schema gives the same stays, observations, windows, forecasts."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from importlib import import_module

import hospital
import numpy as np
import pytest
from builders_source import check_slices_are_one_pass
from sqlalchemy import text

from flows.jobs.ingest import ingest
from rnn_core.contracts.config import WindowConfig
from rnn_core.contracts.frames import Observations
from rnn_core.contracts.known import Known
from rnn_core.series.grid import make_grid
from rnn_core.series.scaling import fit_scaler, static_features
from rnn_core.series.windows import make_windows
from sql.intake.adapter import adapter_names, load_adapter
from sql.published import canonical
from sql.store.engine import open_engine

# All three stays lie in the unit, and some laboratory values are not known yet.
DURING = hospital.BEGIN + timedelta(hours=36)
AFTER = hospital.BEGIN + timedelta(days=40)
BEGIN_OF_1900 = datetime(1900, 1, 2, 8, tzinfo=UTC)
# Those that keep one time per value, and take it for both.
WITHOUT_DELAYS = {"physionet_2012"}
# It keeps a length of stay, not an end: -1 means that it is not known.
WITHOUT_ENDS = {"physionet_2012"}
PAIRS = [
    pytest.param(source, dialect, id=f"{source}-{dialect}")
    for source in adapter_names()
    for dialect in load_adapter(source).dialects
]
# Each takes a source over once more: other engines than PostgreSQL read the same SELECTs, in the soak.
FAULTY = [
    pytest.param(*pair.values, id=pair.id, marks=() if pair.values[1] == "postgresql" else pytest.mark.soak)
    for pair in PAIRS
    if pair.values[0] not in WITHOUT_ENDS
]


@pytest.fixture(scope="module")
def store(make_database, tmp_path_factory):
    """Our database, in which every source is taken over under its own name."""
    from flows.runtime.databases import open_store
    from flows.runtime.settings import load_settings

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ICU_HOME", str(tmp_path_factory.mktemp("spec")))
        patch.setenv("ICU_DATABASE_URL", make_database("spec_store").render_as_string(hide_password=False))
        load_settings.cache_clear()
        yield open_store()
    load_settings.cache_clear()


@pytest.fixture(scope="module")
def build_and_ingest(request, store, make_database, tmp_path_factory):
    """A function that builds the hospital for a source and a dialect and ingests it under a name; it returns the stay ids,
    and the source's engine and adapter."""

    def build(source: str, dialect: str, name: str):
        from flows.runtime.settings import load_settings

        if dialect == "postgresql":
            url = make_database(f"spec_{source}").render_as_string(hide_password=False)
        elif dialect == "mysql":
            url = request.getfixturevalue("mariadb").make_database(f"spec_{name}")
        else:
            url = f"{dialect}:///{tmp_path_factory.mktemp(source) / 'hospital.db'}"
        engine = open_engine(url)
        names = import_module(f"hospital.{source}").build(engine)
        engine.dispose()
        adapter = load_adapter(source).on(engine)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(f"ICU_SOURCES__{name.upper()}__URL", url)
            patch.setenv(f"ICU_SOURCES__{name.upper()}__ADAPTER", source)
            load_settings.cache_clear()
            ingest.fn(name, AFTER)
        load_settings.cache_clear()
        return names, (open_engine(url), adapter)

    return build


@pytest.fixture(scope="module")
def take_over(build_and_ingest):
    """A function that builds and ingests the hospital for a source and a dialect once, and names source and stays."""
    taken: dict[tuple[str, str], tuple[str, dict[str, str]]] = {}

    def take(source: str, dialect: str) -> tuple[str, dict[str, str]]:
        if (source, dialect) not in taken:
            name = f"{source}_on_{dialect}"
            names, take.places[source, dialect] = build_and_ingest(source, dialect, name)
            taken[source, dialect] = name, names
        return taken[source, dialect]

    take.places = {}
    return take


def known(store, name, names, as_of) -> Known:
    """What the canonical tables tell as of a time, the stays in the hospital's order and under its names."""
    found = canonical.read_known(store, name, as_of)
    by_id = {stay_id: n for n, stay_id in names.items()}
    stays = found.stays.assign(stay_id=found.stays["stay_id"].map(by_id), patient_id="", source="")
    return replace(found, stays=stays)


def as_rows(observations: Observations) -> list[tuple]:
    columns = (observations.stay, observations.concept, observations.observed_at, observations.available_at)
    return sorted(zip(*(column.tolist() for column in columns), observations.value.tolist(), strict=True))


@pytest.mark.parametrize(("source", "dialect"), PAIRS)
def test_stays_are_those_of_the_hospital(store, take_over, source, dialect):
    found = known(store, *take_over(source, dialect), AFTER).stays.set_index("stay_id")
    assert len(found) == len(hospital.STAYS)
    for stay in hospital.STAYS:
        row = found.loc[stay.name]
        assert row["intime"] == stay.intime.replace(tzinfo=None)
        assert row["outtime"] == stay.outtime.replace(tzinfo=None)
        assert (row["outcome"], row["unit_type"]) == ("died" if stay.died else "alive", stay.unit_type)
        assert (row["age_years"], row["sex"]) == (stay.age, stay.sex)


@pytest.mark.parametrize("as_of", [DURING, AFTER], ids=["during", "after"])
@pytest.mark.parametrize(("source", "dialect"), PAIRS)
def test_observations_are_known_when_the_hospital_knew_them_in_the_units_of_the_concepts(
    store, take_over, source, dialect, as_of
):
    _, wanted = hospital.expected(as_of, source not in WITHOUT_DELAYS)
    found = as_rows(known(store, *take_over(source, dialect), as_of).observations)
    assert [row[:4] for row in found] == [row[:4] for row in as_rows(wanted)]
    assert [row[4] for row in found] == pytest.approx([row[4] for row in as_rows(wanted)], rel=1e-9)


@pytest.mark.parametrize(("source", "dialect"), FAULTY)
def test_stays_with_impossible_times_are_not_present_and_change_no_other(
    store, build_and_ingest, monkeypatch, source, dialect
):
    """A stay that ends before it begins, and one that begins in 1900 in the dates of the source (MIMIC's are moved back by
    200 years): forecast and census agree on them, and the other stays are there as before."""
    alive, dead = (hospital.Stay(n, "medical", 8, -2, n == "8", 66, "male") for n in "78")
    since_1900 = (BEGIN_OF_1900 - hospital.BEGIN) / timedelta(hours=1) + 24 * load_adapter(source).shift_days
    ancient = hospital.Stay("9", "medical", since_1900, 50_000, False, 66, "male")
    monkeypatch.setattr(import_module(f"hospital.{source}"), "STAYS", (*hospital.STAYS, alive, dead, ancient))
    name = f"impossible_in_{source}_on_{dialect}"
    ids, _ = build_and_ingest(source, dialect, name)
    names = {stay_id: name for name, stay_id in ids.items()}
    for as_of, wanted in ((DURING, {"1", "2", "3"}), (AFTER, set())):
        found = canonical.read_stays(store, name, as_of, only_open=True)["stay_id"]
        assert set(found.map(names)) == wanted
    quarantined = (
        "select distinct check_name, row ->> 'stay_id' from quality.quarantine where relation = 'stay' and source = :s"
        " and row ->> 'stay_id' = :ancient"
    )
    audit = "select fault from quality.stay_audit where source = :s and stay_id = :ancient"
    of_ancient = {"s": name, "ancient": ids["9"]}
    with store.connect() as connection:
        query = "select stay_id, outtime is null and outcome is null from icu.stay where source = :source"
        now = {names[stay_id]: is_open for stay_id, is_open in connection.execute(text(query), {"source": name})}
        assert connection.execute(text(quarantined), of_ancient).all() == [("begins_before_first_day", ids["9"])]
        assert connection.execute(text(audit), of_ancient).all() == [("impossible_begin",)]
    assert set("123") <= set(now) and not any(now.values())


@pytest.mark.parametrize("which", ["stays", "observations"])
@pytest.mark.parametrize(
    ("source", "dialect"),
    # tests/sql/test_source_meds.py cuts at fewer places, in a tenth of the time.
    [pytest.param(*p.values, id=p.id, marks=pytest.mark.soak if p.values[0] == "meds" else ()) for p in PAIRS],
)
def test_slices_are_one_pass(take_over, source, dialect, which):
    """What a read gives depends on its bounds in nothing else than where they cut."""
    take_over(source, dialect)
    edges = [hospital.BEGIN + timedelta(hours=hours) for hours in (-1, 0, 1, 3, 3.5, 6, 13, 30, 36, 72, 96, 101, 120)]
    check_slices_are_one_pass(*take_over.places[source, dialect], which, edges)


@pytest.mark.parametrize(("source", "dialect"), PAIRS)
def test_the_bad_rows_are_quarantined_with_the_right_reason(store, take_over, source, dialect):
    name, _ = take_over(source, dialect)
    query = "select check_name from quality.quarantine where source = :source and disposition = 'rejected' order by 1"
    with store.connect() as connection:
        found = list(connection.execute(text(query), {"source": name}).scalars())
    assert found == ["implausible_value", "text_in_a_number"]


def test_a_plan_of_the_template_is_known_as_it_was_entered(store, take_over):
    name, ids = take_over("site", "postgresql")
    query = (
        "select planned_id, unit, kind, expected_at, probability, status, stay_id from icu.planned_at(:as_of)"
        " where source = :source order by 1"
    )
    at = hospital.BEGIN + timedelta(hours=48)
    discharge = ("2", "ICU1", "discharge", at, 1.0, "planned", ids["1"])
    with store.connect() as connection:
        for as_of, status in ((DURING, "planned"), (AFTER, "cancelled")):
            found = connection.execute(text(query), {"source": name, "as_of": as_of}).all()
            assert found == [("1", "ICU1", "admission", at, 0.8, status, None), discharge]
        plans = canonical.read_units(store, name, DURING).plans
        assert plans[["planned_id", "kind", "status"]].to_numpy().tolist() == [
            ["1", "admission", "planned"],
            ["2", "discharge", "planned"],
        ]
        beds = "select unit, beds from icu.unit_at(:as_of) where source = :source order by 1"
        found = connection.execute(text(beds), {"source": name, "as_of": DURING}).all()
    assert found == [("ICU1", 12), ("ICU2", 8), ("ICU3", None)]


def test_the_beds_of_a_replay_are_those_of_its_table(store, take_over):
    name, _ = take_over("replay", "postgresql")
    beds = "select unit, beds, staffed_beds from icu.unit_at(:as_of) where source = :source"
    with store.connect() as connection:
        found = connection.execute(text(beds), {"source": name, "as_of": DURING}).all()
    assert found == [("Unit 1", 3, None)]


def windows_of(stays, observations):
    during = np.datetime64(DURING.replace(tzinfo=None), "us")
    grid = make_grid(stays, observations, during)
    return make_windows(grid, stays, fit_scaler(grid, static_features(stays), np.arange(len(stays))), WindowConfig())


@pytest.mark.parametrize(("source", "dialect"), PAIRS)
def test_windows_are_those_of_the_hospital(store, take_over, source, dialect):
    """Value for value; what a source cannot know (admission type) is unknown in all."""
    stays, observations = hospital.expected(DURING, source not in WITHOUT_DELAYS)
    found = known(store, *take_over(source, dialect), DURING)
    wanted, made = windows_of(stays, observations), windows_of(found.stays, found.observations)
    np.testing.assert_allclose(made.channels, wanted.channels, atol=1e-6)
    np.testing.assert_allclose(made.static, wanted.static, atol=1e-6)
    np.testing.assert_array_equal(made.score_from, wanted.score_from)


@pytest.mark.parametrize(("source", "dialect"), PAIRS)
def test_forecasts_are_those_of_the_hospital(store, take_over, trained_forecaster, source, dialect):
    from rnn_core.forecasters.stay import forecast_stays

    found = known(store, *take_over(source, dialect), DURING)
    stays, observations = hospital.expected(DURING, source not in WITHOUT_DELAYS)
    # A model is refused where stays end at something else; what is compared here is the reading alone.
    made, wanted = (
        forecast_stays(trained_forecaster, replace(k, stays=k.stays.assign(ends_at=trained_forecaster.ends_at))).numbers
        for k in (found, Known(stays, observations, found.as_of))
    )
    assert made["status"].tolist() == wanted["status"].tolist() and "scored" in set(made["status"])
    assert made["stay_id"].tolist() == wanted["stay_id"].tolist()
    for column in ("mortality_risk", "prolonged_stay_risk", "remaining_los_p50_hours", "discharge_24h_prob"):
        np.testing.assert_allclose(made[column].astype(float), wanted[column].astype(float), rtol=1e-4)
