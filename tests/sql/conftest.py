"""A migrated database that each test finds empty, and hand-made files in the form of the PhysioNet Challenge 2012."""

import io
import pickle
import tarfile
from pathlib import Path

import builders_sql as b
import pytest

from sql.store.engine import open_engine


@pytest.fixture(scope="session")
def load_once(make_template, server):
    """A function that fills a template by `load` (engine → reports) once for all workers; returns its name and the reports."""

    def load_template(name: str, load):
        reports = server[1] / f"{name}.reports"

        def fill(url) -> None:
            engine = open_engine(url)
            reports.write_bytes(pickle.dumps(load(engine)))
            engine.dispose()

        return make_template(name, fill), pickle.loads(reports.read_bytes())

    return load_template


@pytest.fixture(scope="session")
def clif_schemas(load_once):
    """Name of a database with the CLIF demo as published and re-anchored, in the schemas `published` and `moved`, and the
    reports of both loads."""
    from sql.loaders import clif

    def load(engine):
        return {"published": clif.load(engine, "published"), "moved": clif.load(engine, "moved", reanchor=True)}

    return load_once("clif_schemas", load)


@pytest.fixture(scope="session")
def physionet_set_a(load_once, physionet_folder):
    """Name of a database with set a as published, in the schema `public`, and the report of its load."""
    from sql.loaders import physionet_2012

    return load_once("physionet_set_a", lambda engine: physionet_2012.load(engine, physionet_folder, sets=["a"]))


@pytest.fixture(scope="module")
def database(make_database, migrated_template):
    with b.migrated(make_database("t", migrated_template)) as engine:
        yield engine


@pytest.fixture
def engine(database):
    """The module's database without a row."""
    b.empty(database)
    return database


@pytest.fixture
def make_challenge_set(tmp_path):
    """A function that writes one set, as the published archive or unpacked, and returns its folder.

    files: text of each stay's file below the header, by record id. outcomes: lines of the outcome file, likewise.
    """

    def make(name: str, files: dict[int, str], outcomes: list[str] | None, *, archive: bool = True) -> Path:
        folder = tmp_path / "challenge"
        folder.mkdir(exist_ok=True)
        header = "Time,Parameter,Value"
        contents = {f"set-{name}/{record}.txt": f"{header}\n{body}".encode() for record, body in files.items()}
        if archive:
            with tarfile.open(folder / f"set-{name}.tar.gz", "w:gz") as tar:
                for path, content in contents.items():
                    member = tarfile.TarInfo(path)
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
        else:
            (folder / f"set-{name}").mkdir()
            for path, content in contents.items():
                (folder / path).write_bytes(content)
        if outcomes is not None:
            header = "RecordID,SAPS-I,SOFA,Length_of_stay,Survival,In-hospital_death"
            (folder / f"Outcomes-{name}.txt").write_text("\n".join([header, *outcomes]) + "\n")
        return folder

    return make
