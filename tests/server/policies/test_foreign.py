"""Policies of other packages: found by path and entry point, refused by name."""

import textwrap
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest

from common.config.run import RunConfig
from common.errors import UserError
from server.app import federate
from server.policies import foreign
from server.policies.choose import policy_named
from server.preflight import rehearse
from server.setting import prepare
from tests.federations import TINY
from tests.local_grid import LocalGrid

MODULE = """
    import numpy as np

    calls = 0

    def good(request):
        order = sorted(range(request.layout.atom), key=lambda p: (p + request.round) % 2)
        return dict.fromkeys(request.layout.axes, np.array(order[: request.k]))

    def everywhere(request, positions):
        return dict.fromkeys(request.layout.axes, positions)

    def raises(request):
        return {}["conv"]

    def nothing(request):
        pass

    def a_list(request):
        return everywhere(request, list(range(request.k)))

    def floats(request):
        return everywhere(request, np.arange(request.k) / 2)

    def too_many(request):
        return everywhere(request, np.arange(request.layout.atom))

    def outside(request):
        return everywhere(request, np.arange(request.k) + 3)

    def twice(request):
        return everywhere(request, np.zeros(request.k, dtype=int))

    def wrong_shape(request):
        return everywhere(request, np.zeros((7, request.k), dtype=int))

    def missing(request):
        return dict(list(good(request).items())[1:])

    def unequal(request):
        answer = good(request)
        answer["conv_in"] = answer["conv_in"][:-1]
        return answer

    def late(request):
        return good(request) if request.round < 3 else None

    def moody(request):
        global calls
        calls += 1
        return everywhere(request, (np.arange(request.k) + calls) % request.layout.atom)

    number = 7
"""


@pytest.fixture(autouse=True)
def _package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "their_policies.py").write_text(textwrap.dedent(MODULE))
    monkeypatch.syspath_prepend(str(tmp_path))


def _config(policy: str) -> RunConfig:
    return TINY.model_copy(update={"policy": policy, "fleet": "1x1 1/2x2"})


def test_a_policy_by_its_path_runs_and_leaves_what_it_chose(tmp_path: Path) -> None:
    config = _config("their_policies:good").model_copy(update={"rounds": 2, "evaluate_every": 9})
    grid = LocalGrid(config)
    federate(grid, config, tmp_path / "run")
    tasks = [m for m in grid.sent if m.metadata.message_type == "train"]
    kept = [task.content.config_records["spec"] for task in tasks]
    assert {spec["policy"] for spec in kept} == {"their_policies:good"}
    bits = np.unpackbits(np.frombuffer(kept[1]["kept"], np.uint8))  # type: ignore[arg-type]
    assert bits[:4].tolist() == [0, 1, 0, 1]


def test_a_policy_is_found_by_its_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    offer = EntryPoint("theirs", "their_policies:good", foreign.GROUP)

    def found(group: str, name: str | None = None) -> tuple[EntryPoint, ...]:
        assert group == foreign.GROUP
        return (offer,) if name in (None, "theirs") else ()

    monkeypatch.setattr(foreign, "entry_points", found)
    rehearse(prepare(_config("theirs")))
    rehearse(prepare(_config("core+theirs")))
    policy_named.cache_clear()


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("raises", "raised KeyError: 'conv'"),
        ("nothing", "returned nothing, not positions for each axis"),
        ("a_list", "axis conv_in: a list, not an array of whole numbers"),
        ("floats", "axis conv_in: an array of float64, not"),
        ("too_many", "axis conv_in: keeps 4 channels of an atom; this client may keep 1 to 2"),
        ("outside", "positions 3 … .* are not within 0 … 3"),
        ("twice", "axis conv_in: keeps a position twice"),
        ("wrong_shape", r"axis conv_in: shape \(7, .*\), not \(k,\) or \(2, k\)"),
        ("missing", "left out axis conv_in"),
        ("unequal", "keeps [13] of an atom, axis .* [24]; all atoms need equally many"),
        ("late", "returned nothing, .* round 3"),
        ("moody", "chose differently for one and the same client and round"),
        ("absent", "cannot be loaded .AttributeError: .*absent"),
        ("number", "is a int, not a function"),
    ],
)
def test_a_misbehaving_policy_is_named_before_any_client_is_asked(
    function: str, message: str, tmp_path: Path
) -> None:
    config = _config(f"their_policies:{function}")
    grid = LocalGrid(config)
    with pytest.raises(UserError, match=f"policy: 'their_policies:{function}' .*{message}") as line:
        federate(grid, config, tmp_path / "run")
    assert "\n" not in str(line.value)
    assert not grid.sent


def test_a_module_that_is_not_there_is_named() -> None:
    with pytest.raises(UserError, match=r"'not_there\.at_all:x' cannot be loaded .ModuleNotFound"):
        policy_named("not_there.at_all:x")
