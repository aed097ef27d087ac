"""Zhou's client types: which of the four quarters of every axis a client keeps."""

import numpy as np
from jaxtyping import Int64

from common.errors import UserError
from server.policies.request import Positions, Request, everywhere

QUARTERS = {
    1: (0, 1, 2, 3),
    2: (0, 1, 3),
    3: (0, 2, 3),
    4: (1, 2, 3),
    5: (0, 3),
    6: (1, 3),
    7: (2, 3),
}
"""The quarters of each type, from 0, as in the code released with Zhou et al. (2022,
arXiv 2201.11803). The last is in all types: there it is the quarter of the largest weights."""


def quarters(request: Request) -> Positions:
    """Keep the quarters of the client's type, by position (Zhou et al. 2023, fixed sub-network).

    Quarters are taken within every atom, so that normalisation groups shrink alike.

    Raises:
        UserError: The fleet is not written in types, or atoms cannot be quartered.
    """
    return everywhere(request.layout, _ranks(request))


def quarters_ranked(request: Request) -> Positions:
    """Keep the quarters of the client's type, channels ranked by norm (Zhou et al. 2023, pruning).

    The first quarter of an atom is that of the smallest Euclidean norms of all weights that read or
    write a channel.

    Raises:
        UserError: The fleet is not written in types, or atoms cannot be quartered.
        ValueError: The request has no weights.
    """
    norms, ranks = request.channel_norms, _ranks(request)
    return {
        name: np.argsort(norms[name].reshape(-1, request.layout.atom), axis=1, kind="stable")[
            :, ranks
        ]
        for name in request.layout.axes
    }


def _ranks(request: Request) -> Int64[np.ndarray, "k"]:
    """Return the places within an atom that a client's type keeps."""
    if request.code not in QUARTERS:
        raise UserError(
            "policy: quarters and quarters-ranked need a fleet written in types, a digit 1 … 7 for "
            "each of ten clients, such as fleet=1111223344"
        )
    atom = request.layout.atom
    if atom % 4:
        raise UserError(
            f"policy: quarters cannot be had of atoms of {atom} channels; choose model.widths and "
            "model.groups whose atoms are a multiple of 4"
        )
    return np.arange(atom).reshape(4, -1)[list(QUARTERS[request.code])].ravel()
