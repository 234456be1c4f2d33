"""What `make setup` does, with programs in the place of Python, pip and uv that write down how they are called."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LOCKS = ("requirements.txt", "requirements-demo.txt", "requirements-compose.txt")

# Python makes an environment by copying itself into it; as pip it prints much, and fails for the file it is to fail for. It
# installs uv where there is one to install.
FAKE_PYTHON = """#!/bin/bash
case "$*" in
  "-m venv "*) mkdir -p $3/bin && cp "$0" $3/bin/python ;;
  "-m pip config"*) echo "https://mirror.hospital/simple" ;;
  *"pip install"*requirements-setup.txt) cp programs/uv-to-install "${0%python}uv" ;;
  *"pip install"*) """
FAKE_INSTALL = """
    echo "$UV_DEFAULT_INDEX $0 $*" >> calls
    for n in $(seq 300); do echo "Collecting package-$n"; done
    if [[ -n $FAILS && "$*" == *"$FAILS"* ]]; then echo "ERROR: no $FAILS" >&2; exit 3; fi ;;
  --version) echo "Python 3.12.1" ;;
  venv*) ;;
  -c*) exit ${WRONG_VERSION:-0} ;;
esac
"""


def write_program(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture(params=["pip", "uv", "uv-to-install"])
def checkout(request, tmp_path):
    """A folder with the script and its locks, and the programs that it would run."""
    shutil.copy(ROOT / "setup.sh", tmp_path)
    for lock in LOCKS:
        (tmp_path / lock).write_text("one==1\ntwo==2\n")
    write_program(tmp_path / "programs" / "python3.12", FAKE_PYTHON + FAKE_INSTALL)
    if request.param != "pip":
        write_program(
            tmp_path / "programs" / request.param, '#!/bin/bash\ncase "$*" in *"pip install"*)' + FAKE_INSTALL
        )
    return tmp_path


def set_up(checkout: Path, **environment: str) -> subprocess.CompletedProcess:
    path = f"{checkout / 'programs'}:/usr/bin:/bin"
    return subprocess.run(
        ["bash", "setup.sh", "python3.12", "requirements.txt"],
        cwd=checkout,
        env={"PATH": path, "HOME": os.environ["HOME"], **environment},
        capture_output=True,
        text=True,
    )


def test_a_setup_prints_a_line_per_step_and_keeps_all_output_in_its_log(checkout):
    done = set_up(checkout)
    assert done.returncode == 0, done.stderr
    first, *steps = done.stdout.splitlines()
    assert first.startswith("Setting up .venv with Python 3.12.1") and first.endswith(".venv/setup.log")
    assert [line.split("  ")[0] for line in steps] == [f"{n} of 4" for n in (1, 2, 3, 4)]
    assert "2 packages of requirements.txt: 300 fetched" in steps[0]
    assert (checkout / ".venv" / "setup.log").read_text().count("Collecting") == 4 * 300
    calls = (checkout / "calls").read_text().splitlines()
    assert [call.split()[-1] for call in calls] == ["requirements.txt", "requirements-demo.txt", ".", LOCKS[2]]
    assert ["--require-hashes" in call for call in calls] == [True, True, False, True]


@pytest.mark.parametrize("part", ["-r requirements.txt", "requirements-demo.txt", "-e ."])
def test_a_part_that_cannot_be_installed_fails_the_setup_and_shows_the_end_of_its_log(checkout, part):
    done = set_up(checkout, FAILS=part)
    assert done.returncode == 1
    assert "The end of .venv/setup.log:" in done.stderr and f"ERROR: no {part}" in done.stderr
    assert len(done.stderr.splitlines()) < 25


@pytest.mark.parametrize("checkout", ["uv-to-install"], indirect=True)
def test_uv_comes_with_pip_and_takes_packages_from_the_index_of_pip(checkout):
    set_up(checkout)
    calls = (checkout / "calls").read_text().splitlines()
    assert {call.split(" pip")[0] for call in calls} == {"https://mirror.hospital/simple .venv/bin/uv"}


@pytest.mark.parametrize("checkout", ["uv-to-install"], indirect=True)
def test_where_uv_cannot_install_pip_does(checkout):
    done = set_up(checkout, FAILS="pip install --python")
    assert done.returncode == 0 and "uv could not install them; pip tries." in done.stdout
    calls = (checkout / "calls").read_text().splitlines()
    assert ["bin/uv" in call for call in calls] == [True, False, False, False, False]


def test_without_compose_the_setup_succeeds_and_says_what_is_skipped(checkout):
    done = set_up(checkout, FAILS="requirements-compose.txt")
    assert done.returncode == 0
    assert "tests of docker-compose.yml are skipped" in done.stdout


def test_another_version_of_python_is_refused_before_anything_is_installed(checkout):
    done = set_up(checkout, WRONG_VERSION="1")
    assert done.returncode == 1 and "needs Python 3.11, 3.12 or 3.13; found Python 3.12.1" in done.stderr
    assert not (checkout / ".venv").exists()
