"""A model and the vocabulary: concepts that are added change nothing, concepts that it reads must stay what they were."""

import json
import pickle
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from builders import at, random_observations, random_stays, small_config

from rnn_core.contracts import concepts
from rnn_core.contracts.concepts import BY_NAME, NAMES, concept_hash
from rnn_core.contracts.errors import ArtifactError
from rnn_core.contracts.known import Known
from rnn_core.forecasters import artifact
from rnn_core.forecasters.artifact import check_artifact, read_meta
from rnn_core.forecasters.fit_stay import fit_forecaster
from rnn_core.forecasters.stay import StayForecaster, forecast_stays, save_stay_forecaster

# Runs in a process of its own, in which the vocabulary has one concept more, in the middle, from the start.
LATER_VERSION = """
import pickle, sys
from dataclasses import replace
from pathlib import Path
import numpy as np
from rnn_core.contracts import concepts as vocabulary

new = replace(vocabulary.BY_NAME["lactate"], name="pyruvate")
vocabulary.CONCEPTS = (*vocabulary.CONCEPTS[:30], new, *vocabulary.CONCEPTS[30:])
vocabulary.NAMES = tuple(concept.name for concept in vocabulary.CONCEPTS)
vocabulary.BY_NAME |= {"pyruvate": new}
vocabulary.INDEX.update({name: position for position, name in enumerate(vocabulary.NAMES)})

from rnn_core.contracts.frames import Observations
from rnn_core.contracts.known import Known
from rnn_core.forecasters.drivers import explain_stays
from rnn_core.forecasters.stay import forecast_stays, load_stay_forecaster

folder = Path(sys.argv[1])
stays, names, columns, as_of = pickle.loads((folder / "known.pickle").read_bytes())
concept = np.array([vocabulary.INDEX[name] for name in names], np.int16)
known = Known(stays, Observations(concept=concept, **columns), as_of)
assert "pyruvate" in names
forecaster = load_stay_forecaster(folder / "m")
frame = forecast_stays(forecaster, known).numbers
drivers = explain_stays(forecaster, known, frame["mortality_risk"].to_numpy(), limit=2)
(folder / "forecasts.pickle").write_bytes(pickle.dumps((frame, drivers)))
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The folder of an artifact `m`, its forecaster, and open stays."""
    rng = np.random.default_rng(11)
    stays = random_stays(rng, 60).assign(ends_at="unit")
    observations = random_observations(rng, stays, 4000)
    forecaster, _ = fit_forecaster(Known(stays, observations, at(100)), np.ones(60, bool), small_config(epochs=1))
    folder = tmp_path_factory.mktemp("artifacts")
    save_stay_forecaster(folder, "m", forecaster, {})
    is_open = ((stays["intime"] < at(30)) & (stays["outtime"] > at(30))).to_numpy()
    known = Known(stays.assign(outtime=np.datetime64("NaT", "us"), outcome=None), observations, at(30))
    return folder, forecaster, known.take(is_open)


def with_pyruvate(known: Known) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Names of the concepts and the other columns, where every third observation of lactate stands twice, once renamed,
    and some are of pyruvate alone."""
    seen = known.observations
    names = np.array(NAMES, dtype=object)[seen.concept]
    again = np.flatnonzero(np.arange(len(seen)) % 3 == 0)
    order = np.sort(np.concatenate([np.arange(len(seen)), again]))
    is_copy = np.concatenate([[False], order[1:] == order[:-1]])
    names = np.where(is_copy, "pyruvate", names[order])
    columns = {name: getattr(seen, name)[order] for name in ("stay", "observed_at", "available_at", "value")}
    return names, columns


def test_a_new_concept_and_its_observations_change_no_forecast_of_an_older_model(saved):
    folder, forecaster, known = saved
    before = forecast_stays(forecaster, known).numbers
    assert (before["status"] == "scored").sum() > 10
    names, columns = with_pyruvate(known)
    (folder / "known.pickle").write_bytes(pickle.dumps((known.stays, names, columns, known.as_of)))
    done = subprocess.run(
        [sys.executable, "-c", LATER_VERSION, str(folder)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    after, drivers = pickle.loads((folder / "forecasts.pickle").read_bytes())
    pd.testing.assert_frame_equal(after, before, check_exact=True)
    assert len(drivers) and "pyruvate" not in set(drivers["driver"])


def redefine(monkeypatch, name: str, **changes) -> None:
    monkeypatch.setitem(concepts.BY_NAME, name, replace(BY_NAME[name], **changes))


def edit_meta(folder, drop: str) -> dict:
    meta = read_meta(folder)
    del meta[drop]
    (folder / "meta.json").write_text(json.dumps(meta))
    return meta


@pytest.fixture
def copy(saved, tmp_path):
    """The artifact anew, to be edited."""
    return save_stay_forecaster(tmp_path, "m", saved[1], {})


@pytest.mark.parametrize(
    "change", [{"unit": "mg/dL"}, {"low": 0.1}, {"log_scale": False}, {"carry_hours": 6.0}], ids=lambda c: next(iter(c))
)
def test_a_concept_that_is_defined_differently_now_is_named(copy, monkeypatch, change):
    redefine(monkeypatch, "lactate", **change)
    with pytest.raises(ArtifactError, match=r"defined differently now: lactate\|mmol/L.*\(now lactate\|"):
        check_artifact(copy)


def test_a_concept_that_was_removed_is_named(copy, monkeypatch):
    monkeypatch.delitem(concepts.BY_NAME, "lactate")
    with pytest.raises(ArtifactError, match="does not have: lactate"):
        check_artifact(copy)


def test_another_category_or_code_of_a_concept_does_not_matter(copy, monkeypatch):
    redefine(monkeypatch, "lactate", loinc="0-0")
    check_artifact(copy)


def test_an_artifact_of_version_0_1_0_is_checked_by_the_hash_over_its_own_concepts(copy, monkeypatch):
    meta = edit_meta(copy, drop="concepts")
    assert check_artifact(copy)["concept_hash"] == concept_hash()
    monkeypatch.setitem(concepts.BY_NAME, "pyruvate", replace(BY_NAME["lactate"], name="pyruvate"))
    check_artifact(copy)
    redefine(monkeypatch, "lactate", unit="mg/dL")
    with pytest.raises(ArtifactError, match=f"hash {meta['concept_hash']}.*defines as {concept_hash()}"):
        check_artifact(copy)
    monkeypatch.delitem(concepts.BY_NAME, "lactate")
    with pytest.raises(ArtifactError, match="does not have: lactate"):
        check_artifact(copy)


def test_a_model_of_few_concepts_reads_and_keeps_those_alone(saved):
    _, forecaster, known = saved
    few = replace(
        forecaster, config=replace(forecaster.config, window=replace(forecaster.config.window, concepts=NAMES[:3]))
    )
    assert isinstance(few, StayForecaster)
    assert set(few.reads(known).observations.concept) == {0, 1, 2}
    assert forecaster.reads(known) is known
    assert list(artifact._describe("m", few.config, saved[0] / "m")["concepts"]) == list(NAMES[:3])
