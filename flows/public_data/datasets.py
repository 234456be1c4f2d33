"""Public data sets as a stand-in for a hospital: each is loaded, as published, into the database of its source."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pandas as pd

from flows.runtime import clock
from flows.runtime.databases import adapter_name, open_source, open_store
from flows.runtime.log import log
from rnn_core.contracts.errors import ForecastError
from sql.loaders import LoadReport

if TYPE_CHECKING:
    from rnn_core.benchmark.replay import World


def load_clif(*, reanchor: bool, seed: int) -> LoadReport:
    """The MIMIC-IV demo in CLIF form, from a wheel."""
    from sql.loaders import clif

    adapter, engine = open_source("clif", writable=True)
    return clif.load(engine, adapter.schemas["schema"], reanchor=reanchor, seed=seed, progress=log.info)


def load_physionet_2012(
    folders: Collection[Path],
    *,
    sets: Collection[str] | None,
    layout: Literal["calendar", "together"],
    withhold_outcomes: bool | Collection[str],
    seed: int,
) -> LoadReport:
    """The files of the PhysioNet Challenge 2012 in `folders`; see the loader for the arguments.

    Raises ForecastError if the files are missing.
    """
    from sql.loaders import physionet_2012

    if not folders:
        raise ForecastError(
            "physionet_2012 needs --path: a folder with set-a.tar.gz and Outcomes-a.txt as published at "
            "physionet.org/content/challenge-2012."
        )
    adapter, engine = open_source("physionet_2012", writable=True)
    return physionet_2012.load(
        engine,
        folders,
        sets=sets,
        schema=adapter.schemas["schema"],
        layout=layout,
        withhold_outcomes=withhold_outcomes,
        seed=seed,
        progress=log.info,
    )


def load_mimic_iii(folders: Collection[Path]) -> LoadReport:
    """The files of MIMIC-III in the one folder. Raises ForecastError if they are missing."""
    from sql.loaders import mimic_iii

    if len(folders) != 1:
        raise ForecastError(
            "mimic_iii needs one --path: the folder with ICUSTAYS.csv.gz and the other tables, as published at "
            "physionet.org/content/mimiciii-demo/1.4."
        )
    adapter, engine = open_source("mimic_iii", writable=True)
    (folder,) = folders
    return mimic_iii.load(engine, folder, adapter.schemas["schema"], progress=log.info)


def load_eicu(folders: Collection[Path]) -> LoadReport:
    """The files of eICU in the folders. Raises ForecastError if they are missing or not as published."""
    from sql.loaders import eicu

    if not folders:
        raise ForecastError(
            "eicu needs --path: a folder with patient.csv.gz and the other tables, as published at "
            "physionet.org/content/eicu-crd-demo."
        )
    adapter, engine = open_source("eicu", writable=True)
    return eicu.load(engine, folders, adapter.schemas["schema"], progress=log.info)


def load_meds(folders: Collection[Path]) -> LoadReport:
    """The events in the one folder, which stay there. Raises ForecastError if there are none."""
    from sql.loaders import meds

    if len(folders) != 1:
        raise ForecastError(
            "meds needs one --path: the folder of a MEDS data set, with Parquet files in it or in its `data`."
        )
    adapter, engine = open_source("meds", writable=True)
    (folder,) = folders
    return meds.load(engine, folder, adapter.schemas["schema"])


def load_replay(sources: Sequence[str], *, beds: Sequence[int], days: int, seed: int) -> LoadReport:
    """A made-up hospital in which whole stays of sources that are ingested here arrive by a stated process.

    Raises ForecastError for a source that does not exist or has no whole stays, and for beds or days that make no
    hospital.
    """
    from rnn_core.benchmark.replay import Lengths, first_hour, make_process, make_world
    from sql.loaders import replay

    for source in sources:
        adapter_name(source)
    store = open_store()
    pool = replay.read_pool(store, sources, clock.slot(None))
    begin, end = (pool[column].to_numpy("datetime64[us]") for column in ("intime", "outtime"))
    lengths = Lengths.of(begin, end)
    process = make_process(beds, days, lengths, seed)
    log.info("%s whole stays of %s to draw from", f"{len(pool):,}", ", ".join(sources))
    world = make_world(process, lengths)
    drawn = pool.iloc[world.arrivals["stay"]].reset_index(drop=True)
    plan = pd.DataFrame(
        {
            "source": drawn["source"],
            "stay_id": drawn["stay_id"],
            "unit": pd.Series(process.units).take(world.arrivals["unit"]).to_numpy(),
            "shift": world.shifts(first_hour(begin)),
        }
    )
    adapter, engine = open_source("replay", writable=True)
    named = dict(zip(process.units, process.beds, strict=True))
    report = replay.load(engine, store, plan, named, process.to_json(), adapter.schemas["schema"], progress=log.info)
    return replace(report, notes=tuple(_what_is_real(world, sources, len(pool))))


def _what_is_real(world: "World", sources: Sequence[str], stays: int) -> Iterator[str]:
    process, first, last = world.process, *world.calendar
    units = ", ".join(f"{unit} ({n} beds)" for unit, n in zip(process.units, process.beds, strict=True))
    yield f"A made-up hospital from {first:%Y-%m-%d} to {last:%Y-%m-%d} UTC, seed {process.seed}: {units}."
    yield (
        f"Made up: units, beds, ids, and when each of the {len(world.arrivals):,} stays begins, by the process of "
        f"sql/sources/replay/README.md; {world.turned_away.sum():,} patients found no bed and were turned away."
    )
    yield (
        f"Real: the stays, drawn with replacement from {stays:,} of {', '.join(sources)}, with their values, lengths and "
        "outcomes, moved by whole hours. A model trained here has seen copies of the stays it is judged on."
    )


def describe(report: LoadReport) -> str:
    """What was loaded, in sentences."""
    return " ".join([f"{sum(report.rows.values()):,} rows in {len(report.rows)} tables.", *report.notes])
