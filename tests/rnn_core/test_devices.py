import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.src.backend.tensorflow.rnn import _do_gru_arguments_support_cudnn, _do_lstm_arguments_support_cudnn

from rnn_core.cells import build_recurrent
from rnn_core.devices import choose_devices, share_of_replica

# Two logical CPUs stand in for two GPUs; they must be made before TensorFlow is used, so in a process of their own.
SCRIPT = """
import json, sys
from dataclasses import replace
import numpy as np
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from rnn_core.devices import Devices
from test_training import TINY, fit, make_data

# Batches of 16 out of 33 windows leave one window over, for two devices; l1 and clipping are at work.
windows, labels = make_data(n=44)
network = replace(TINY.network, cell=sys.argv[1], dropout=0.0, l1=1e-3)
config = replace(TINY, network=network, train=replace(TINY.train, clip_norm=0.05, epochs=3))
both = Devices("cpu", ("CPU:0", "CPU:1"), False, "")
assert both.strategy().num_replicas_in_sync == 2
found = {}
for name, devices in {"one": replace(both, names=("CPU:0",)), "two": both}.items():
    fitted = fit(windows, labels, config, devices=devices)
    found[name] = [[w.tolist() for w in fitted.model.get_weights()], [h["train_loss"] for h in fitted.history]]
resumed = fit(windows, labels, replace(config, train=replace(config.train, epochs=3)), devices=both, checkpoint_dir=sys.argv[2])
again = fit(windows, labels, replace(config, train=replace(config.train, epochs=3)), devices=both, checkpoint_dir=sys.argv[2])
found["read back"] = [[w.tolist() for w in again.model.get_weights()], [h["train_loss"] for h in again.history]]
found["shortest batch"] = min(len(b) for b in [list(range(33))[i : i + 16] for i in range(0, 33, 16)])
print("RESULT" + json.dumps(found))
"""


@pytest.mark.parametrize("cell", ["lstm", "jordan"])
def test_two_devices_give_the_weights_and_losses_of_one(cell, tmp_path):
    root = Path(__file__).resolve().parents[2]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(root), str(Path(__file__).parent)])}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, cell, str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.split("RESULT")[1])
    assert found["shortest batch"] == 1
    for name in ("two", "read back"):
        weights, losses = found[name]
        np.testing.assert_allclose(losses, found["one"][1], rtol=1e-5)
        for ours, theirs in zip(weights, found["one"][0], strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-5)
    assert found["two"][1][-1] < found["two"][1][0]


def test_without_a_gpu_the_cpu_is_chosen_and_the_reason_is_told():
    if tf.config.list_physical_devices("GPU"):
        pytest.skip("this machine has a GPU")
    devices = choose_devices()
    assert (devices.kind, devices.names, devices.bfloat16) == ("cpu", ("CPU:0",), False)
    assert devices.reason.startswith("the CPU: ")
    assert devices.strategy().num_replicas_in_sync == 1


def test_shares_of_all_replicas_together_are_the_batch():
    x, weight = tf.reshape(tf.range(10.0), (5, 2)), tf.ones((5, 3))
    shares = [share_of_replica((x, weight), number, 2) for number in range(2)]
    rows = np.concatenate([share[0].numpy() for share in shares])
    assert sorted(map(tuple, rows)) == sorted(map(tuple, x.numpy()))
    assert sum(float(tf.reduce_sum(share[1])) for share in shares) == 15


def test_a_replica_without_a_row_gets_one_that_does_not_count():
    x, weight = tf.constant([[7.0]]), tf.ones((1, 3))
    (first, counted), (second, uncounted) = (share_of_replica((x, weight), number, 2) for number in range(2))
    assert first.shape == second.shape == (1, 1)
    assert (float(tf.reduce_sum(counted)), float(tf.reduce_sum(uncounted))) == (3, 0)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_cells_of_keras_keep_what_cudnn_asks_for(cell):
    """Other activations or an unrolled layer would train many times slower on a GPU, without a word."""
    x = keras.Input((None, 3))
    layer = build_recurrent(cell, 4, name="recurrent", return_sequences=True)
    layer(x)
    options = {"unroll": layer.unroll, "use_bias": layer.use_bias}
    if cell == "lstm":
        takes = _do_lstm_arguments_support_cudnn
    else:
        takes, options = _do_gru_arguments_support_cudnn, options | {"reset_after": layer.reset_after}
    assert takes(activation=layer.activation, recurrent_activation=layer.recurrent_activation, **options)
    assert not takes(activation=keras.activations.relu, recurrent_activation=layer.recurrent_activation, **options)
    assert layer.use_cudnn == "auto"
    assert not layer.cell.recurrent_dropout
