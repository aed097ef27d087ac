"""Policies whose submodels are nested: a narrow one is part of every wider one."""

import numpy as np

from server.policies.request import Positions, Request, everywhere


def full(request: Request) -> Positions:
    """Keep everything, whatever the rate: what a homogeneous fleet would train."""
    return everywhere(request.layout, np.arange(request.layout.atom))


def static(request: Request) -> Positions:
    """Keep positions 0 … k-1 always (HeteroFL, Diao et al. 2021)."""
    return everywhere(request.layout, np.arange(request.k))


def ordered(request: Request) -> Positions:
    """Keep positions 0 … j-1, j drawn anew from the fleet's widths up to k.

    Ordered dropout (FjORD, Horváth et al. 2021, section 3.1), with one draw for all of a client's
    local steps. Among equally likely widths the first positions are trained most often.
    """
    widths = sorted({k for k in request.widths if k < request.k} | {request.k})
    return everywhere(request.layout, np.arange(request.rng.choice(widths)))


def magnitude(request: Request) -> Positions:
    """Keep in every atom the k channels whose weights are largest in the global model.

    Largest by Euclidean norm of all weights that read or write the channel (filter pruning, Li et
    al. 2017, with the server's weights); of equals the first. All clients of a rate keep the same.

    Raises:
        ValueError: The request has no weights.
    """
    norms, atom = request.channel_norms, request.layout.atom
    return {
        name: np.argsort(-norms[name].reshape(-1, atom), axis=1, kind="stable")[:, : request.k]
        for name in request.layout.axes
    }
