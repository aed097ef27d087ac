"""Error feedback: what a codec dropped of an update is kept and sent with the next one."""

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context
from jaxtyping import Float32
from numpy.typing import NDArray

from common.wire import (
    CODECS,
    VALUES,
    TaskSpec,
    field_of,
    pack_array,
    quantise_with_feedback,
    residual_counts,
)

RESIDUAL = "residual"
"""The client's record of what was dropped of its last update, and of which submodel's."""


def encoded(
    received: Float32[np.ndarray, "kept"],
    trained: Float32[np.ndarray, "kept"],
    spec: TaskSpec,
    context: Context,
) -> NDArray:
    """Return what a reply carries; with error feedback, keep what is dropped in the node's state.

    A client whose submodel has moved starts with nothing kept: what it dropped is of weights that
    it no longer holds, and to keep those as well would take the full model's memory.
    """
    codec = CODECS[spec.codec]
    if not codec.update:
        return codec.reply.encode(trained)
    update, residual = trained - received, np.zeros_like(trained)
    if not codec.feedback:
        return codec.reply.encode(update)
    state, run = context.state, str(context.run_id)
    of = state.config_records.get(f"{RESIDUAL}-of")
    if (
        of is not None
        and (of["run"], of["kept"]) == (run, spec.bitmask)
        and residual_counts(field_of(of, "round", int), spec.round)
    ):
        residual = state.array_records[RESIDUAL][VALUES].numpy()
    array, left = quantise_with_feedback(update, residual, codec.reply)
    state[RESIDUAL] = ArrayRecord({VALUES: pack_array(left)})
    state[f"{RESIDUAL}-of"] = ConfigRecord({"run": run, "round": spec.round, "kept": spec.bitmask})
    return array
