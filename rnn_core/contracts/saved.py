"""The round trip of frozen dataclasses through JSON, as they are stored in an artifact: pydantic reads and checks them."""

from functools import cache
from math import inf, isinf
from typing import Annotated, Any, Self

import numpy as np
from pydantic import BeforeValidator, ConfigDict, PlainSerializer, TypeAdapter, ValidationError

from rnn_core.contracts.errors import ContractError

# Hours that may be unlimited: JSON has no infinity, so it is null there.
Hours = Annotated[
    float,
    BeforeValidator(lambda hours: inf if hours is None else hours),
    PlainSerializer(lambda hours: None if isinf(hours) else hours),
]
# A float32 array as nested lists, which give back the same bits.
Array = Annotated[
    np.ndarray,
    BeforeValidator(lambda values: np.asarray(values, dtype=np.float32)),
    PlainSerializer(lambda values: values.tolist()),
]


class Saved:
    """Base of dataclasses that are stored as JSON. A key that is not a field is refused: it would change the model.

    >>> from rnn_core.contracts.config import Sampling
    >>> Sampling(data_hours=48.0).to_json()
    {'delayed_entry_hours': 0.0, 'data_hours': 48.0}
    >>> Sampling.from_json({"data_hours": None})
    Sampling(delayed_entry_hours=0.0, data_hours=inf)
    """

    __pydantic_config__ = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    def to_json(self) -> dict[str, Any]:
        """Numbers, strings, lists and dictionaries, ready for `json.dumps`."""
        return _adapter(type(self)).dump_python(self, mode="json")

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """The object again; fields that `data` lacks have their defaults. Raises ContractError where it does not fit."""
        try:
            return _adapter(cls).validate_python(data)
        except ValidationError as error:
            found = "; ".join(f"{'.'.join(map(str, e['loc']))} ({e['msg'].lower()})" for e in error.errors())
            raise ContractError(
                f"A saved {cls.__name__} does not fit this version of icu-forecast: {found}. "
                "Score the model with the version that trained it, or train again."
            ) from None


@cache
def _adapter(cls: type) -> TypeAdapter:
    return TypeAdapter(cls)
