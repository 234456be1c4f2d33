"""The spec suite: the same hospital in every source's own schema gives the same stays, observations and windows."""

import importlib.util
from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sqlalchemy import text

from flows.ingest import ingest
from rnn_core.config import WindowConfig
from rnn_core.grid import make_grid
from rnn_core.scaling import fit_scaler, static_features
from rnn_core.windows import make_windows
from sql import canonical
from sql.adapter import adapter_names
from sql.engine import open_engine

_spec = importlib.util.spec_from_file_location("hospital", Path(__file__).parent / "hospital.py")
hospital = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(hospital)

AS_OF = hospital.BEGIN + timedelta(days=40)


@pytest.fixture(scope="module")
def stores(make_database, tmp_path_factory):
    """Per source: our database after the ingest of the hospital, and stay_id by name."""
    from flows.databases import open_store
    from flows.settings import load_settings

    made = {}
    for source, build in hospital.SOURCES.items():
        url = make_database(f"spec_{source}")
        names = build(open_engine(url))
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("ICU_HOME", str(tmp_path_factory.mktemp(source)))
            patch.setenv("ICU_DATABASE_URL", make_database("spec_store").render_as_string(hide_password=False))
            patch.setenv(f"ICU_SOURCES__{source.upper()}__URL", url.render_as_string(hide_password=False))
            load_settings.cache_clear()
            ingest.fn(source, AS_OF)
            made[source] = open_store(), names
    load_settings.cache_clear()
    return made


def stays_of(store, source, names) -> pd.DataFrame:
    frame = canonical.read_stays(store, source, AS_OF)
    by_id = {stay_id: name for name, stay_id in names.items()}
    return frame.assign(stay_id=frame["stay_id"].map(by_id), patient_id="", source="")


def test_every_adapter_is_in_the_suite():
    assert set(hospital.SOURCES) == set(adapter_names())


@pytest.mark.parametrize("source", hospital.SOURCES)
def test_stays_are_those_of_the_hospital(stores, source):
    store, names = stores[source]
    found = stays_of(store, source, names).set_index("stay_id")
    for stay in hospital.STAYS:
        row = found.loc[stay.name]
        assert row["intime"] == stay.intime.replace(tzinfo=None)
        assert row["outtime"] == stay.outtime.replace(tzinfo=None)
        assert (row["outcome"], row["unit_type"]) == ("died" if stay.died else "alive", stay.unit_type)
        assert (row["age_years"], row["sex"]) == (stay.age, stay.sex)


@pytest.mark.parametrize("source", hospital.SOURCES)
def test_observations_are_those_of_the_hospital_in_the_units_of_the_concepts(stores, source):
    store, names = stores[source]
    begins = {stay.name: stay.intime for stay in hospital.STAYS}
    wanted = {(names[c.stay], c.concept, begins[c.stay] + timedelta(hours=c.hour)): c.value for c in hospital.CHARTED}
    with store.connect() as connection:
        rows = connection.execute(text("select stay_id, concept, observed_at, value from icu.observation")).all()
    found = {(row.stay_id, row.concept, row.observed_at): row.value for row in rows}
    assert found == pytest.approx(wanted)


@pytest.mark.parametrize("source", hospital.SOURCES)
def test_the_bad_rows_are_quarantined_with_the_right_reason(stores, source):
    store, _ = stores[source]
    with store.connect() as connection:
        query = text("select check_name from quality.quarantine where disposition = 'rejected' order by 1")
        assert list(connection.execute(query).scalars()) == ["implausible_value", "text_in_a_number"]


def test_the_windows_of_all_sources_are_the_same(stores):
    """Row for row; what a source cannot know (admission type) is unknown in all."""
    made = []
    for source, (store, names) in stores.items():
        stays = stays_of(store, source, names)
        ids = canonical.read_stays(store, source, AS_OF)
        observations = canonical.read_observations(store, source, ids, AS_OF)
        grid = make_grid(stays, observations)
        scaler = fit_scaler(grid, static_features(stays), np.arange(len(stays)))
        made.append(make_windows(grid, stays, scaler, WindowConfig()))
    for other in made[1:]:
        np.testing.assert_allclose(other.channels, made[0].channels, atol=1e-6)
        np.testing.assert_allclose(other.static, made[0].static, atol=1e-6)
        np.testing.assert_array_equal(other.score_from, made[0].score_from)
