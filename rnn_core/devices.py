"""Which devices a training uses, and why: one GPU, all of several, or the CPU."""

from dataclasses import dataclass
from typing import Any, Literal

import tensorflow as tf

# bfloat16 has units of its own from this compute capability on; before it, it is slower than float32.
_BFLOAT16_FROM = (8, 0)


@dataclass(frozen=True)
class Devices:
    """names: TensorFlow's names, e.g. "GPU:0"; bfloat16: whether mixed precision would be faster; reason: a sentence."""

    kind: Literal["cpu", "gpu"]
    names: tuple[str, ...]
    bfloat16: bool
    reason: str

    def strategy(self) -> tf.distribute.Strategy:
        """Several devices each hold the network and a share of every batch; one needs no strategy."""
        return tf.distribute.MirroredStrategy(self.names) if len(self.names) > 1 else tf.distribute.get_strategy()


def choose_devices() -> Devices:
    """All GPUs that TensorFlow sees, else the CPU.

    Lets TensorFlow take GPU memory as it needs it, so that a forecast can run beside a training.
    """
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        built = "TensorFlow sees no GPU" if tf.test.is_built_with_cuda() else "this TensorFlow is built without CUDA"
        return Devices("cpu", ("CPU:0",), False, f"the CPU: {built}")
    _grow_as_needed(gpus)
    details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
    fast = all(tuple(d.get("compute_capability", (0, 0))) >= _BFLOAT16_FROM for d in details)
    models = ", ".join(sorted({str(d.get("device_name", "of unknown make")) for d in details}))
    how = "each with a share of every batch" if len(gpus) > 1 else "with the whole batch"
    precision = "mixed precision where it is asked for" if fast else "float32, since it has no fast bfloat16"
    return Devices(
        "gpu", tuple(f"GPU:{i}" for i in range(len(gpus))), fast, f"{len(gpus)} GPU ({models}), {how}; {precision}"
    )


def _grow_as_needed(gpus: list[Any]) -> None:
    for gpu in gpus:
        try:
            tf.config.experimental.set_memory_growth(gpu, True)
        except RuntimeError:
            # The device is in use by this process already, which was told so when it began.
            return


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
