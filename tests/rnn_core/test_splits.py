"""Splits: disjoint in patients, ordered in time, permanent."""

import numpy as np
import pandas as pd
import pytest
from builders import at, stays_frame
from hypothesis import given, settings
from hypothesis import strategies as st

from rnn_core.errors import ContractError
from rnn_core.splits import PARTS, patient_split, patient_time_split, time_split

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


def test_a_time_split_goes_by_the_end_of_a_stay():
    stays = stays_frame(
        {"intime": 0, "outtime": 9.9},
        {"intime": 0, "outtime": 10},
        {"intime": 12, "outtime": 19.9},
        {"intime": 0, "outtime": 20},
        {"intime": 0},
        {"intime": 0, "outcome": "died"},
    )
    parts = time_split(stays, (at(10), at(20)))
    assert parts.tolist() == ["train", "valid", "valid", "test", "test", "test"]


def test_cut_offs_out_of_order_are_refused():
    with pytest.raises(ContractError, match="in order"):
        time_split(stays_frame({}), (at(20), at(10)))


@settings(deadline=None)
@given(STAYS)
def test_no_patient_of_the_hold_out_is_in_training(rows):
    stays = frame(rows)
    parts = patient_time_split(stays, at(60))
    patients = {part: set(stays["patient_id"][parts == part]) for part in (*PARTS, "none")}
    assert not patients["test"] & (patients["train"] | patients["valid"])
    assert not patients["train"] & patients["valid"]


@settings(deadline=None)
@given(STAYS)
def test_training_ends_before_the_hold_out_and_the_hold_out_after(rows):
    stays = frame(rows)
    parts = patient_time_split(stays, at(60))
    assert (stays["outtime"][np.isin(parts, ["train", "valid"])] < at(60)).all()
    assert not (stays["outtime"][parts == "test"] < at(60)).any()


@settings(deadline=None)
@given(STAYS, st.integers(0, 80), st.integers(0, 80))
def test_whoever_was_trained_on_is_never_in_a_later_hold_out(rows, earlier, later):
    stays = frame(rows)
    earlier, later = sorted((earlier, later))
    before, after = (patient_time_split(stays, at(hour)) for hour in (earlier, later))
    fitted = np.isin(before, ["train", "valid"])
    assert np.array_equal(before[fitted], after[fitted])
    assert not set(stays["patient_id"][fitted]) & set(stays["patient_id"][after == "test"])


def test_a_patient_without_an_older_stay_is_in_the_hold_out_whatever_the_hash_says():
    stays = frame([(i, 70, 5) for i in range(30)])
    assert set(patient_split(stays["patient_id"])) == set(PARTS)
    assert set(patient_time_split(stays, at(60))) == {"test"}
