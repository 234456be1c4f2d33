"""Splits: disjoint in patients, ordered in time, permanent."""

from functools import partial

import numpy as np
import pandas as pd
import pytest
from builders import at, stays_frame
from hypothesis import given, settings
from hypothesis import strategies as st

from rnn_core.contracts.errors import ContractError
from rnn_core.series.splits import is_learned_from, patient_folds, split_stays

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


def test_the_part_and_the_fold_of_a_patient_never_change():
    """Published models rest on it: if this fails, warm starts may be judged on patients they were trained on."""
    ids = [f"p{i}" for i in range(7, 17)]
    assert (~is_learned_from(ids)).nonzero()[0].tolist() == [0, 4]
    assert patient_folds(ids, 5).tolist() == [3, 4, 0, 3, 2, 3, 2, 2, 1, 1]


def test_the_part_of_a_patient_does_not_depend_on_the_other_patients():
    ids = np.array([f"patient-{i}" for i in range(500)])
    order = np.random.default_rng(0).permutation(500)[:200]
    for of in (is_learned_from, partial(patient_folds, folds=5)):
        assert np.array_equal(of(ids[order]), of(ids)[order])
        assert np.array_equal(of(pd.Series(ids[order])), of(ids)[order])


def test_shares_come_out_about_as_asked_and_folds_do_not_depend_on_the_part():
    ids = [str(i) for i in range(8000)]
    learned = is_learned_from(ids)
    assert learned.mean() == pytest.approx(0.85, abs=0.02)
    for chosen in (learned, ~learned):
        shares = np.bincount(patient_folds(ids, 5)[chosen], minlength=5) / chosen.sum()
        assert shares.tolist() == pytest.approx([0.2] * 5, abs=0.04)


def test_another_salt_gives_another_split():
    ids = [str(i) for i in range(100)]
    assert not np.array_equal(is_learned_from(ids), is_learned_from(ids, salt="other"))


def test_a_missing_patient_id_is_refused():
    with pytest.raises(ContractError, match="1 stays have no patient_id"):
        is_learned_from(["a", None])


@settings(deadline=None, max_examples=40)
@given(STAYS)
def test_no_patient_is_in_two_parts(rows):
    stays = frame(rows)
    split = split_stays(stays, at(60))
    learned, judged = (set(stays["patient_id"][part]) for part in (split.learned, split.judged))
    assert not learned & judged
    assert (split.judged | ~split.newer).all()


@settings(deadline=None, max_examples=40)
@given(STAYS)
def test_what_is_fitted_began_before_the_cut_off_and_what_is_newer_after(rows):
    stays = frame(rows)
    split = split_stays(stays, at(60))
    assert (stays["intime"][split.learned] < at(60)).all()
    assert (stays["intime"][split.newer] >= at(60)).all()


@settings(deadline=None, max_examples=40)
@given(STAYS, st.integers(0, 110), st.integers(0, 110))
def test_whoever_was_fitted_on_is_never_judged_on_later(rows, earlier, later):
    stays = frame(rows)
    before, after = (split_stays(stays, at(hour)) for hour in sorted((earlier, later)))
    assert (after.learned | ~before.learned).all()
    assert not set(stays["patient_id"][before.learned]) & set(stays["patient_id"][after.judged])


def test_older_stays_keep_the_part_of_their_patient_open_or_not():
    stays = frame([(i, 10, None if i % 2 else 5) for i in range(60)])
    expected = is_learned_from(stays["patient_id"])
    split = split_stays(stays, at(60))
    assert expected.any() and not expected.all()
    assert np.array_equal(split.learned, expected) and np.array_equal(split.judged, ~expected)
    assert not split.newer.any()


def test_a_patient_without_an_older_stay_is_judged_whatever_the_hash_says():
    stays = frame([(i, 70, 5) for i in range(30)])
    assert is_learned_from(stays["patient_id"]).any()
    assert split_stays(stays, at(60)).newer.all()
