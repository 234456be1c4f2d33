"""What networks are taught: by a blend that saw neither the stay nor the fold that they are stopped and judged on."""

from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pytest
from builders import at, material_of, random_observations, random_stays, small_config

from rnn_core.contracts.errors import ContractError
from rnn_core.contracts.known import Known, borrow
from rnn_core.forecasters.forecaster import KINDS
from rnn_core.forecasters.recurrent import RecurrentEnsemble
from rnn_core.forecasters.teacher import teach
from rnn_core.network import training
from rnn_core.statistics.distribution import Distribution

CONFIG = small_config(folds=3, teacher_share=0.5)
OWN = 40


def some_stays(source, n, seed):
    rng = np.random.default_rng(seed)
    stays = random_stays(rng, n).assign(ends_at="unit", source=source)
    stays["patient_id"] = [f"{source} {i}" for i in range(n)]
    return Known(stays, random_observations(rng, stays, 40 * n), at(120))


@dataclass(frozen=True)
class CertainOfItsFold:
    """Forecasts that every stay dies in the bin with the number of the fold that it left out."""

    fold: int

    def forecast(self, windows, rows):
        masses = np.zeros((len(rows), len(CONFIG.network.horizon_edges), 2))
        masses[:, self.fold, 1] = 1
        return Distribution(masses, CONFIG.network.horizon_edges)


class RememberingBlend:
    asked: list = []  # noqa: RUF012

    @classmethod
    def fit(cls, material, learned, config, *, checkpoint_dir=None, progress=None, folds=None):
        cls.asked.append((learned, config.forecaster, config.train.teacher_share, folds))
        return SimpleNamespace(forecaster=SimpleNamespace(members=lambda: [CertainOfItsFold(k) for k in folds]))


def test_each_stay_is_taught_by_the_member_that_left_its_fold_out_and_nobody_saw_the_fold_to_judge_on(monkeypatch):
    monkeypatch.setitem(KINDS, "blend", f"{__name__}:RememberingBlend")
    own = some_stays("ward", OWN, 1)
    material = material_of(borrow(own, [some_stays("other", 9, 2)], own.stays["patient_id"]), CONFIG)
    fold, stay = material.folds(3), material.stay_of_row
    counted = material.windows.scored & material.labels.usable
    for left_out in range(3):
        learned = fold != left_out
        taught = teach(material, learned, CONFIG)
        given, *others = RememberingBlend.asked.pop()
        np.testing.assert_array_equal(given, learned)
        assert others == ["blend", 0.0, [k for k in range(3) if k != left_out]]
        assert taught.dtype == np.float16 and taught.shape == material.labels.weights.shape
        by = np.where(taught.any((1, 2)), taught.sum(2).argmax(1), -1)
        expected = np.where(counted & (fold[stay] != left_out), fold[stay], -1)  # -1 is also that of borrowed stays
        np.testing.assert_array_equal(by, expected)
        assert {-1, *range(3)} - {left_out} == set(by)


def test_a_teacher_needs_a_fold_to_learn_from_besides_the_one_it_teaches_and_the_one_to_judge_on():
    with pytest.raises(ContractError, match="at least 3 members, not 2"):
        replace(CONFIG.train, folds=2)


def test_a_member_learns_from_its_teacher_where_one_has_a_share(monkeypatch):
    class Asked(Exception):
        pass

    def fit_stay_model(windows, labels, train, valid, config, **_):
        raise Asked(labels.taught)

    monkeypatch.setitem(KINDS, "blend", f"{__name__}:RememberingBlend")
    monkeypatch.setattr(training, "fit_stay_model", fit_stay_model)
    material = material_of(some_stays("ward", OWN, 1), CONFIG)
    for config in (CONFIG, small_config(folds=3)):
        with pytest.raises(Asked) as asked:
            RecurrentEnsemble.fit(material, np.ones(OWN, bool), config, folds=[1])
        (taught,) = asked.value.args
        if config is CONFIG:
            taught_stays = np.unique(material.stay_of_row[taught.any((1, 2))])
            assert set(material.folds(3)[taught_stays]) == {0, 2}
        else:
            assert taught is None
