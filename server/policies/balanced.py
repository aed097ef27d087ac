"""The policy `balanced`: an orthogonal array over a finite field covers all pairs equally."""

from functools import cache
from itertools import combinations

import numpy as np

from common.errors import UserError
from common.submodels import Layout
from server.policies.galois import Field, galois_field
from server.policies.request import Positions, Request


def balanced(request: Request) -> Positions:
    """Cover every pair of positions of every tensor equally often in any a² consecutive slots.

    Every axis has a colour c in GF(a), different for axes that meet in a tensor. Slot (u, v) keeps
    a fixed set of k positions, shifted by u + c v in GF(a). For two colours the pair of shifts runs
    through GF(a)² exactly once as (u, v) does: an orthogonal array of strength 2 (Bose and Bush
    1952). Any aligned `a` slots, which share their v, already cover every position equally.

    Raises:
        UserError: The atom is not a prime power, or the axes need more colours than it has.
    """
    layout, atom = request.layout, request.layout.atom
    field = galois_field(atom)
    if field is None:
        raise UserError(
            f"policy: balanced needs atoms of a prime power of channels, this model has {atom}; "
            "choose another policy or other model.widths and model.groups"
        )
    u = _even_order(atom, request.k)[request.slot % atom]
    v = request.slot // atom % atom
    base = np.arange(request.k)
    return {
        name: field.add[base, field.add[u, field.multiply[colour, v]]]
        for name, colour in axis_colours(layout).items()
    }


@cache
def axis_colours(layout: Layout) -> dict[str, int]:
    """Give every axis a colour below the atom's size, different where two axes meet in a tensor.

    Axes meet when they run along different dimensions of one parameter. Greedy colouring in order
    of falling degree.

    Raises:
        UserError: More colours are needed than an atom has positions.
    """
    meets: dict[str, set[str]] = {name: set() for name in layout.axes}
    for parameter in layout.parameters:
        for first, second in combinations(parameter.channels, 2):
            for a in first:
                for b in second:
                    meets[a.name].add(b.name)
                    meets[b.name].add(a.name)
    colours: dict[str, int] = {}
    for name in sorted(meets, key=lambda axis: -len(meets[axis])):
        taken = {colours.get(other) for other in meets[name]}
        colours[name] = next(c for c in range(len(meets) + 1) if c not in taken)
    clash = next((name for name in meets if name in meets[name]), None)
    if clash or max(colours.values(), default=0) >= layout.atom:
        raise UserError(
            f"policy: balanced needs {1 + max(colours.values())} colours, but atoms of "
            f"{layout.atom} channels give {layout.atom}; choose another policy"
        )
    return colours


@cache
def _even_order(atom: int, k: int) -> tuple[int, ...]:
    """Order the shifts greedily so that every prefix covers the positions evenly."""
    field = galois_field(atom)
    assert isinstance(field, Field)
    covered = np.zeros(atom, dtype=np.int64)
    order: list[int] = []
    for _ in range(atom):
        left = [u for u in range(atom) if u not in order]
        u = min(left, key=lambda u: (int(covered[field.add[:k, u]].sum()), u))
        covered[field.add[:k, u]] += 1
        order.append(u)
    return tuple(order)
