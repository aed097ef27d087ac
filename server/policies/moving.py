"""Policies that move the kept positions from stretch to stretch, without a design for pairs."""

from math import gcd

import numpy as np
from jaxtyping import Int64

from common.seeding import SERVER, rng_for
from server.policies.request import Positions, Request, all_atoms, by_axis, everywhere


def rolling(request: Request) -> Positions:
    """Shift the window by one a stretch, alike on every axis (FedRolex, Alam et al. 2022, eq. 3).

    Because all axes move in lockstep, a weight joining positions p and q is covered only if some
    window holds both: at k = 1 only the pairs (p, p) ever are.
    """
    window = (np.arange(request.k) + request.stretch - 1) % request.layout.atom
    return everywhere(request.layout, window)


def random(request: Request) -> Positions:
    """Draw k positions in every atom of every axis (federated dropout, Caldas et al. 2018)."""
    keys = request.rng.random((all_atoms(request.layout), request.layout.atom))
    return by_axis(request.layout, np.argsort(keys, axis=1)[:, : request.k])


def random_shared(request: Request) -> Positions:
    """Draw k positions once and keep them in every atom of every axis.

    Weights that join positions p and p are then kept with probability k/a, all others with only
    k(k-1)/a(a-1).
    """
    return everywhere(request.layout, request.rng.permutation(request.layout.atom)[: request.k])


def covering(request: Request) -> Positions:
    """Draw without replacement until every position was used, then begin again (FedEcover).

    Every atom has a shuffled pack of positions, from which the clients of a rate draw k each by
    turns, round after round; when a pack runs out in the middle of a draw, the rest comes from the
    next one, without what was just drawn. So any ``ceil(a / k)`` draws from the first of a pack
    cover every channel, though not every pair of channels.
    """
    atom, k = request.layout.atom, request.k
    draws = atom // gcd(atom, k)
    packs = _packs(
        rng_for(request.seed, request.slot // draws, SERVER, f"covering {k}"),
        all_atoms(request.layout),
        atom,
        k,
    )
    first = request.slot % draws * k
    return by_axis(request.layout, packs[:, first : first + k])


def _packs(
    rng: np.random.Generator, atoms: int, atom: int, k: int
) -> Int64[np.ndarray, "atoms cards"]:
    """Return as many shuffled packs in a row as draws of k use up without a rest."""
    packs = np.empty((atoms, 0), dtype=np.int64)
    for number in range(k // gcd(atom, k)):
        begun = number * atom % k  # drawn already for the draw that this pack completes
        keys = rng.random((atoms, atom))
        np.put_along_axis(
            keys,
            packs[:, packs.shape[1] - begun :],
            np.inf,
            axis=1,
        )
        order = np.argsort(keys, axis=1)
        missing = -begun % k
        rest = rng.permuted(order[:, missing:], axis=1)
        packs = np.concatenate([packs, order[:, :missing], rest], axis=1)
    return packs
