"""The benchmark of the census forecast: whole stays of ingested sources in a made-up hospital, in memory."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from flows.runtime import clock
from flows.runtime.databases import adapter_name, open_store
from flows.runtime.log import log
from flows.runtime.quiet_tensorflow import import_tensorflow
from rnn_core.contracts.config import Sampling
from rnn_core.contracts.known import Known, stack
from sql.intake.adapter import load_adapter
from sql.published import canonical

if TYPE_CHECKING:
    from rnn_core.benchmark.census_contest import CensusJudgement
    from rnn_core.benchmark.census_run import Kind


def read_whole_stays(sources: Sequence[str]) -> tuple[Known, Sampling]:
    """Whole stays of sources that are ingested here, with their observations, and how they came into the sample.

    Raises ForecastError for a source that does not exist or has no whole unit stays.
    """
    from sql.loaders.replay import read_pool

    adapters = [load_adapter(adapter_name(source)) for source in sources]
    store, as_of = open_store(), clock.slot(None)
    pool = read_pool(store, sources, as_of)
    parts = [canonical.read_known(store, source, as_of) for source in sources]
    wanted = pool.groupby("source")["stay_id"].agg(set)
    whole = [
        part.take(part.stays["stay_id"].isin(wanted[source]).to_numpy())
        for part, source in zip(parts, sources, strict=True)
    ]
    sampling = Sampling(delayed_entry_hours=max(adapter.sampling.delayed_entry_hours for adapter in adapters))
    return stack(whole), sampling


def run_benchmark(
    sources: Sequence[str],
    *,
    beds: Sequence[int],
    days: int,
    judged_days: int,
    kind: "Kind",
    folds: int,
    draws: int,
    seed: int,
) -> "CensusJudgement":
    """See `rnn_core.benchmark.census_run.run`; nothing is written."""
    from flows.public_data.benchmark_run import configure

    known, sampling = read_whole_stays(sources)
    log.info("%s whole stays of %s", f"{len(known.stays):,}", ", ".join(sources))
    import_tensorflow()
    from rnn_core.benchmark.census_run import run

    judgement = run(
        known,
        sampling,
        configure(seed, None, None),
        beds=beds,
        days=days,
        judged_days=judged_days,
        kind=kind,
        folds=folds,
        draws=draws,
        seed=seed,
        progress=log.info,
    )
    judgement.protocol["sources"] = list(sources)
    return judgement
