"""Functions of shards that workers of tests import: they count, fail, wait, or kill their own process."""

import os
import signal
import time
from pathlib import Path
from typing import NamedTuple

from flows.runtime.settings import load_settings


class Marked(NamedTuple):
    """A shard with a folder in which every attempt at it leaves a file."""

    number: int
    folder: Path

    def attempt(self) -> int:
        """Writes down this attempt; how many there are by now."""
        before = len(list(self.folder.glob(f"{self.number}-*")))
        (self.folder / f"{self.number}-{before}").write_text(str(os.getpid()))
        return before + 1


def square(_store, number: int) -> tuple[int, int]:
    """With the process that computed it."""
    return number**2, os.getpid()


def quote_a_patient(_store, number: int) -> int:
    if number == 1:
        raise ValueError("patient 4711 died")
    time.sleep(0.2)
    return number


def die_once(_store, shard: Marked) -> int:
    if shard.attempt() == 1 and shard.number == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return shard.number


def die_always(_store, shard: Marked) -> int:
    shard.attempt()
    if shard.number == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return shard.number


def wait_long(_store, shard: Marked) -> int:
    """Ends after two minutes, unless its process is ended; the first shard fails once another has begun."""
    shard.attempt()
    if shard.number == 0:
        while not list(shard.folder.glob("[1-9]-*")):
            time.sleep(0.05)
        raise ValueError("the first shard fails")
    time.sleep(120)
    return shard.number


def kill_the_scheduler(_store, shard: Marked) -> int:
    """The second shard kills the scheduler, whose process id is in the folder."""
    if shard.attempt() and shard.number == 1:
        os.kill(int((shard.folder / "scheduler").read_text()), signal.SIGKILL)
        time.sleep(60)
    return shard.number


def home(_store, _number: int) -> str:
    return str(load_settings().home)
