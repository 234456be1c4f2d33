import numpy as np
import pytest

from rnn_core.evaluation.transfer import composed, drop
from rnn_core.statistics.bootstrap import Estimate
from rnn_core.statistics.calibration import PlattCalibration


def test_two_calibrations_become_one_that_gives_what_both_give():
    first, then = PlattCalibration(0.8, -0.2, 0.05, 0.1), PlattCalibration(1.4, 0.5)
    risk, hours = np.linspace(0.01, 0.99, 50), np.linspace(5, 160, 50)
    both = then.calibrate(first.calibrate(risk, hours), hours)
    np.testing.assert_allclose(composed(first, then).calibrate(risk, hours), both, rtol=1e-12)


def test_what_is_lost_has_the_errors_of_both_sides():
    lost = drop(Estimate(0.75, 0.72, 0.78, 100), Estimate(0.85, 0.81, 0.89, 400))
    assert lost.value == pytest.approx(0.10)
    assert (lost.low, lost.high) == (pytest.approx(0.05), pytest.approx(0.15))
