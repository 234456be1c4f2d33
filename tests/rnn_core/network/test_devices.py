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

from rnn_core.network.cells import build_recurrent
from rnn_core.network.devices import _describe_gpus, choose_devices, share_of_replica

# Two logical CPUs stand in for two GPUs; they must be made before TensorFlow is used, so in a process of their own.
SCRIPT = """
import json, sys
from dataclasses import replace
from pathlib import Path
import numpy as np
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from rnn_core.network.devices import Devices
from rnn_core.series.windows import bucket_lengths
from test_training import TINY, fit, make_data, split

windows, labels = make_data(n=44, longest=20)
lengths = (windows.stop - windows.start)[split(windows)[0]]
network = replace(TINY.network, cell="lstm", dropout=0.0, l1=1e-3)
config = replace(TINY, network=network, train=replace(TINY.train, clip_norm=0.05))
both = Devices("cpu", ("CPU:0", "CPU:1"), False, "")
one = replace(both, names=("CPU:0",))
trainings = {}

def keep(name, fitted):
    weights = [w.tolist() for w in fitted.model.get_weights()]
    trainings[name] = [weights, [h["train_loss"] for h in fitted.history], [h["valid_loss"] for h in fitted.history]]

epochs = []
def interrupt(record):
    epochs.append(record["epoch"])
    if record["epoch"] == 2 and len(epochs) == 2:
        raise KeyboardInterrupt

keep("one", fit(windows, labels, config, devices=one))
checkpoint = {"checkpoint_dir": Path(sys.argv[1]), "progress": interrupt, "devices": both}
try:
    fit(windows, labels, config, **checkpoint)
except KeyboardInterrupt:
    keep("two", fit(windows, labels, config, **checkpoint))
other = replace(config, network=replace(network, cell="jordan", units=(6,), dropout=0.3))
keep("another network", fit(windows, labels, other, devices=both))
found = {"replicas": both.strategy().num_replicas_in_sync, "buckets": np.unique(bucket_lengths(lengths)).tolist()}
print("RESULT" + json.dumps(found | {"windows": len(lengths), "epochs": epochs, "trainings": trainings}))
"""


def train_on_two(checkpoints: Path) -> dict:
    root = Path(__file__).resolve().parents[3]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(root), str(Path(__file__).parent)])}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(checkpoints)], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.split("RESULT")[1])


@pytest.mark.soak
def test_two_devices_give_the_weights_and_losses_of_one_even_when_cut_off_and_resumed(tmp_path):
    """An odd last batch, l1 and clipping are at work; dropout is not, since each device draws its own masks."""
    found = train_on_two(tmp_path)
    # Batches of 16, all of one bucket: the last holds a single window, which leaves one of the devices without any.
    assert (found["replicas"], len(found["buckets"]), found["windows"] % 16) == (2, 1, 1)
    trainings = found["trainings"]
    expected, *expected_losses = trainings["one"]
    weights, *losses = trainings["two"]
    assert found["epochs"] == [1, 2, 3]
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-5)
    for ours, theirs in zip(weights, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    assert losses[0][-1] < losses[0][0]
    # The same process trains a network of another shape after it, and with dropout.
    _, losses, _ = trainings["another network"]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    ("capabilities", "bfloat16", "words"),
    [
        ([(8, 0)], True, "1 GPU (A), with the whole batch; mixed precision if requested"),
        ([(7, 5)], False, "1 GPU (A), with the whole batch; float32, because bfloat16 would be slower"),
        (
            [(9, 0), (7, 5)],
            False,
            "2 GPUs (A, B), each with a share of every batch; float32, because bfloat16 would be slower",
        ),
    ],
)
def test_all_gpus_are_used_and_bfloat16_only_where_all_are_fast_in_it(capabilities, bfloat16, words):
    details = [{"device_name": name, "compute_capability": c} for name, c in zip("AB", capabilities, strict=False)]
    devices = _describe_gpus(details)
    assert (devices.kind, devices.bfloat16, devices.reason) == ("gpu", bfloat16, words)
    assert devices.names == ("GPU:0", "GPU:1")[: len(capabilities)]


def test_gpus_of_unknown_make_are_used_in_float32():
    devices = _describe_gpus([{}])
    assert (devices.names, devices.bfloat16) == (("GPU:0",), False)


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
