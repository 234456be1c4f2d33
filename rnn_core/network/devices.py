"""Which devices a training uses, and why: one GPU, all of several, or the CPU."""

from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import tensorflow as tf

# GPUs from this compute capability on have bfloat16 units; on older ones bfloat16 is slower than float32.
_BFLOAT16_FROM = (8, 0)


@dataclass(frozen=True)
class Devices:
    """names: TensorFlow's names, e.g. "GPU:0"; bfloat16: whether mixed precision would be faster; reason: a sentence."""

    kind: Literal["cpu", "gpu"]
    names: tuple[str, ...]
    bfloat16: bool
    reason: str

    def strategy(self) -> tf.distribute.Strategy:
        """How TensorFlow distributes a step: with several devices each holds the network and a share of every batch."""
        return _mirrored(self.names) if len(self.names) > 1 else tf.distribute.get_strategy()


@cache
def _mirrored(names: tuple[str, ...]) -> tf.distribute.Strategy:
    # One for the whole process: each strategy numbers its reductions from 0 and TensorFlow identifies them by number, so
    # the second network of a process would be taken for the first and fail on its shapes.
    return tf.distribute.MirroredStrategy(names)


def choose_devices() -> Devices:
    """All GPUs that TensorFlow sees, or the CPU if there are none."""
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        built = "TensorFlow sees no GPU" if tf.test.is_built_with_cuda() else "this TensorFlow is built without CUDA"
        return Devices("cpu", ("CPU:0",), False, f"the CPU: {built}")
    return _describe_gpus([tf.config.experimental.get_device_details(gpu) for gpu in gpus])


def _describe_gpus(details: list[dict[str, Any]]) -> Devices:
    fast = all(tuple(d.get("compute_capability", (0, 0))) >= _BFLOAT16_FROM for d in details)
    models = ", ".join(sorted({str(d.get("device_name", "of unknown make")) for d in details}))
    count = len(details)
    how = "each with a share of every batch" if count > 1 else "with the whole batch"
    precision = "mixed precision if requested" if fast else "float32, because bfloat16 would be slower"
    reason = f"{count} GPU{'s' if count > 1 else ''} ({models}), {how}; {precision}"
    return Devices("gpu", tuple(f"GPU:{i}" for i in range(count)), fast, reason)


def share_of_replica(batch: tuple[tf.Tensor, ...], number: int, count: int) -> tuple[tf.Tensor, ...]:
    """Every `count`-th row of the tensors of a batch, from row `number` on; the last tensor holds the weights of rows.

    A replica without a row of its own, at the end of an epoch, gets the first one with weight zero: cuDNN takes no
    empty batch.
    """
    if count == 1:
        return batch
    rows = tf.shape(batch[0])[0]
    mine = tf.range(number, tf.maximum(rows, count), count)
    is_real = tf.cast(mine < rows, tf.float32)
    *others, weight = (tf.gather(tensor, tf.where(mine < rows, mine, 0)) for tensor in batch)
    return *others, weight * is_real[:, None]
