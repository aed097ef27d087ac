"""Policies of other packages: found by path and entry point, refused by name."""

import textwrap
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest

from common.config.run import RunConfig
from common.errors import UserError
from common.network.unet import layout_of
from server.app import federate
from server.policies import foreign
from server.policies.choose import policy_named
from server.preflight import rehearse
from server.record.history import read_rows
from server.setting import prepare
from tests.federations import TINY
from tests.local_grid import LocalGrid

MODULE = """
    import numpy as np

    from server.policies import Policy

    calls = 0

    def good(request):
        order = sorted(range(request.layout.atom), key=lambda p: (p + request.stretch) % 2)
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
        return good(request) if request.stretch < 3 else None

    def moody(request):
        global calls
        calls += 1
        return everywhere(request, (np.arange(request.k) + calls) % request.layout.atom)

    def largest(request):
        mask = np.zeros(request.layout.size, bool)
        mask[np.argsort(-np.abs(request.theta))[: mask.size * request.k // request.layout.atom]] = 1
        return mask

    number = 7
    unseen = Policy(good)
    weights = Policy(largest, single_weights=True, by_weights=True)
    blind = Policy(largest, single_weights=True)
    no_mask = Policy(good, single_weights=True)
    numbers = Policy(lambda request: np.ones(request.layout.size), single_weights=True)
    short = Policy(lambda request: np.ones(3, bool), single_weights=True)
    empty = Policy(lambda request: np.zeros(request.layout.size, bool), single_weights=True)
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


def test_a_policy_of_single_weights_runs_and_is_counted_weight_by_weight(tmp_path: Path) -> None:
    config = _config("their_policies:weights").model_copy(update={"rounds": 1, "evaluate_every": 9})
    grid = LocalGrid(config)
    federate(grid, config, tmp_path / "run")
    tasks = [m for m in grid.sent if m.metadata.message_type == "train"]
    size = layout_of(config.model, 1).size
    kept = [np.unpackbits(np.frombuffer(t.content["spec"]["kept"], np.uint8)) for t in tasks]  # type: ignore[arg-type]
    assert [bits.sum() for bits in kept] == [size, size // 2, size // 2]
    density = read_rows(tmp_path / "run" / "history.jsonl")[1]["density_mean"]
    assert density == pytest.approx(2 / 3, abs=1e-4)


def test_a_function_may_look_at_the_weights_and_a_policy_says_whether_it_does() -> None:
    assert policy_named("their_policies:good").by_weights
    assert not policy_named("their_policies:unseen").by_weights
    assert policy_named("core+their_policies:good").by_weights
    with pytest.raises(UserError, match="has a core of channels, their_policies:weights no chan"):
        policy_named("core+their_policies:weights")


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
        ("floats", r"axis conv_in: an array \(\d,\) of float64, not"),
        ("too_many", "axis conv_in: keeps 4 channels of an atom; this client may keep 1 to 2"),
        ("outside", "positions 3 … .* are not within 0 … 3"),
        ("twice", "axis conv_in: keeps a position twice"),
        ("wrong_shape", r"axis conv_in: shape \(7, .*\), not \(k,\) or \(2, k\)"),
        ("missing", "left out axis conv_in"),
        ("unequal", "keeps [13] of an atom, axis .* [24]; all atoms need equally many"),
        ("late", "returned nothing, .* stretch 3"),
        ("largest", r"returned an array \(\d+,\) of bool, not positions for each axis"),
        ("blind", "raised ValueError: this policy needs the global weights"),
        ("no_mask", r"returned a dict, not a mask of \d+ truth values"),
        ("numbers", r"returned an array \((\d+),\) of float64, not a mask of \1 truth values"),
        ("short", r"returned an array \(3,\) of bool, not a mask"),
        ("empty", "keeps no weight"),
        ("moody", "chose differently for one and the same client and round"),
        ("absent", "cannot be loaded .AttributeError: .*absent"),
        ("number", "is a int, not a function or Policy"),
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
