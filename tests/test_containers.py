"""The container files, judged by the tools that read them and by what an installation needs; no engine is at hand."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import typer.main
import yaml

from flows.cli import app
from flows.runtime.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
PASSWORDS = {
    "POSTGRES_PASSWORD": "one",
    "FORECAST_DB_PASSWORD": "two",
    "PREFECT_DB_PASSWORD": "three",
    "PREFECT_AUTH": "a:b",
}
ONE_SHOT = {"migrate", "deploy"}
EXACT_TAG = re.compile(r"[\w./-]+:\d+\.\d+(\.\d+)?[\w.-]*")


def tool(name: str) -> str:
    """The program that came with the environment of these tests."""
    found = shutil.which(name, path=Path(sys.executable).parent)
    assert found, f"{name} is not in the environment; run `make setup`"
    return found


def run(*command: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False, **options)


@pytest.fixture(scope="module")
def compose():
    """A function that runs compose 2 or newer with nothing set but the passwords it is given."""
    environment = {"COMPOSE_PROFILES": "gpu,no-gpu,cluster", "PATH": os.environ["PATH"]}
    for command in _compose_programs():
        if re.search(r"version v?([2-9]|\d\d)\.", run(*command, "version").stdout):
            return lambda *words, **passwords: run(
                *command, "--env-file", "/dev/null", *words, env=environment | passwords
            )
    pytest.skip("no docker compose 2 or newer here; requirements-compose.txt has it for Linux on x86-64")


def _compose_programs() -> Iterator[list[str]]:
    # The package's own command forgets the exit code of the program it starts.
    if package := find_spec("compose"):
        yield [str(Path(package.origin).with_name("docker-compose"))]
    yield from (command for command in (["docker-compose"], ["docker", "compose"]) if shutil.which(command[0]))


@pytest.fixture(scope="module")
def services() -> dict:
    """The services with anchors and variables resolved."""
    text = re.sub(r"\$\{(\w+):\?[^}]*\}", lambda m: PASSWORDS[m[1]], (ROOT / "docker-compose.yml").read_text())
    return yaml.safe_load(text)["services"]


def test_compose_file_follows_the_specification():
    done = run(tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", "docker-compose.yml")
    assert done.returncode == 0, done.stdout


def test_compose_reads_the_file_without_a_word(compose):
    done = compose("config", "--quiet", **PASSWORDS)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("missing", PASSWORDS)
def test_compose_refuses_to_start_without_a_password_and_says_which(compose, missing):
    done = compose("config", "--quiet", **{k: v for k, v in PASSWORDS.items() if k != missing})
    assert done.returncode != 0
    assert f"required variable {missing} is missing a value: set {missing} in .env" in done.stderr


def test_dockerfile_has_no_finding():
    done = run(tool("hadolint"), "Dockerfile")
    assert (done.returncode, done.stdout) == (0, "")


def test_dockerfile_has_a_cpu_and_a_gpu_target_that_take_the_locks():
    text = (ROOT / "Dockerfile").read_text()
    for target in ("cpu", "gpu"):
        stage = text.split(f" AS {target}\n")[1].split("\nFROM ")[0]
        assert f"--require-hashes --requirement requirements-{target}.txt" in stage
        assert "USER 10001:10001" in stage


def test_every_image_has_an_exact_tag(services):
    images = {name: service["image"] for name, service in services.items()}
    assert {name for name, image in images.items() if not EXACT_TAG.fullmatch(image)} == set()
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.M)[1]
    ours = {image for image in images.values() if image.startswith("icu-forecast:")}
    assert ours == {f"icu-forecast:{version}-cpu", f"icu-forecast:{version}-gpu"}
    (base,) = re.findall(r"^FROM (\S+) AS base$", (ROOT / "Dockerfile").read_text(), re.M)
    assert EXACT_TAG.fullmatch(base)


def test_each_image_of_ours_is_built_by_one_service(services):
    """Two builds under one name run side by side, and on a clean machine the second fails: it exists already."""
    built = {
        name: (service["image"], service["build"]["target"]) for name, service in services.items() if "build" in service
    }
    assert all(image.endswith(f"-{target}") for image, target in built.values())
    ours = {service["image"] for service in services.values() if service["image"].startswith("icu-forecast:")}
    assert sorted(image for image, _ in built.values()) == sorted(ours)


def test_ports_are_open_to_this_machine_only(services):
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert len(ports) == 2
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_no_service_has_more_rights_than_it_needs(services):
    for name, service in services.items():
        assert service["cap_drop"] == ["ALL"], name
        assert "no-new-privileges:true" in service["security_opt"], name
        assert service.get("user", "10001") not in ("root", "0"), name
        assert service.get("read_only") or name == "postgres", name


def test_what_runs_long_has_a_health_check_and_comes_back(services):
    lasting = {name: service for name, service in services.items() if name not in ONE_SHOT}
    assert all("healthcheck" in service and service["restart"] == "unless-stopped" for service in lasting.values())
    assert len(lasting) == 7


def test_nobody_starts_before_what_it_needs(services):
    needs = {
        name: {other: need["condition"] for other, need in service.get("depends_on", {}).items()}
        for name, service in services.items()
    }
    assert needs["migrate"] == {"postgres": "service_healthy"}
    assert needs["deploy"] == {"migrate": "service_completed_successfully", "prefect-server": "service_healthy"}
    for worker in ("worker-cpu", "worker-gpu", "worker-gpu-without-gpu"):
        assert needs[worker] == {"deploy": "service_completed_successfully"}
    assert needs["dask-worker"] == {"dask-scheduler": "service_healthy"}


def test_the_cluster_profile_starts_dask_of_the_image_as_its_own_command_line_takes_it(services, compose):
    listed = compose("config", "--services", **PASSWORDS).stdout.split()
    assert {"dask-scheduler", "dask-worker"} <= set(listed)
    assert services["dask-scheduler"]["image"] == services["dask-worker"]["image"] == services["worker-cpu"]["image"]
    assert "ports" not in services["dask-scheduler"] and "networks" not in services["dask-scheduler"]
    assert "ICU_DATABASE_URL" not in services["dask-scheduler"]["environment"]
    pytest.importorskip("distributed", reason="the extra `cluster` is not installed")
    for name in ("dask-scheduler", "dask-worker"):
        which, *words = services[name]["command"]
        options = run(sys.executable, "-m", "dask", which, "--help").stdout
        assert all(word in options for word in words if word.startswith("--")), name
    requirements = (ROOT / "requirements-cpu.txt").read_text()
    assert "\ndistributed==" in requirements


def test_workers_share_the_artifacts_and_only_one_asks_for_a_gpu(services):
    workers = {name: service for name, service in services.items() if name.startswith("worker-")}
    assert {volume for worker in workers.values() for volume in worker["volumes"]} == {"state:/var/lib/icu-forecast"}
    assert {w["environment"]["ICU_ARTIFACTS"] for w in workers.values()} == {"/var/lib/icu-forecast/artifacts"}
    assert [name for name, worker in workers.items() if "deploy" in worker] == ["worker-gpu"]
    (device,) = services["worker-gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])
    assert services["worker-gpu"]["profiles"] != services["worker-gpu-without-gpu"]["profiles"]


def test_nothing_calls_home_and_the_server_asks_for_a_password(services):
    for name, service in services.items():
        assert service["environment"]["DO_NOT_TRACK"] == "1", name
        assert service["environment"]["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false", name
    assert services["prefect-server"]["environment"]["PREFECT_SERVER_API_AUTH_STRING"] == "a:b"
    assert services["worker-cpu"]["environment"]["PREFECT_API_AUTH_STRING"] == "a:b"


def test_no_password_stands_in_the_file():
    data = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    for name, service in data["services"].items():
        for variable, value in service.get("environment", {}).items():
            if variable.endswith(("PASSWORD", "AUTH_STRING")):
                assert value.startswith("${"), f"{name}: {variable}"
            assert not re.search(r"://\w+:(?!\$\{)[^@]+@", str(value)), f"{name}: {variable}"


def test_services_run_commands_and_settings_that_exist(services):
    commands = typer.main.get_command(app)
    for name, service in services.items():
        if service.get("entrypoint") or name == "postgres":
            continue
        command = commands
        for word in service["command"]:
            if word.startswith("-") or not hasattr(command, "commands"):
                break
            command = command.commands[word]
        options = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in service["command"] if word.startswith("--")} <= options, name
        known = {f"ICU_{field.upper()}" for field in Settings.model_fields}
        assert {v for v in service["environment"] if v.startswith("ICU_")} <= known, name


def test_the_image_holds_what_the_command_reads_and_no_secrets():
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert ignored[ignored.index("*")] == "*"
    kept = {line[1:] for line in ignored if line.startswith("!")}
    copied = set(re.findall(r"^COPY (?!--)(.+?) \S+$", (ROOT / "Dockerfile").read_text(), re.M))
    assert {word for line in copied for word in line.split()} == kept
    assert all((ROOT / name).exists() for name in kept)
