"""Contenders of a benchmark, in a module that their processes can import."""

import os
from time import sleep


def rests():
    return "found", lambda: sleep(0.02)


def fails():
    raise ValueError("no such network")


def dies():
    os._exit(1)
