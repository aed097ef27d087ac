import numpy as np

from server.policies.registry import POLICIES
from simulations.pictures.policies import _kept, policies_figure


def test_the_picture_shows_what_policies_keep() -> None:
    static = _kept("static")
    assert static[:, 0].tolist() == [1, 1, 0, 0] * 2 + [2] + [1, 1, 0, 0] * 2
    assert (static == static[:, :1]).all()
    rolling = _kept("rolling")
    np.testing.assert_array_equal(rolling[:4, 1:], np.roll(rolling[:4], 1, axis=0)[:, :-1])
    assert len(policies_figure().axes) >= len(POLICIES)
