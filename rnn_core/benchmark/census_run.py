"""The census forecast in a made-up hospital, from beginning to end, in memory; each stay that arrives is forecast by a model
of other patients."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from rnn_core.benchmark import replay
from rnn_core.benchmark.census_contest import CensusJudgement, Setting, judge
from rnn_core.benchmark.replay_truth import draw_futures
from rnn_core.benchmark.whole_stays import Fold
from rnn_core.census.census import forecast_census, learn_from_arrivals
from rnn_core.census.counts import from_arrays
from rnn_core.census.simple_answers import ERROR_DAYS, SIMPLE, WEEK, Answer, answer_simply, from_draws
from rnn_core.contracts.census import CENSUS_HORIZONS, CURVES, HOSPITAL, KnownUnits, RateFactors
from rnn_core.contracts.config import ArrivalConfig, ModelConfig, Sampling
from rnn_core.contracts.errors import ContractError, DataTooSmallError
from rnn_core.contracts.frames import Windows
from rnn_core.contracts.known import Known
from rnn_core.evaluation.census_figures import crps
from rnn_core.forecasters.arrivals import ArrivalForecaster, fit_arrival_forecaster
from rnn_core.forecasters.fit_stay import make_forecaster
from rnn_core.series.serving_rule import is_served
from rnn_core.series.splits import patient_folds
from rnn_core.statistics.distribution import Distribution
from rnn_core.statistics.scored_stays import ScoredStays

Kind = Literal["none", "trees", "recurrent", "blend"]
PATIENTS, ENDS, FLOOR = "patients", "ends", "floor"
# As `CURVES`, with arrivals corrected by a recurrent model.
LSTM = "lstm"
_BATCHES = 4
# Hours of the day at which the census is forecast.
CLOCK_HOURS = (0, 8, 16)


@dataclass(frozen=True)
class StayForecasts:
    """Forecasts of real stays at every hour at which one would be served.

    row: int64 [stays, hours], row of `forecast` for each full hour since `replay.first_hour`, -1 where none is served.
    """

    row: np.ndarray
    forecast: Distribution

    @classmethod
    def none(cls) -> "StayForecasts":
        return cls(np.empty((0, 0), np.int64), Distribution(np.empty((0, 2, 2)), (0.0, float(max(CENSUS_HORIZONS)))))

    @classmethod
    def of_known_ends(cls, lengths: replay.Lengths) -> "StayForecasts":
        """As if every end were known: the most that a forecast of the patients can say."""
        stay = np.repeat(np.arange(len(lengths.hours)), lengths.hours)
        hour = np.arange(len(stay)) - np.repeat(np.cumsum(lengths.hours) - lengths.hours, lengths.hours) + 1
        table = np.full((len(lengths.hours), int(lengths.hours.max()) + 1), -1, np.int64)
        table[stay, hour] = np.arange(len(stay))
        # Edges hold all horizons: who is in at the last full hour before one is gone at it.
        edges = np.arange(0.0, max(CENSUS_HORIZONS) + 1, np.gcd.reduce(CENSUS_HORIZONS))
        masses = np.zeros((len(stay), len(edges), 2))
        left = lengths.hours[stay] - hour
        masses[np.arange(len(stay)), np.searchsorted(edges, left, side="right") - 1, 0] = 1.0
        return cls(table, Distribution(masses, edges))


def forecast_stays(
    known: Known, sampling: Sampling, config: ModelConfig, kind: Kind, folds: int, progress: Callable[[str], None]
) -> StayForecasts:
    """Forecast whole stays at each full hour, as if they were open then, each by a fit on the other folds of patients."""
    fold_of = patient_folds(known.stays["patient_id"], folds, salt="replay")
    parts = []
    for k in range(folds):
        fold = Fold(known.take(fold_of != k), known.take(fold_of == k), config, sampling)
        parts.append((np.flatnonzero(fold_of == k), _forecast_fold(fold, kind)))
        progress(f"{kind}, fold {k + 1} of {folds}: learned from {len(fold.learned.stays):,} stays")
    table = np.full((len(known.stays), max(part.row.shape[1] for _, part in parts)), -1, np.int64)
    n = 0
    for stays, part in parts:
        table[stays, : part.row.shape[1]] = np.where(part.row >= 0, part.row + n, -1)
        n += len(part.forecast)
    return StayForecasts(table, Distribution.concatenate([part.forecast for _, part in parts]))


def _forecast_fold(fold: Fold, kind: Kind) -> StayForecasts:
    fitted = fold.fits.of(kind)
    ready = make_forecaster(fold.material, fitted, fold.scaler, fold.sampling)
    windows = fold.windows
    rows = np.flatnonzero(windows.scored)
    rows = rows[is_served(windows, rows, fold.config.window, fold.sampling)]
    return StayForecasts(rows_by_hour(windows, rows, fold.judged.intime), ready.forecast(windows, rows))


def rows_by_hour(windows: Windows, rows: np.ndarray, intime: np.ndarray) -> np.ndarray:
    """Position in `rows` of each stay's forecast at each full hour since `replay.first_hour`, -1 where there is none,
    int64 [stays, hours]."""
    stay = windows.stay_of(rows)
    # Rows count from the hour floored, the replay from one that is open at its beginning.
    late = (intime.astype("datetime64[h]") - replay.first_hour(intime)).astype(np.int64)
    hour = windows.hour_of(rows) + late[stay]
    table = np.full((len(intime), int(hour.max(initial=0)) + 1), -1, np.int64)
    table[stay, hour] = np.arange(len(rows))
    return table


@dataclass(frozen=True)
class Hospital:
    """The world with the frames that a forecast reads; `stays`: one row per arrival, as known when it has ended."""

    world: replay.World
    stays: pd.DataFrame
    lengths: replay.Lengths

    @classmethod
    def open(cls, pool: pd.DataFrame, beds: Sequence[int], days: int, seed: int) -> "Hospital":
        begin, end = (pool[column].to_numpy("datetime64[us]") for column in ("intime", "outtime"))
        lengths = replay.Lengths.of(begin, end)
        process = replay.make_process(beds, days, lengths, seed)
        world = replay.make_world(process, lengths)
        drawn, shift = world.arrivals["stay"].to_numpy(), world.shifts(replay.first_hour(begin))
        stays = pd.DataFrame(
            {
                "stay_id": [f"R{number:06d}" for number in range(1, len(drawn) + 1)],
                "unit": np.array(process.units, dtype=object)[world.arrivals["unit"]],
                "intime": begin[drawn] + shift,
                "outtime": end[drawn] + shift,
                "outcome": pool["outcome"].to_numpy(object)[drawn],
                "ends_at": "unit",
                "sound": True,
            }
        )
        return cls(world, stays, lengths)

    @property
    def beds(self) -> pd.DataFrame:
        process = self.world.process
        long_ago = np.full(len(process.beds), np.datetime64("2000-01-01", "us"))
        return pd.DataFrame(
            {
                "unit": process.units,
                "available_at": long_ago,
                "beds": np.array(process.beds, float),
                "staffed_beds": np.nan,
            }
        )

    def known_at(self, slot: int) -> KnownUnits:
        """All that was known of stays and beds at that full hour."""
        as_of = (replay.START + np.timedelta64(slot, "h")).astype("datetime64[us]")
        stays = self.stays[(self.stays["intime"] <= as_of).to_numpy()].reset_index(drop=True)
        is_open = stays["outtime"] > as_of
        stays = stays.assign(outtime=stays["outtime"].mask(is_open), outcome=stays["outcome"].mask(is_open, None))
        return KnownUnits(stays, self.beds, as_of, as_of)

    def scored_at(self, slot: int, forecasts: StayForecasts) -> ScoredStays:
        """The forecasts of those who are in at that full hour."""
        hour, stay = (self.world.arrivals[name].to_numpy() for name in ("hour", "stay"))
        begun = np.flatnonzero((hour < slot) & (slot <= hour + self.lengths.hours[stay]))
        elapsed = slot - hour[begun]
        has_row = elapsed < forecasts.row.shape[1]
        begun, elapsed = begun[has_row], elapsed[has_row]
        row = forecasts.row[stay[begun], elapsed] if len(begun) else np.empty(0, np.int64)
        served = row >= 0
        return ScoredStays(self.stays["stay_id"].to_numpy()[begun[served]], forecasts.forecast.take(row[served]))

    @property
    def census(self) -> np.ndarray:
        """Of the units and, last, of the hospital, int64 [units + 1, hours]."""
        return np.concatenate([self.world.census, self.world.census.sum(axis=0, keepdims=True)])


def run(
    known: Known,
    sampling: Sampling,
    config: ModelConfig,
    *,
    beds: Sequence[int],
    days: int = 400,
    judged_days: int = 200,
    kind: Kind = "trees",
    folds: int = 5,
    draws: int = 400,
    seed: int = 0,
    n: int = 500,
    progress: Callable[[str], None] = print,
) -> CensusJudgement:
    """Judge census forecasts at 00:00, 08:00 and 16:00 of the last `judged_days` of the calendar, beside simple answers and
    the floor; and the unit-wide curves with a recurrent model of arrivals that was fitted at the first of them, whether it
    would serve or not, where there is enough to learn from.

    known: whole stays and their observations. Each is forecast by a model of kind `kind` that learned from the other of so
    many `folds` of patients; kind "none": only the unit-wide curves are judged. draws: of the floor. n: resamples.
    Raises ContractError for a calendar too short for the simple answers.
    """
    hospital = Hospital.open(known.stays, beds, days, seed)
    slots = judged_slots(days, judged_days)
    progress(f"{len(known.stays):,} stays arrive {len(hospital.stays):,} times, {len(slots)} times of forecast")
    answers = {}
    setting = make_setting(hospital, slots)
    if kind != "none":
        forecasts = forecast_stays(known, sampling, config, kind, folds, progress)
        answers[PATIENTS], _ = forecast_all(hospital, slots, forecasts, sampling)
        progress(f"{PATIENTS}: forecast")
    known_ends = StayForecasts.of_known_ends(hospital.lengths)
    of_ends, answers[CURVES] = forecast_all(hospital, slots, known_ends, sampling)
    answers[ENDS] = of_ends
    progress(f"{CURVES}, {ENDS}: forecast")
    recurrent = fit_recurrent(hospital, int(slots[0]), seed)
    if isinstance(recurrent, ArrivalForecaster):
        _, answers[LSTM] = forecast_all(hospital, slots, StayForecasts.none(), sampling, recurrent.factors)
    about_lstm = recurrent.report.sentence() if isinstance(recurrent, ArrivalForecaster) else str(recurrent)
    progress(f"{LSTM}: {about_lstm}")
    for name in SIMPLE:
        answers[name] = answer_simply(name, hospital.census, setting.beds, slots, CENSUS_HORIZONS)
    futures = draw_futures(hospital.world, hospital.lengths, slots, CENSUS_HORIZONS, draws, seed + 1)
    futures = np.concatenate([futures, futures.sum(axis=0, keepdims=True)])
    answers[FLOOR] = Answer.of(from_draws(futures), setting.observed.shape)
    progress("floor: drawn")
    protocol = _protocol(hospital, kind, folds, draws) | {"floor_crps_monte_carlo_error": _error(futures, setting)}
    protocol["recurrent_arrivals"] = about_lstm
    first = next(iter(answers))
    pairs = [(first, other) for other in answers if other != first] + [(CURVES, FLOOR)] * (first != CURVES)
    pairs += [(LSTM, CURVES)] * (LSTM in answers)
    return judge(answers, setting, protocol, pairs, {FLOOR: draws}, n)


def judged_slots(days: int, judged_days: int) -> np.ndarray:
    """Full hours of a calendar of `days` at which the census is forecast in its last `judged_days`, int64 [slots]; all
    horizons end within it.

    Raises ContractError where the simple answers have too little history before, or no time is left to judge.
    """
    first, longest = days - judged_days, max(CENSUS_HORIZONS)
    needed = ERROR_DAYS + -(-longest // 24) + WEEK // 24 + 1
    hours = np.arange(max(first, 0) * 24, days * 24 - longest + 1)
    slots = hours[np.isin(hours % 24, CLOCK_HOURS)]
    if first < needed or len(slots) < 2:
        raise ContractError(
            f"Of {days} days the last {judged_days} cannot be judged: the simple answers read the {needed} days before, and "
            f"the longest horizon ends {longest} hours later. Take more days."
        )
    return slots


def make_setting(hospital: Hospital, slots: np.ndarray) -> Setting:
    """Judged over all slots, in the 30 days that follow the change of level, and later."""
    process, census = hospital.world.process, hospital.census
    beds = np.array([*process.beds, sum(process.beds)])
    since = slots - process.change_hour
    month = 30 * 24
    periods = {"all": since > -np.inf, "month_after_change": (since >= 0) & (since < month), "later": since >= month}
    return Setting(
        units=(*process.units, HOSPITAL),
        observed=census[:, slots[:, None] + np.array(CENSUS_HORIZONS)],
        beds=beds,
        full_before=(census[:, : slots[0]] >= beds[:, None]).mean(axis=1),
        slots=slots,
        horizons=CENSUS_HORIZONS,
        periods={name: chosen for name, chosen in periods.items() if chosen.any()},
    )


def fit_recurrent(hospital: Hospital, slot: int, seed: int) -> ArrivalForecaster | DataTooSmallError:
    """A recurrent model of arrivals from what was known at that full hour, or why there is none."""
    try:
        lessons = learn_from_arrivals(hospital.known_at(slot), seed=seed)
    except DataTooSmallError as error:
        return error
    return fit_arrival_forecaster(lessons.learned, lessons.choosing, lessons.judged, ArrivalConfig(seed=seed))


def forecast_all(
    hospital: Hospital,
    slots: np.ndarray,
    forecasts: StayForecasts,
    sampling: Sampling,
    factors: RateFactors | None = None,
) -> tuple[Answer, Answer]:
    """The published distribution at each slot, from what was known then, and that with the curves of units alone."""
    units = (*hospital.world.process.units, HOSPITAL)
    frames = []
    for slot in slots:
        known, scored = hospital.known_at(int(slot)), hospital.scored_at(int(slot), forecasts)
        frames.append(forecast_census(known, scored, sampling=sampling, factors=factors))
    of_unit = pd.concat(frames).set_index("unit").loc[list(units)]
    shape = len(units), len(slots), len(CENSUS_HORIZONS)
    own, alike = (
        Answer.of(from_arrays(of_unit[name]), shape) for name in ("census_probabilities", "curves_probabilities")
    )
    return own, alike


def _error(futures: np.ndarray, setting: Setting) -> dict[str, float]:
    """Standard error of the floor's mean CRPS over the units, from its parts, by horizon."""
    parts, observed = np.array_split(futures, _BATCHES, axis=-1), setting.observed
    scores = [crps(from_draws(part), observed.ravel(), part.shape[-1]).reshape(observed.shape) for part in parts]
    error = np.std([score[:-1].mean(axis=(0, 1)) for score in scores], axis=0, ddof=1) / np.sqrt(_BATCHES)
    return {str(horizon): float(found) for horizon, found in zip(setting.horizons, error, strict=True)}


def _protocol(hospital: Hospital, kind: Kind, folds: int, draws: int) -> dict[str, Any]:
    process = hospital.world.process
    return {
        "real": "stays, their values, lengths and outcomes",
        "made_up": "units, beds, ids, when and where each stay begins",
        "process": process.to_json(),
        "stays": len(hospital.lengths.hours),
        "folds": folds,
        "arrivals": len(hospital.stays),
        "turned_away": int(hospital.world.turned_away.sum()),
        "stay_model": kind,
        "floor_draws": draws,
    }
