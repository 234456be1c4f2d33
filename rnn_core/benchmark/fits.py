"""Fits of the kinds of forecaster that a benchmark compares, each made once: a blend takes those of its parts."""

from dataclasses import dataclass, field, replace

import numpy as np

from rnn_core.contracts.config import Kind, ModelConfig
from rnn_core.forecasters.blend import join, part_configs
from rnn_core.forecasters.forecaster import OutOfFold, kind_of
from rnn_core.series.material import Material


@dataclass(frozen=True)
class Fits:
    """Of `config` on the stays `learned`, bool [stays of material], when they are first asked for."""

    material: Material
    learned: np.ndarray
    config: ModelConfig
    made: dict[Kind, OutOfFold] = field(default_factory=dict)

    def of(self, kind: Kind) -> OutOfFold:
        if kind not in self.made:
            config = replace(self.config, forecaster=kind)
            if kind == "blend":
                parts = [self.of(part.forecaster) for part in part_configs(config)]
                self.made[kind] = join(self.material, parts, config)
            else:
                self.made[kind] = kind_of(config).fit(self.material, self.learned, config)
        return self.made[kind]
