"""Splits: disjoint in patients, ordered in time, permanent."""

import numpy as np
import pandas as pd
import pytest
from builders import at, stays_frame
from hypothesis import given, settings
from hypothesis import strategies as st

from rnn_core.errors import ContractError
from rnn_core.splits import PARTS, patient_split, split_stays

STAYS = st.lists(
    st.tuples(st.integers(0, 12), st.integers(0, 100), st.none() | st.integers(1, 60)), min_size=1, max_size=40
)


def frame(rows) -> pd.DataFrame:
    return stays_frame(
        *(
            {"patient_id": f"p{patient + 7}", "intime": begin, "outtime": None if length is None else begin + length}
            for patient, begin, length in rows
        )
    )


def test_the_part_of_a_patient_never_changes():
    """Published models rest on it: if this fails, warm starts may be judged on patients they were trained on."""
    parts = patient_split([f"p{i}" for i in range(7, 17)])
    assert " ".join(parts) == "test train train valid test train train train train valid"


def test_the_part_of_a_patient_does_not_depend_on_the_other_patients():
    ids = np.array([f"patient-{i}" for i in range(500)])
    parts = patient_split(ids)
    order = np.random.default_rng(0).permutation(500)[:200]
    assert np.array_equal(patient_split(ids[order]), parts[order])
    assert np.array_equal(patient_split(pd.Series(ids[order])), parts[order])


def test_shares_come_out_about_as_asked():
    parts = pd.Series(patient_split([str(i) for i in range(8000)]))
    shares = parts.value_counts(normalize=True)
    assert shares[list(PARTS)].tolist() == pytest.approx([0.7, 0.15, 0.15], abs=0.02)


def test_another_salt_gives_another_split():
    ids = [str(i) for i in range(100)]
    assert not np.array_equal(patient_split(ids), patient_split(ids, salt="other"))


def test_a_missing_patient_id_is_refused():
    with pytest.raises(ContractError, match="1 stays have no patient_id"):
        patient_split(["a", None])


@pytest.mark.parametrize("shares", [(0.5, 0.1, 0.1), (1.2, -0.1, -0.1), (0.5, 0.5)])
def test_shares_that_are_not_shares_are_refused(shares):
    with pytest.raises(ContractError, match="add up to 1"):
        patient_split(["a"], shares)


@settings(deadline=None)
@given(STAYS)
def test_no_patient_is_in_two_parts(rows):
    stays = frame(rows)
    split = split_stays(stays, at(60))
    train, valid, judged = (set(stays["patient_id"][part]) for part in (split.train, split.valid, split.judged))
    assert not train & valid and not train & judged and not valid & judged
    assert (split.judged | ~split.newer).all()


@settings(deadline=None)
@given(STAYS)
def test_what_is_fitted_began_before_the_cut_off_and_what_is_newer_after(rows):
    stays = frame(rows)
    split = split_stays(stays, at(60))
    assert (stays["intime"][split.train | split.valid] < at(60)).all()
    assert (stays["intime"][split.newer] >= at(60)).all()


@settings(deadline=None)
@given(STAYS, st.integers(0, 110), st.integers(0, 110))
def test_whoever_was_fitted_on_is_never_judged_on_later(rows, earlier, later):
    stays = frame(rows)
    before, after = (split_stays(stays, at(hour)) for hour in sorted((earlier, later)))
    assert (after.train | ~before.train).all() and (after.valid | ~before.valid).all()
    fitted = before.train | before.valid
    assert not set(stays["patient_id"][fitted]) & set(stays["patient_id"][after.judged])


def test_older_stays_keep_the_part_of_their_patient_open_or_not():
    stays = frame([(i, 10, None if i % 2 else 5) for i in range(60)])
    parts = patient_split(stays["patient_id"])
    split = split_stays(stays, at(60))
    assert set(parts) == set(PARTS)
    for part, name in ((split.train, "train"), (split.valid, "valid"), (split.judged, "test")):
        assert np.array_equal(part, parts == name)
    assert not split.newer.any()


def test_a_patient_without_an_older_stay_is_judged_whatever_the_hash_says():
    stays = frame([(i, 70, 5) for i in range(30)])
    assert set(patient_split(stays["patient_id"])) == set(PARTS)
    assert split_stays(stays, at(60)).newer.all()
