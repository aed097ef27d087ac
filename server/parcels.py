"""What a round sends to its clients."""

from typing import NamedTuple

import numpy as np
from flwr.app import RecordDict
from jaxtyping import Float32

from common import wire
from common.config import RunConfig
from common.submodel import Submodel, extract, pruning_error


class Parcel(NamedTuple):
    """What one client is sent.

    Attributes:
        spec: Which submodel, and what to do with it.
        content: The spec with the weights.
        pruning_error: The share of the weights' squared norm that the submodel drops.
    """

    spec: wire.TaskSpec
    content: RecordDict
    pruning_error: float


class Parcels:
    """Packs submodels of the global weights; the same one is packed once, if neighbours ask for it.

    No more than one is in memory here.

    Args:
        theta: The global weights.
        config: The run's configuration; `policy` and `codec` are read.
        round: The round.
        scored: Whether clients shall report the importance of weights.
    """

    def __init__(
        self, theta: Float32[np.ndarray, "P"], config: RunConfig, round: int, scored: bool
    ) -> None:
        self._theta = theta
        self._config = config
        self._round = round
        self._scored = scored
        self._last: Parcel | None = None

    def pack(self, submodel: Submodel) -> Parcel:
        """Return a submodel with its weights, in a record that is the caller's own."""
        policy, codec = self._config.policy, self._config.codec
        spec = wire.spec_for(submodel, self._round, policy, codec, self._scored)
        if self._last is None or self._last.spec != spec:
            self._last = None
            values = extract(self._theta, submodel)
            error = pruning_error(self._theta, values)
            self._last = Parcel(spec, wire.pack_task(values, spec), error)
        return self._last._replace(content=RecordDict(dict(self._last.content)))
