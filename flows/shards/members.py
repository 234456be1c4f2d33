"""Members of a model fitted side by side: each leaves its checkpoint, from which the training of the job goes on."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from sqlalchemy import Engine

from flows.runtime.compute import INLINE, map_shards
from flows.runtime.databases import open_store
from flows.runtime.log import log
from flows.runtime.quiet_tensorflow import import_tensorflow
from flows.runtime.settings import load_settings
from flows.runtime.steps import check_still_open
from rnn_core.contracts.config import Kind, ModelConfig
from rnn_core.contracts.errors import ForecastError

if TYPE_CHECKING:
    from rnn_core.forecasters.forecaster import Forecaster
    from rnn_core.series.material import Material


@dataclass(frozen=True)
class Member:
    """What a training of `source` learns, as one kind of forecaster, without the patients of `fold`."""

    source: str
    kind: Kind
    fold: int


def checkpoints(source: str) -> Path:
    return load_settings().artifact_folder / ".checkpoints" / source


def after_epoch(record: dict[str, float]) -> None:
    """An epoch of a network, or all rounds of a member of another kind, have ended."""
    check_still_open()
    done = f"{record['rounds']} rounds" if "rounds" in record else f"epoch {record['epoch']} of {record['epochs']}"
    log.info(
        "%smember %d of %d, %s: loss %.4f, validation %.4f (%.1f s)",
        f"teacher of member {record['teacher_of']}, " if "teacher_of" in record else "",
        record["member"],
        record["members"],
        done,
        record["train_loss"],
        record["valid_loss"],
        record["seconds"],
    )


def fit_side_by_side(
    source: str, material: "Material", learned: np.ndarray, config: ModelConfig, start: "Forecaster | None"
) -> None:
    """Fit the members of a model in the workers, if there are any: what `Forecaster.fit` with the same arguments resumes from.

    The material is handed over in a folder of files, which is removed when the members are fitted.
    """
    if load_settings().compute == INLINE:
        return
    from rnn_core.forecasters.blend import start_of

    kinds = config.blend if config.forecaster == "blend" else (config.forecaster,)
    start = start_of(replace(config, forecaster="recurrent"), start) if "recurrent" in kinds else None
    # Networks take longest.
    members = [
        Member(source, kind, fold)
        for kind in sorted(kinds, key=lambda kind: kind != "recurrent")
        for fold in range(config.train.folds)
    ]
    with handed_over(_material_folder(source), material, learned, config, start):
        map_shards(open_store(), fit_member, members, "fitting members")


@contextmanager
def handed_over(
    folder: Path, material: "Material", learned: np.ndarray, config: ModelConfig, start: "Forecaster | None" = None
) -> Iterator[None]:
    """Everything that a member is fitted from, in a folder that is complete or absent, and removed at the end."""
    from rnn_core.series.material_files import write_material

    partial = folder.with_name(f".{folder.name}.partial")
    try:
        for left in (folder, partial):
            shutil.rmtree(left, ignore_errors=True)
        partial.mkdir(parents=True, mode=0o700)
        write_material(partial, material)
        np.save(partial / "learned.npy", learned)
        (partial / "config.json").write_text(json.dumps(config.to_json()), encoding="utf-8")
        for fold, member in enumerate(start.members() if start else ()):
            (partial / f"start_{fold}").mkdir()
            member.save(partial / f"start_{fold}")
        partial.rename(folder)
        yield
    except OSError as error:
        raise ForecastError(
            f"The material of the fit cannot be written to {folder.parent} ({error.strerror or type(error).__name__}); free "
            "space, or set another folder in ICU_ARTIFACTS."
        ) from None
    finally:
        for left in (folder, partial):
            shutil.rmtree(left, ignore_errors=True)


def _material_folder(source: str) -> Path:
    return checkpoints(source) / "members"


def fit_member(_store: Engine, member: Member) -> int:
    """Fit one member, which its checkpoint keeps; the epochs or trees of it that are used."""
    import_tensorflow()
    from rnn_core.forecasters.forecaster import kind_of
    from rnn_core.series.material_files import read_material

    folder = _material_folder(member.source)
    config = ModelConfig.from_json(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    config = replace(config, forecaster=member.kind)
    kind, start = kind_of(config), folder / f"start_{member.fold}"
    fitted = kind.fit(
        read_material(folder),
        np.load(folder / "learned.npy"),
        config,
        checkpoint_dir=checkpoints(member.source),
        warm_from=kind.load(start, config) if member.kind == "recurrent" and start.exists() else None,
        progress=after_epoch,
        folds=[member.fold],
    )
    return fitted.best_epochs[0]
