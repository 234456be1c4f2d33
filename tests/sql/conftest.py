"""A migrated database that each test finds empty, and hand-made files in the form of the PhysioNet Challenge 2012."""

import io
import tarfile
from pathlib import Path

import builders_sql as b
import pytest


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
