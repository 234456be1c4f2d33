"""A search for settings: kept in our database, resumed, and ended with a page and a file that a training takes."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import text

from flows.runtime import clock
from rnn_core.contracts.errors import ForecastError
from rnn_core.contracts.options import configure, read_options
from rnn_core.series.splits import is_learned_from

AT = clock.parse_time("2026-01-19T00:00")


def test_without_optuna_a_sentence_names_the_extra(monkeypatch):
    from flows.experiments.tune import tune

    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ForecastError, match=re.escape("pip install 'icu-forecast[tune]'")):
        tune("clif", AT)


@pytest.fixture
def quick_trials(monkeypatch):
    """Trials whose loss follows from their settings alone: the best learning rate is 0.005, and layers cost a little."""
    from rnn_core.forecasters import search

    judged = []

    def judge(material, learned, config, after_epoch):
        judged.append(config)
        n = len(material.known.stays)
        distance = abs(np.log(config.train.learning_rate / 0.005)) + 0.1 * len(config.network.units)
        for epoch in (1, 2):
            after_epoch(
                0, {"epoch": epoch, "train_loss": distance, "valid_loss": distance, "learning_rate": 0, "seconds": 0}
            )
        rows = np.where(learned, 4.0, 0.0)
        noise = np.random.default_rng(len(judged)).normal(0, 0.05, n)
        history = ({"epoch": 1, "train_loss": 2.0, "valid_loss": distance},)
        return search.Judged(rows * (2 + distance + noise), rows, (history,))

    monkeypatch.setattr(search, "judge_out_of_fold", judge)
    return judged


@pytest.mark.soak
def test_a_search_is_resumed_and_ends_with_a_page_and_a_file_that_a_training_takes(
    trained, quick_trials, tmp_path, monkeypatch
):
    pytest.importorskip("optuna", reason="Optuna is not installed (extra tune)")
    from flows.experiments.tune import tune
    from rnn_core.forecasters import training_material

    build, read = training_material.build_material, []

    def watched(known, learned, *rest, **more):
        read.append((known, learned))
        return build(known, learned, *rest, **more)

    monkeypatch.setattr(training_material, "build_material", watched)
    out, base = tmp_path / "search.html", {"members": 2, "dropout": 0.1}
    first = tune("clif", AT, trials=3, base=base, out=out)
    assert first["trials"] == len(quick_trials) == 3
    default = configure(base | {"forecaster": "recurrent"}).model
    assert quick_trials[0] == default, "the default is the first trial"
    again = tune("clif", AT, trials=4, base=base, out=out)
    assert (again["study"], again["trials"], len(quick_trials)) == (first["study"], 4, 4)
    assert again["loss of the best"] <= first["loss of the best"] <= first["loss of the default"]
    found = configure(read_options(Path(again["options"]))).model
    assert found.train.folds == 2 and found.network in [config.network for config in quick_trials]
    page = out.read_text()
    titles = ("Which settings matter", "Learning curves", "Search log", "learning-rate", again["verdict"])
    assert [title for title in titles if title not in page] == []
    with trained.connect() as connection:
        names = connection.execute(text("select study_name from tuning.studies")).scalars().all()
    assert names == [first["study"]]
    assert not list((tmp_path / "artifacts" / ".tuning").rglob("*.npy")), "no patient's data is left"
    for known, learned in read:
        assert is_learned_from(known.stays["patient_id"][learned]).all() and learned.sum() > 20
        assert known.as_of < np.datetime64("2026-01-19"), "the newest stays judge models"
