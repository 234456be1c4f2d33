"""The census forecast: the patients of each unit who stay, and those who come, summed exactly."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from rnn_core.census.arrival_windows import ArrivalLessons, hourly, split_arrivals, windows_now
from rnn_core.census.arrivals import Arrivals, History, find_gaps, fit_arrivals, hour_of_day, make_history
from rnn_core.census.counts import (
    CountDistribution,
    negative_binomial,
    nobody,
    poisson_binomial,
    total_of,
)
from rnn_core.census.fresh_stay import NOT_ENDED, NOT_KNOWN, FreshStays, fit_fresh_stays
from rnn_core.census.full_units import Flow
from rnn_core.census.plans import Plans
from rnn_core.contracts.census import (
    CENSUS_COLUMNS,
    CENSUS_HISTORY_DAYS,
    CENSUS_HORIZONS,
    CENSUS_QUANTILES,
    HOSPITAL,
    Calendar,
    KnownUnits,
    RateFactors,
)
from rnn_core.contracts.config import Sampling
from rnn_core.contracts.errors import ContractError, DataTooSmallError
from rnn_core.contracts.frames import ALIVE, DIED, HOUR, OUTCOMES
from rnn_core.statistics.scored_stays import ScoredStays

# Why a unit has no forecast.
STALE, TOO_LITTLE_HISTORY, ENDS_WITH_HOSPITAL = "stale", "too_little_history", "ends_with_hospital"
MIN_HISTORY_DAYS, MIN_BEGINS = 28, 10
# Without a begin for so long, and with nobody in, a unit is closed.
CLOSED_DAYS = 60
_STALE_HOURS = 24.0
# A probability array ends where less than this is left.
_KEPT_TAIL = 1e-9
# Stays without a unit are in the hospital, in no unit that is published.
_NO_UNIT = ""
_ANY_DAY = Calendar()


def forecast_census(
    known: KnownUnits,
    scored: ScoredStays,
    *,
    calendar: Calendar = _ANY_DAY,
    sampling: Sampling | None = None,
    horizons: Sequence[int] = CENSUS_HORIZONS,
    factors: RateFactors | None = None,
) -> pd.DataFrame:
    """How many patients each unit, and the hospital, will hold: a row per unit and horizon with `CENSUS_COLUMNS`.

    Of a unit at horizon h:

        census(h) = those in now who are in still at h + those who come until h, planned or not, and are in still at h

    The first is Poisson-binomial: each patient stays with the probability of the stay's own forecast, and a stay that
    abstained with that of a stay of the unit which has lasted as long (`fresh_stay`). With the probability of a planned
    discharge or transfer the patient leaves at its time instead. Who is planned to come does so at the time and with the
    probability of the plan, as early or late as those who were planned. All others are negative binomial (`arrivals`),
    without the part of them that is planned by now (`plans`), thinned by the stays that begin. All parts are independent and
    convolved exactly, tails below 1e-9 cut. If hardly anyone comes to a unit while it is full, its census is what becomes of
    that distribution where a full unit turns patients away, hour by hour (`full_units`).
    expected_arrivals are those who ask for a bed.

    expected_discharges: of those in now, who leave alive until h; expected_deaths: who die. If the model says nothing of
    deaths they are null, and discharges count every end. prob_full: P(census >= usable beds), the staffed ones where known,
    else all. curves_probabilities: as census_probabilities, if the patients in now were forecast by the curve of their
    unit alone, given their elapsed hours: a comparison that shows what their own forecasts add.

    A unit abstains, and says why: `stale` (nothing of the source became known for 24 hours), `ends_with_hospital` (stays end
    with the hospital stay, so nobody knows who lies where), `too_little_history` (less than 28 days since the unit's first
    begin, or fewer than 10 begins). One without a begin for 60 days and with nobody in is closed: nobody is expected.
    The hospital (`*`) is the convolution of its units and of stays without a unit. It abstains if a unit does that has anyone
    in or had a begin within 28 days; its beds are known if those of all units are.

    calendar: which arrivals and leaving follow. sampling: how stays entered the source (delayed entry).
    horizons: hours ahead, rising, at most the longest of `CENSUS_HORIZONS`. factors: of a model that corrects the rates of
    arrivals. Raises ContractError for a unit named `*` or the empty text.
    """
    if not len(known.stays) and not len(known.beds):
        return pd.DataFrame(columns=list(CENSUS_COLUMNS))
    source = _Source.of(known, sampling or Sampling(), np.array(horizons))
    fresh = source.fit_fresh(calendar)
    none = replace(scored, stay_ids=[], forecast=scored.forecast.take(np.empty(0, np.int64)))
    every_hour = np.arange(1, max(CENSUS_HORIZONS) + 1)
    own = source.present(scored, fresh, calendar, source.horizons)
    alike = source.present(none, fresh, calendar, every_hour)
    parts = _forecast(source, own, alike, fresh, calendar, factors)
    units = np.arange(len(source.names) - 1)
    of_units = _frame(source.names[:-1], parts.of(units), source.held(units), source.reasons[:-1], source.horizons)
    frame = pd.concat([of_units, _hospital(parts, source)], ignore_index=True)
    if not scored.forecasts_death:
        frame["expected_deaths"] = np.nan
    return frame


def learn_from_arrivals(known: KnownUnits, *, calendar: Calendar = _ANY_DAY, seed: int = 0) -> ArrivalLessons:
    """What a recurrent model of arrivals learns from and is judged by, see `split_arrivals`; of stays without a unit, nothing.

    Raises DataTooSmallError for too little, and where no unit has a forecast.
    """
    source = _Source.of(known, Sampling(), np.array(CENSUS_HORIZONS))
    if all(reason is not None for reason in source.reasons[:-1]):
        raise DataTooSmallError("No unit of the source has a census forecast, so its arrivals are not learned.")
    return split_arrivals(source.history().of(slice(-1)), source.usable_now[:-1], calendar, seed)


@dataclass(frozen=True)
class _Source:
    """What is known, by row number of the unit; the last is that of stays without one.

    unit int64, begins and ends datetime64[us], is_open bool: [stays]. n_present int64, first and last begin datetime64[us] (NaT
    without any), n_begins int64, closed bool, reasons object (None where there is a forecast): [units].
    beds: float64 [units, 2], all and those with staff. usable: per unit times and numbers, see `make_history`.
    horizons: int64 [horizons].
    """

    known: KnownUnits
    sampling: Sampling
    horizons: np.ndarray
    names: list[str]
    unit: np.ndarray
    begins: np.ndarray
    ends: np.ndarray
    is_open: np.ndarray
    beds: np.ndarray
    usable: list[tuple[np.ndarray, np.ndarray]]
    n_present: np.ndarray
    recent: np.ndarray
    closed: np.ndarray
    reasons: np.ndarray
    plans: Plans

    @classmethod
    def of(cls, known: KnownUnits, sampling: Sampling, horizons: np.ndarray) -> "_Source":
        stays = known.stays
        names = sorted({*known.beds["unit"].unique(), *stays["unit"].dropna().unique()})
        if {HOSPITAL, _NO_UNIT} & {*names}:
            raise ContractError(f"No unit is named '{HOSPITAL}', which is the hospital, or ''; name it in stays.sql.")
        names.append(_NO_UNIT)
        unit = pd.Index(names).get_indexer(stays["unit"].astype("str").fillna(_NO_UNIT))
        begins, ends = (stays[column].to_numpy("datetime64[us]") for column in ("intime", "outtime"))
        is_open = np.isnat(ends) & stays["outcome"].isna().to_numpy()
        versions = _versions(known.beds, pd.Index(names))
        beds = np.array([numbers[-1] if len(numbers) else (np.nan, np.nan) for _, numbers in versions])

        def days_ago(days: float) -> np.ndarray:
            return begins > known.as_of - np.timedelta64(round(days * 24), "h")

        def count(which: np.ndarray) -> np.ndarray:
            return np.bincount(unit[which], minlength=len(names))

        n_begins, n_present = count(np.ones(len(unit), bool)), count(is_open)
        closed = (count(days_ago(CLOSED_DAYS)) == 0) & (n_present == 0) & (not days_ago(CLOSED_DAYS).all())
        old = count(~days_ago(MIN_HISTORY_DAYS)) > 0
        has_history = old & (n_begins >= MIN_BEGINS)
        # A stay without a unit is a rare fault of the data: it is counted, and until there are many no other is expected.
        closed[-1] = not has_history[-1]
        reasons = np.where(closed | has_history, None, TOO_LITTLE_HISTORY)
        if np.isnat(known.newest) or (known.as_of - known.newest) / HOUR > _STALE_HOURS:
            reasons[:] = STALE
        if (stays["ends_at"] == "hospital").any():
            reasons[:] = ENDS_WITH_HOSPITAL
        return cls(
            known,
            sampling,
            horizons,
            names,
            unit,
            begins,
            ends,
            is_open,
            beds,
            [(times, _usable(numbers)) for times, numbers in versions],
            n_present,
            count(days_ago(MIN_HISTORY_DAYS)),
            closed,
            reasons,
            Plans.of(known.plans, pd.Index(names), stays, known.as_of),
        )

    def fit_fresh(self, calendar: Calendar) -> FreshStays:
        """From stays that began within the history: those that began before are read only if they lasted until then."""
        stays = self.known.stays
        since = self.known.as_of - np.timedelta64(CENSUS_HISTORY_DAYS * 24, "h")
        until = np.where(self.is_open, self.known.as_of, self.ends)
        usable = stays["sound"].to_numpy(bool) & (self.begins >= since) & ~np.isnat(until)
        lasted = ((until - self.begins) / HOUR)[usable]
        alive, died = (stays["outcome"].eq(outcome).fillna(False).to_numpy(bool) for outcome in OUTCOMES)
        causes = np.select([self.is_open, alive, died], [NOT_ENDED, ALIVE, DIED], NOT_KNOWN)[usable]
        entry = np.full(len(lasted), self.sampling.delayed_entry_hours)
        clock = hour_of_day(self.begins[usable], calendar.timezone)
        return fit_fresh_stays(self.unit[usable], lasted, causes, len(self.names), entry, clock)

    def present(self, scored: ScoredStays, fresh: FreshStays, calendar: Calendar, hours: np.ndarray) -> "_Present":
        """Of open stays, their probabilities of staying and dying until so many `hours`."""
        rows = np.flatnonzero(self.is_open)
        unit = self.unit[rows]
        position = {stay_id: row for row, stay_id in enumerate(scored.stay_ids)}
        own = self.known.stays["stay_id"].iloc[rows].map(position)
        has_own = own.notna().to_numpy()
        stays, dies = np.zeros((2, len(rows), len(hours)))
        forecast = scored.forecast.take(own[has_own].to_numpy(np.int64))
        for column, h in enumerate(hours):
            stays[has_own, column] = forecast.survival(h)
            dies[has_own, column] = forecast.cumulative_incidence(h, DIED)
        elapsed, clock = (self.known.as_of - self.begins[rows]) / HOUR, _clock(self.known.as_of, calendar)
        curves = fresh.ahead(unit[~has_own], elapsed[~has_own], clock)
        stays[~has_own], dies[~has_own] = (curve[:, hours] for curve in curves)
        stays, dies = self.plans.leaving(stays, dies, rows, hours)
        return _Present(unit, hours, stays, dies if scored.forecasts_death else np.zeros_like(dies))

    def history(self) -> History:
        as_of = self.known.as_of
        days = int(np.ceil((as_of - self.begins.min()) / (24 * HOUR))) if len(self.begins) else 1
        # An end without a time frees a bed, nobody knows when.
        ends = np.where(np.isnat(self.ends) & ~self.is_open, self.begins, self.ends)
        gaps = find_gaps(self.begins, ends, as_of)
        days = min(max(days, 1), CENSUS_HISTORY_DAYS)
        return make_history(self.unit, self.begins, ends, self.usable, gaps, as_of, days)

    def held(self, units: np.ndarray) -> "_Held":
        return _Held(self.n_present[units], self.beds[units])

    @property
    def usable_now(self) -> np.ndarray:
        """Beds that can be used, NaN where not known, float64 [units]."""
        return _usable(self.beds)


def _versions(beds: pd.DataFrame, names: pd.Index) -> list[tuple[np.ndarray, np.ndarray]]:
    """Per unit the times of its versions, and beds and staffed beds of each, float64 [versions, 2]."""
    unit, times = names.get_indexer(beds["unit"].astype("str")), beds["available_at"].to_numpy("datetime64[us]")
    numbers = np.stack(
        [beds[column].to_numpy("float64", na_value=np.nan) for column in ("beds", "staffed_beds")], axis=1
    )
    order = np.lexsort((times, unit))
    bounds = np.searchsorted(unit[order], np.arange(1, len(names)))
    return list(zip(np.split(times[order], bounds), np.split(numbers[order], bounds), strict=True))


def _clock(as_of: np.datetime64, calendar: Calendar) -> int:
    """Hour of the local day of a slot; where the zone's clock is off by half an hour, that in which it is."""
    return int(hour_of_day(np.array([as_of]), calendar.timezone)[0])


def _usable(beds: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(beds[:, 1]), beds[:, 0], beds[:, 1])


@dataclass(frozen=True)
class _Present:
    """Who is in at the slot: unit (row number) int64 [stays], and at each horizon the probability of being in still, and of
    having died by then, float64 [stays, horizons]. horizons: hours, int64 [horizons]."""

    unit: np.ndarray
    horizons: np.ndarray
    stays: np.ndarray
    dies: np.ndarray

    def with_planned(self, plans: Plans, fresh: FreshStays, clock: int) -> "_Present":
        """With those who are planned to come; nothing is said of their deaths."""
        rows = plans.coming()
        if not len(rows):
            return self
        unit, p = plans.unit[rows], plans.probability[rows]
        due, chance = (of_delay.T for of_delay in plans.times(rows, plans.late_begins))
        still_in = [
            sum(c * fresh.planned(unit, d, clock, h) for d, c in zip(due, chance, strict=True)) for h in self.horizons
        ]
        stays = np.stack([p * of_horizon for of_horizon in still_in], axis=1)
        return _Present(
            np.concatenate([self.unit, unit]),
            self.horizons,
            np.concatenate([self.stays, stays]),
            np.concatenate([self.dies, 0 * stays]),
        )

    def at(self, horizons: np.ndarray) -> "_Present":
        """Only at these of its horizons."""
        columns = np.searchsorted(self.horizons, horizons)
        return _Present(self.unit, horizons, self.stays[:, columns], self.dies[:, columns])

    def beside(self, other: "_Present", n_units: int) -> "_Present":
        """Both, at the same horizons; units of the other have the row numbers that follow."""
        return _Present(
            np.concatenate([self.unit, other.unit + n_units]),
            self.horizons,
            np.concatenate([self.stays, other.stays]),
            np.concatenate([self.dies, other.dies]),
        )

    def staying(self, n_units: int) -> CountDistribution:
        """How many of each unit are in still, a row per unit and horizon."""
        order = np.argsort(self.unit, kind="stable")
        unit = self.unit[order]
        place = np.arange(len(unit)) - np.searchsorted(unit, unit)
        p = np.zeros((n_units, len(self.horizons), int(place.max(initial=-1)) + 1))
        p[unit, :, place] = self.stays[order]
        return poisson_binomial(p.reshape(n_units * len(self.horizons), -1))

    def total(self, per_stay: np.ndarray, n_units: int) -> np.ndarray:
        """Sums over the stays of each unit, [units, horizons]."""
        sums = np.zeros((n_units, len(self.horizons)))
        np.add.at(sums, self.unit, per_stay)
        return sums


@dataclass(frozen=True)
class _Parts:
    """The forecast of units: census, and with curves alone, a row per unit and horizon; the others float64 [units, horizons]."""

    census: CountDistribution
    curves: CountDistribution
    arrivals: np.ndarray
    discharges: np.ndarray
    deaths: np.ndarray

    def of(self, units: np.ndarray) -> "_Parts":
        """Only these units, by their row numbers."""
        n = self.arrivals.shape[1]
        rows = (units[:, None] * n + np.arange(n)).ravel()
        numbers = (values[units] for values in (self.arrivals, self.discharges, self.deaths))
        return _Parts(self.census.take(rows), self.curves.take(rows), *numbers)


def _forecast(
    source: _Source,
    present: _Present,
    alike: _Present,
    fresh: FreshStays,
    calendar: Calendar,
    factors: RateFactors | None,
) -> _Parts:
    """present: by the patients' own forecasts, at the horizons. alike: by the curves of their units alone, after every hour."""
    n_units, horizons, plans = len(source.names), source.horizons, source.plans
    history = source.history()
    arrivals = fit_arrivals(history, source.usable_now, calendar)
    rates = arrivals.rates(source.known.as_of, len(alike.horizons), calendar) * ~source.closed[:, None]
    if factors is not None:
        rates *= hourly(factors(windows_now(history, arrivals, calendar)), rates.shape[1])
    # In place, so that a share of 0 leaves every bit of the sums as it was.
    rates *= 1 - plans.share(source.unit, source.begins, n_units, calendar)
    clock = _clock(source.known.as_of, calendar)
    planned = np.zeros(rates.shape)
    coming = plans.coming()
    due, chance = plans.times(coming, plans.late_begins)
    by_then = ((due[..., None] <= alike.horizons) * chance[..., None]).sum(axis=1)
    np.add.at(planned, plans.unit[coming], plans.probability[coming, None] * by_then)

    beds = np.where(arrivals.blocked & ~source.closed, source.usable_now, np.nan)
    newcomers = _Newcomers.of(rates, arrivals, fresh, clock, horizons)
    each_hour = newcomers.each_hour + np.diff(planned, axis=1, prepend=0.0)
    own, curves = (those_in.with_planned(plans, fresh, clock) for those_in in (present, alike))
    by_curves = curves.total(curves.stays, n_units)
    # As if they were twice as many units: so both take hardly more time than one.
    both = own.beside(curves.at(horizons), n_units)
    twice = np.tile(np.arange(n_units), 2)
    expected = newcomers.still_in[twice] + _every_hour(both.total(both.stays, len(twice)), by_curves[twice], horizons)
    flow = Flow.of(source.n_present[twice], beds[twice], expected, each_hour[twice])
    size = newcomers.size[twice]
    free = both.staying(len(twice)).convolve(
        negative_binomial(newcomers.still_in[twice][:, horizons - 1].ravel(), size.ravel())
    )
    census = _limited(free, flow, size, horizons)
    first = np.arange(len(free)) < len(free) // 2
    come = (np.cumsum(rates, axis=1) + planned)[:, horizons - 1]
    leave_alive = np.maximum(1 - present.stays - present.dies, 0.0)
    left, died = (present.total(of_stays, n_units) for of_stays in (leave_alive, present.dies))
    return _Parts(census.take(first), census.take(~first), come, left, died)


@dataclass(frozen=True)
class _Newcomers:
    """Who comes beside those who are planned: the expected number in after each hour, and of it those who came in that hour,
    float64 [units, hours]; the size of their negative binomial number, float64 [units, horizons]."""

    still_in: np.ndarray
    each_hour: np.ndarray
    size: np.ndarray

    @classmethod
    def of(
        cls, rates: np.ndarray, arrivals: Arrivals, fresh: FreshStays, clock: int, horizons: np.ndarray
    ) -> "_Newcomers":
        still_in, each_hour = np.zeros((2, *rates.shape))
        size = np.zeros((len(rates), len(horizons)))
        for h in range(1, rates.shape[1] + 1):
            stays = fresh.newcomers(clock, h)
            still_in[:, h - 1] = (rates[:, :h] * stays).sum(axis=1)
            each_hour[:, h - 1] = rates[:, h - 1] * stays[:, -1]
            if h in horizons:
                size[:, horizons == h] = arrivals.size(rates[:, :h], stays)[:, None]
        return cls(still_in, each_hour, size)


def _every_hour(at_horizons: np.ndarray, by_curves: np.ndarray, horizons: np.ndarray) -> np.ndarray:
    """Expected numbers after every hour, [units, hours], from those at the horizons and the ones that curves give after every
    hour: in between, patients leave at the hours of the day at which curves let them."""
    ratio = at_horizons / np.maximum(by_curves[:, horizons - 1], 1e-12)
    hours = np.arange(1, by_curves.shape[1] + 1)
    return by_curves * np.stack([np.interp(hours, [0, *horizons], [1.0, *of_unit]) for of_unit in ratio])


def _limited(free: CountDistribution, flow: Flow, size: np.ndarray, horizons: np.ndarray) -> CountDistribution:
    """free: a row per unit and horizon, if every unit takes everyone; so is the result, where full ones do not."""
    usable = np.where(np.isnan(flow.usable), np.inf, flow.usable)
    width = free.probabilities.shape[1]
    may_fill = free.at_least(np.repeat(np.minimum(usable, width), len(horizons))) > _KEPT_TAIL
    rows = np.flatnonzero(may_fill.reshape(-1, len(horizons)).any(axis=1))
    if not len(rows):
        return free
    of_unit = free.probabilities.reshape(len(usable), len(horizons), width)
    total = of_unit.copy()
    limited = flow.take(rows).limit(of_unit[rows], size[rows], horizons)
    total[rows] = 0.0
    total[rows, :, : limited.shape[2]] = limited
    return CountDistribution(total.reshape(-1, width))


def _hospital(parts: _Parts, source: _Source) -> pd.DataFrame:
    """The rows of `HOSPITAL`: of all units that have a forecast, unless another may hold patients."""
    has = np.array([reason is None for reason in source.reasons])
    missing = source.reasons[~has & ((source.n_present > 0) | (source.recent > 0))]
    if not len(missing) and not has[:-1].any():
        missing = source.reasons[:-1]
    chosen = np.nonzero(has)[0]
    each = [parts.of(row) for row in chosen[:, None]]
    totals = (
        total_of([getattr(part, name) for part in each]) if each else nobody(len(source.horizons))
        for name in ("census", "curves")
    )
    sums = (values[chosen].sum(axis=0, keepdims=True) for values in (parts.arrivals, parts.discharges, parts.deaths))
    whole = _Parts(*totals, *sums)
    beds, usable = source.beds[:-1], source.usable_now[:-1]
    # With staff known of some units, what can be used is what has staff there and all beds elsewhere.
    staffed = np.nan if np.isnan(beds[:, 1]).all() else usable.sum()
    held = _Held(source.n_present.sum(keepdims=True), np.array([[beds[:, 0].sum(), staffed]]))
    reason = np.array([missing[0] if len(missing) else None], dtype=object)
    return _frame([HOSPITAL], whole, held, reason, source.horizons)


@dataclass(frozen=True)
class _Held:
    """Patients and beds of units or of the hospital: n_present int64 [units]; beds float64 [units, 2], all and those with
    staff, NaN where not known."""

    n_present: np.ndarray
    beds: np.ndarray


def _frame(names: Sequence[str], parts: _Parts, held: _Held, reasons: np.ndarray, horizons: np.ndarray) -> pd.DataFrame:
    """The rows of units; where one abstains, its patients and beds alone."""
    n, census = len(horizons), parts.census
    reasons = np.repeat(reasons, n)
    has = np.array([reason is None for reason in reasons])
    beds, staffed = np.repeat(held.beds, n, axis=0).T
    usable = np.where(np.isnan(staffed), beds, staffed)
    has_beds = has & ~np.isnan(usable)
    limit = np.where(has_beds, usable, 0).astype(np.int64)
    frame = pd.DataFrame(
        {
            "unit": np.repeat(np.array(names, dtype=object), n),
            "horizon_hours": np.tile(horizons, len(names)),
            "status": np.where(has, "scored", "abstained"),
            "status_reason": pd.Series(reasons, dtype=object),
            "n_present": np.repeat(held.n_present, n),
            "expected_census": np.where(has, census.mean(), np.nan),
            **{f"census_p{q:02d}": _whole(census.quantile(q / 100), has) for q in CENSUS_QUANTILES},
            "expected_arrivals": np.where(has, parts.arrivals.ravel(), np.nan),
            "expected_discharges": np.where(has, parts.discharges.ravel(), np.nan),
            "expected_deaths": np.where(has, parts.deaths.ravel(), np.nan),
            "beds": _whole(beds, ~np.isnan(beds)),
            "staffed_beds": _whole(staffed, ~np.isnan(staffed)),
            "prob_full": np.where(has_beds, census.at_least(limit), np.nan),
            **{f"prob_free_{k}": np.where(has_beds, census.cdf(limit - k), np.nan) for k in (1, 2, 3)},
        }
    )
    for name, counts in {"census_probabilities": census, "curves_probabilities": parts.curves}.items():
        rows = zip(counts.probabilities, counts.kept_counts(_KEPT_TAIL), has, strict=True)
        frame[name] = pd.Series([row[:k] if h else None for row, k, h in rows], dtype=object)
    return frame[list(CENSUS_COLUMNS)]


def _whole(numbers: np.ndarray, known: np.ndarray) -> pd.arrays.IntegerArray:
    """Whole numbers, null where not `known`."""
    return pd.arrays.IntegerArray(np.where(known, numbers, 0).astype(np.int64), ~known)
