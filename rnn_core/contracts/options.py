"""The options of a training as flat names, for the command line and for files, generated from the fields of the configs."""

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError

from rnn_core.contracts.concepts import NAMES
from rnn_core.contracts.config import ArrivalConfig, ModelConfig, Option, UnitConfig
from rnn_core.contracts.errors import ContractError

# A unit's census and the risk of a prolonged stay look a week ahead.
_LEAST_HORIZON = 168


@dataclass(frozen=True)
class TrainingConfig:
    """The configs of all that a training fits: the forecasters of stays, of a unit's lengths of stay, and of arrivals."""

    model: ModelConfig = field(default_factory=partial(ModelConfig, forecaster="blend"))
    unit: UnitConfig = field(default_factory=UnitConfig)
    arrivals: ArrivalConfig = field(default_factory=ArrivalConfig)

    def changed(self, path: tuple[str, ...], value: Any) -> Self:
        """With another value at a path of field names."""
        return _changed(self, path, value)


def _changed(config: Any, path: tuple[str, ...], value: Any) -> Any:
    name, *rest = path
    return replace(config, **{name: _changed(getattr(config, name), tuple(rest), value) if rest else value})


@dataclass(frozen=True)
class Setting:
    """One option: its name, the field that it sets, the field's type and default, what it belongs to, and help."""

    name: str
    path: tuple[str, ...]
    type: Any
    default: Any
    topic: str
    help: str

    @property
    def is_flag(self) -> bool:
        return self.type is bool

    @property
    def is_list(self) -> bool:
        return get_origin(_plain(self.type)) is tuple

    @property
    def allowed(self) -> str:
        """The values that it takes, in words, where there are few."""
        one = get_args(_plain(self.type))[0] if self.is_list else self.type
        choices = get_args(_plain(one)) if get_origin(_plain(one)) is Literal else ()
        return ", ".join(map(str, choices))

    def parsed(self, value: Any) -> Any:
        """The value of a file or of the command line in the field's type. Raises ContractError if it is not one."""
        given = value
        if self.is_list:
            parts = (
                value.split(",") if isinstance(value, str) else value if isinstance(value, list | tuple) else [value]
            )
            given = [part.strip() if isinstance(part, str) else part for part in parts]
        elif isinstance(value, bool) and not self.is_flag:
            given = str(value)
        try:
            return _adapter(self.path).validate_python(given)
        except ValidationError as error:
            found = error.errors(include_url=False)[0]["msg"]
            what = f"is one of {self.allowed}" if self.allowed else found[0].lower() + found[1:]
            what = what.replace("input should be", "should be")
            raise ContractError(f"{self.name} {what}; found {value!r}.") from None


def _plain(annotated: Any) -> Any:
    return get_args(annotated)[0] if get_origin(annotated) is Annotated else annotated


@cache
def _adapter(path: tuple[str, ...]) -> TypeAdapter:
    return TypeAdapter(next(one.type for one in settings().values() if one.path == path))


# Of the stay forecaster the topics need no prefix: each of their fields has a name of its own.
_TOPICS = {
    "model": "Model",
    "window": "Windows",
    "network": "Network",
    "train": "Training",
    "trees": "Boosted trees",
    "unit": "Forecaster of a unit's lengths of stay",
    "arrivals": "Forecaster of arrivals",
}
_PREFIXED = ("trees", "unit", "arrivals")


@cache
def settings() -> dict[str, Setting]:
    """Every option by its name."""
    return {one.name: one for one in _settings_of(TrainingConfig(), ())}


def _settings_of(config: Any, path: tuple[str, ...]) -> list[Setting]:
    hints = get_type_hints(type(config), include_extras=True)
    found = []
    for one in fields(config):
        value, here, marks = getattr(config, one.name), (*path, one.name), _marks(hints[one.name])
        if is_dataclass(value):
            found += _settings_of(value, here)
        elif marks.offered:
            section = path[-1]
            name = marks.name or one.name
            name = f"{section}_{name}" if section in _PREFIXED and name != section else name
            kind = _without_marks(hints[one.name])
            found.append(Setting(name.replace("_", "-"), here, kind, value, _TOPICS[section], marks.help))
    return found


def _marks(hint: Any) -> Option:
    return next((mark for mark in getattr(hint, "__metadata__", ()) if isinstance(mark, Option)), Option())


def _without_marks(hint: Any) -> Any:
    kept = [mark for mark in getattr(hint, "__metadata__", ()) if not isinstance(mark, Option)]
    return Annotated[_plain(hint), *kept] if kept else _plain(hint)


def configure(chosen: Mapping[str, Any]) -> TrainingConfig:
    """The configs with the `chosen` options (names with - or _; None is not chosen), and the defaults for all others.

    Two options set more than one field: `epochs` also limits the trees, unless `trees` is chosen; with several cells a
    member has as many networks. Raises ContractError for an unknown name or a value that is not allowed.

    >>> configure({"layers": "64,32", "learning-rate": 0.001}).model.network.units
    (64, 32)
    """
    values = {name.replace("_", "-"): value for name, value in chosen.items() if value is not None}
    if unknown := [name for name in values if name not in settings()]:
        near = difflib.get_close_matches(unknown[0], settings(), n=1)
        guess = f" (did you mean {near[0]}?)" if near else ""
        raise ContractError(
            f"There is no option {', '.join(unknown)}{guess}; known are {', '.join(sorted(settings()))}."
        )
    parsed = {name: settings()[name].parsed(value) for name, value in values.items()}
    config = TrainingConfig()
    for name, value in parsed.items():
        config = config.changed(settings()[name].path, value)
    if "epochs" in parsed and "trees" not in parsed:
        config = config.changed(("model", "trees", "trees"), parsed["epochs"])
    cells = config.model.train.cells
    if cells:
        config = config.changed(("model", "network", "cell"), cells[0])
        config = config.changed(("model", "train", "cells"), cells if len(cells) > 1 else ())
    for part in ("unit", "arrivals"):
        config = config.changed((part, "seed"), config.model.train.seed)
    _check(config)
    return config


def chosen_in(config: TrainingConfig) -> dict[str, Any]:
    """The value of each option in the configs, by name: what `configure` would make the same of."""
    found: dict[str, Any] = {}
    for name, one in settings().items():
        value: Any = config
        for part in one.path:
            value = getattr(value, part)
        found[name] = value
    return found | {"cell": config.model.train.cells or (config.model.network.cell,)}


def _check(config: TrainingConfig) -> None:
    """What single values do not show."""
    edges = config.model.network.horizon_edges
    if edges[:1] != (0,) or list(edges) != sorted(set(edges)) or edges[-1] < _LEAST_HORIZON:
        raise ContractError(
            f"horizon begins at 0, rises, and reaches at least {_LEAST_HORIZON} hours; found {_shown(edges)}."
        )
    window = config.model.window
    if unknown := sorted(set(window.concepts) - set(NAMES)):
        raise ContractError(f"concepts are those of docs/data-dictionary.md; found {', '.join(unknown)}.")
    if not window.concepts or len(set(window.concepts)) < len(window.concepts):
        raise ContractError("concepts names at least one clinical variable, and each once.")
    if window.first_hour >= window.last_hour:
        raise ContractError(f"first-hour is before last-hour; found {window.first_hour} and {window.last_hour}.")
    budget = config.model.train.alert_budget
    if list(budget) != sorted(set(budget), reverse=True) or budget[-1] <= 0:
        raise ContractError(f"alert-budget falls from band to band, as 0.4,0.15,0.05 does; found {_shown(budget)}.")
    kinds = config.model.blend
    if len(set(kinds)) < len(kinds) or len(kinds) < 2 or "blend" in kinds:
        raise ContractError(f"blend names two or more kinds of forecaster, and each once; found {_shown(kinds)}.")


def _shown(values: tuple[Any, ...]) -> str:
    return ",".join(f"{value:g}" if isinstance(value, float) else str(value) for value in values)


def read_options(path: Path) -> dict[str, Any]:
    """The options of a YAML file, by name. Raises ContractError if it cannot be read or is no mapping of names to values."""
    import yaml

    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ContractError(f"{path} cannot be read ({getattr(error, 'strerror', None) or 'not UTF-8'}).") from None
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f", line {where.line + 1}" if where else ""
        raise ContractError(f"{path}{line}: this is no YAML; write lines such as `learning-rate: 0.001`.") from None
    if found is None:
        return {}
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise ContractError(f"{path} holds names of options and their values, such as `learning-rate: 0.001`.")
    return {name.replace("_", "-"): value for name, value in found.items()}


def write_options(chosen: Mapping[str, Any]) -> str:
    """Options as the text of a file that `read_options` reads.

    >>> print(write_options({"layers": (64, 32), "dropout": 0.2}), end="")
    layers: [64, 32]
    dropout: 0.2
    """
    return "".join(f"{name}: {json.dumps(value)}\n" for name, value in chosen.items())
