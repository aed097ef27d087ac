"""Small layouts for tests that need no network."""

import numpy as np
from hypothesis import strategies as st

from common.submodels import Axis, CompactSubmodel, Layout, Parameter


def chain_layout(atom: int = 4, atoms: int = 2) -> Layout:
    """Return two layers, a concatenation, biases and a fixed dimension: every case there is."""
    a, b, c = (Axis(name, atom * atoms) for name in "abc")
    shapes = [
        ("first", ((a,), ()), (a.size, 3)),
        ("first.bias", ((a,),), (a.size,)),
        ("second", ((b,), (a,), ()), (b.size, a.size, 2)),
        ("joined", ((c,), (a, b)), (c.size, a.size + b.size)),
        ("last", ((), (c,)), (5, c.size)),
        ("last.bias", ((),), (5,)),
    ]
    parameters, offset = [], 0
    for name, channels, shape in shapes:
        parameters.append(Parameter(name, shape, channels, offset))
        offset += int(np.prod(shape))
    return Layout(tuple(parameters), atom)


@st.composite
def submodels(draw: st.DrawFn, layout: Layout) -> CompactSubmodel:
    """Draw any valid submodel: equally many channels in every atom, each atom its own."""
    k = draw(st.integers(1, layout.atom))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    positions = {
        name: np.stack([rng.permutation(layout.atom)[:k] for _ in range(axis.size // layout.atom)])
        for name, axis in layout.axes.items()
    }
    return CompactSubmodel.from_positions(layout, k, positions)
