"""What a fit starts from: the networks of another model, brought to what this one reads and forecasts."""

from dataclasses import dataclass, replace
from itertools import product

import keras
import numpy as np

from rnn_core.contracts.config import ModelConfig
from rnn_core.contracts.errors import ContractError
from rnn_core.forecasters.blend import Blend
from rnn_core.forecasters.networks import Networks
from rnn_core.forecasters.recurrent import RecurrentEnsemble, member_cells, network_seed
from rnn_core.forecasters.stay import StayForecaster, one_end
from rnn_core.network.build import build_ensemble, build_network, members_of
from rnn_core.network.carry_over import carry_over
from rnn_core.network.heads import logits_of
from rnn_core.network.scoring import score_windows
from rnn_core.series.material import Material
from rnn_core.series.person_periods import population_masses
from rnn_core.series.scaling import Scaler

# Windows by which the level of a start is measured.
_LEVEL_WINDOWS = 400


@dataclass(frozen=True)
class WarmStart:
    """A fit starts from the networks of `model`, a forecaster of the same source or another one.

    fine: learn in fine steps, as from a model of the same source, of which large steps would forget. One of another source has
    more to learn than to keep.
    """

    model: StayForecaster
    fine: bool = False

    def scaler(self, fitted: Scaler) -> Scaler:
        """See `Start`: that of the model for all that it has seen."""
        return self.model.scaler.completed(fitted)

    def afresh(self, config: ModelConfig, ends_at: str) -> list[str]:
        """What a fit of `config`, on stays that end at `ends_at`, does not take over, in words.

        Raises ContractError if the model or `config` has no networks.
        """
        if "recurrent" not in (config.forecaster, *(config.blend if config.forecaster == "blend" else ())):
            raise ContractError("Only recurrent networks start from another model; all others are fitted from scratch.")
        self._ensemble()
        reads, read = config.window.concepts, self.model.config.window.concepts
        concepts = [name for name in reads if name not in read or name in self.model.scaler.unseen]
        return self._changed(config, ends_at) + (
            [f"the concepts that it never saw ({', '.join(concepts)})"] if concepts else []
        )

    def networks(self, material: Material, learned: np.ndarray, config: ModelConfig) -> RecurrentEnsemble:
        """Networks of the shape of `config`, as many per fold as it has, with the weights of the model's in turn
        (`carry_over`).

        material: made with `scaler`. learned: bool [stays], those to learn from. Where the level of the forecasts starts
        afresh, that of a network is set by the stays of all folds but its own. Of the same patients as the model learned
        from, only a fit with as many folds keeps each network from those that stop it.
        """
        n_folds, theirs = config.train.folds, self.model.config
        network = replace(
            config.network,
            head="competing_risk",
            n_channels=material.windows.channels.shape[1],
            n_concepts=len(config.window.concepts),
            n_static=material.windows_with_origin.static.shape[1],
            longest_hours=2 * config.window.chunk_hours,
        )
        members, cells, their_cells = self._ensemble().members(), member_cells(config), member_cells(theirs)
        new_level = bool(self._changed(config, one_end(material.known.stays)))
        own, fold = learned & ~material.known.borrowed, material.folds(n_folds)
        made = []
        for k, (number, cell) in product(range(n_folds), enumerate(cells)):
            ours, turn = replace(network, cell=cell), number % len(their_cells)
            made.append(build_network(ours, seed=network_seed(config, k, number)))
            carry_over(
                made[-1],
                ours,
                config.window.concepts,
                members_of(members[k % len(members)].network)[turn],
                replace(theirs.network, cell=their_cells[turn]),
                theirs.window.concepts,
                self.model.scaler.unseen,
            )
            if new_level:
                _set_level(made[-1], material, own & (fold != k))
        return RecurrentEnsemble(Networks.of(build_ensemble(made)), network.horizon_edges, len(cells))

    def _ensemble(self) -> RecurrentEnsemble:
        for part in self.model.model.parts if isinstance(self.model.model, Blend) else (self.model.model,):
            if isinstance(part, RecurrentEnsemble):
                return part
        raise ContractError("The model has no recurrent networks to start from.")

    def _changed(self, config: ModelConfig, ends_at: str) -> list[str]:
        """What differs besides concepts: the level of the model's forecasts then means little, and starts afresh too."""
        theirs, ours = self.model.config.network, config.network
        units = ", ".join(map(str, theirs.units))
        cells, our_cells = member_cells(self.model.config), member_cells(config)
        differs = {
            f"the recurrent layers (it has {' and '.join(cells)} of {units} units)": (cells, theirs.units)
            != (our_cells, ours.units),
            "the bins of another horizon": theirs.horizon_edges != ours.horizon_edges,
            "what the head reads of the summaries": (theirs.wide, theirs.knots) != (ours.wide, ours.knots),
            f"the level of its forecasts (its stays end at the {self.model.ends_at})": self.model.ends_at != ends_at,
        }
        return [words for words, does in differs.items() if does]


def _set_level(network: keras.Model, material: Material, stays: np.ndarray) -> None:
    """Shift the bias of the head so that the mean of its forecasts is about that of the population, on `stays`."""
    windows, labels = material.windows_with_origin, material.labels
    window = np.flatnonzero(stays[windows.stay])
    row, said = score_windows(Networks.of(network).plain, windows, window[:: -(-len(window) // _LEVEL_WINDOWS) or 1])
    usable = labels.usable[row]
    if usable.any():  # else the fit refuses
        population = population_masses(labels.take(row[usable]))
        bias = network.get_layer("head").bias
        bias.assign_add(logits_of(population) - logits_of(said[usable].mean(axis=0, dtype=np.float64)))
