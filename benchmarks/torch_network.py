"""The stay network in PyTorch, with the weights of a fitted one: what training and scoring are compared with."""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from rnn_core.network.scoring import FittedNetwork


class StayNetwork(nn.Module):
    """An LSTM over the embedded hours, and a head on its state, the hour, and `summaries` split at knots, as
    `rnn_core.network.build` makes it; the same forecasts to rounding."""

    def __init__(self, network: FittedNetwork, dropout: float = 0.0) -> None:
        super().__init__()
        weights = {name: nn.Parameter(torch.from_numpy(weight.copy())) for name, weight in network.weights.items()}
        self.n, self.knots = network.n_concepts, network.knots
        self.dropout = nn.Dropout(dropout)
        self.of_hour, self.hour_bias = weights["embed_hour/kernel"], weights["embed_hour/bias"]
        self.of_static = weights["embed_static/kernel"]
        units = len(self.hour_bias)
        self.recurrent = nn.LSTM(units, units, batch_first=True)
        with torch.no_grad():
            # The gates have the same order; PyTorch has a second bias.
            self.recurrent.weight_ih_l0.copy_(weights["recurrent_0/kernel"].T)
            self.recurrent.weight_hh_l0.copy_(weights["recurrent_0/recurrent_kernel"].T)
            self.recurrent.bias_ih_l0.copy_(weights["recurrent_0/bias"])
            self.recurrent.bias_hh_l0.zero_()
        self.recurrent.bias_hh_l0.requires_grad_(False)
        self.of_head, self.head_bias = weights["head/kernel"], weights["head/bias"]

    def forward(self, x: Tensor, static: Tensor, hours: Tensor | None, features: Tensor) -> Tensor:
        """x [batch, hours, channels], static [batch, static features], hours int [batch, rows] (None: all), features
        [batch, rows, ...] of `head_features` -> log masses [batch, rows, bins, 2]."""
        hour = torch.tanh(x @ self.of_hour + self.hour_bias + (static @ self.of_static)[:, None])
        hidden, _ = self.recurrent(self.dropout(hour))
        if hours is not None:
            hidden, hour = (at_hours(part, hours) for part in (hidden, hour))
        features = features.float()
        values = features[..., -4 * self.n :]
        hinges = [functional.relu(way - knot) for knot in self.knots for way in (values, -values)]
        read = torch.cat([self.dropout(hidden), hour, features, *hinges], dim=-1)
        return _log_masses((read @ self.of_head).unflatten(-1, self.head_bias.shape) + self.head_bias)


def at_hours(values: Tensor, hours: Tensor) -> Tensor:
    """[batch, hours, features] -> [batch, rows, features]."""
    return values.gather(1, hours.long()[..., None].expand(-1, -1, values.shape[-1]))


def head_features(x: Tensor, static: Tensor, n: int) -> Tensor:
    """What the head reads in every hour besides what is learned: `rnn_core.network.encoding.RunningSummaries`."""
    value, observed = x[..., :n], x[..., n : 2 * n]
    times = observed.cumsum(1)
    seen = (times > 0).float()
    first = (value * observed * (times == 1)).cumsum(1)
    hours = seen.cumsum(1).clamp(min=1)
    mean = (value * seen).cumsum(1) / hours
    variance = (value * value * seen).cumsum(1) / hours - mean * mean
    most = torch.where(seen > 0, value, -1e3).cummax(1).values * seen
    least = torch.where(seen > 0, value, 1e3).cummin(1).values * seen
    return _features(x, static[:, None].expand(-1, x.shape[1], -1), times, seen, first, mean, variance, most, least, n)


def last_features(x: Tensor, static: Tensor, n: int) -> Tensor:
    """`head_features` of the last hour alone, [batch, 1, ...]."""
    value, observed = x[..., :n], x[..., n : 2 * n]
    times = observed.cumsum(1)
    seen = (times > 0).float()
    first = (value * observed * (times == 1)).sum(1, keepdim=True)
    hours = seen.sum(1, keepdim=True).clamp(min=1)
    mean = (value * seen).sum(1, keepdim=True) / hours
    variance = (value * value * seen).sum(1, keepdim=True) / hours - mean * mean
    times, end = times[:, -1:], seen[:, -1:]
    most = torch.where(seen > 0, value, -1e3).amax(1, keepdim=True) * end
    least = torch.where(seen > 0, value, 1e3).amin(1, keepdim=True) * end
    return _features(x[:, -1:], static[:, None], times, end, first, mean, variance, most, least, n)


def _features(x, static, times, seen, first, mean, variance, most, least, n: int) -> Tensor:
    value = x[..., :n]
    deviation = ((variance.clamp(min=0) + 1e-4).sqrt() - 1e-2) * seen
    history = [torch.log1p(times) / 4, deviation, (value - first) * seen, (value - mean) * seen]
    return torch.cat([static, x[..., n:], *history, value, mean, most, least], dim=-1)


def _log_masses(logits: Tensor) -> Tensor:
    stays = torch.zeros_like(logits[..., :-1, :1])
    hazards = torch.cat([stays, logits[..., :-1, :]], dim=-1).log_softmax(-1)
    survived = functional.pad(hazards[..., 0].cumsum(-1), (1, 0))
    return torch.cat([hazards[..., 1:], logits[..., -1:, :].log_softmax(-1)], dim=-2) + survived[..., None]


def stay_loss(
    log_p: Tensor, weights: Tensor, entry: Tensor, death: Tensor, row_weight: Tensor, death_weight: float
) -> Tensor:
    """The sum of `rnn_core.network.losses.stay_loss`."""
    counted = (row_weight > 0)[..., None, None]
    known, entered = (
        torch.logsumexp(log_p + torch.where(counted, of, 1.0).log(), dim=(-2, -1)) for of in (weights, entry)
    )
    causes = torch.logsumexp(log_p, dim=-2)
    died = torch.nan_to_num(death)
    entropy = -torch.where(death.isnan(), 0.0, (1 - died) * causes[..., 0] + died * causes[..., 1])
    return (row_weight * (entered - known + death_weight * entropy)).sum()


def tensors(arrays: list[np.ndarray]) -> list[Tensor]:
    return [torch.from_numpy(np.ascontiguousarray(array)) for array in arrays]
