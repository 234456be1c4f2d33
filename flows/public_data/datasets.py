"""Public data sets as a stand-in for a hospital: each is loaded, as published, into the database of its source."""

from collections.abc import Collection
from pathlib import Path
from typing import Literal

from flows.runtime.databases import open_source
from flows.runtime.log import log
from rnn_core.contracts.errors import ForecastError
from sql.loaders import LoadReport


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


def describe(report: LoadReport) -> str:
    """What was loaded, in sentences."""
    return " ".join([f"{sum(report.rows.values()):,} rows in {len(report.rows)} tables.", *report.notes])
