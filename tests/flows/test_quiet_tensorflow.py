"""TensorFlow is imported without the lines of its C++ libraries, and standard error works again afterwards."""

import subprocess
import sys

import pytest

CODE = """
import os, sys
from flows.runtime.quiet_tensorflow import import_tensorflow
import_tensorflow()
assert "tensorflow" in sys.modules
os.write(2, b"by the descriptor\\n")
print("by Python", file=sys.stderr)
"""


@pytest.mark.soak
def test_importing_tensorflow_prints_nothing_and_leaves_standard_error_open():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines() == ["by the descriptor", "by Python"]
