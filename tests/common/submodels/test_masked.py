"""Masked submodels and the policies that choose single weights, coordinate by coordinate."""

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from client.training import train_locally
from common.data.images import ImageData
from common.network.unet import initial_weights, layout_of
from common.submodels import (
    CompactSubmodel,
    Layout,
    MaskedSubmodel,
    Submodel,
    by_coordinate,
    extract,
    full_submodel,
    scatter,
    submodel_from_bitmask,
)
from common.submodels.submodel import Places
from common.wire.messages import pack_task, payload_bytes, spec_for, unpack_task
from server.aggregation.mean import CoverageFold
from server.app import federate
from server.loops import tiles
from server.policies.choose import submodel_for
from server.policies.request import GlobalWeights, Request
from tests.federations import TINY, final_state
from tests.layouts import chain_layout
from tests.local_grid import LocalGrid

LAYOUT = by_coordinate(chain_layout(atom=4, atoms=3))


def _request(k: int, round: int = 1, layout: Layout = LAYOUT) -> Request:
    theta = np.random.default_rng(7).normal(size=layout.size).astype(np.float32)
    weights = GlobalWeights(layout, lambda: theta)
    return Request(
        layout=layout,
        k=k,
        index=0,
        count=1,
        stretch=round,
        rng=np.random.default_rng(round),
        weights=weights,
    )


def _mask(policy: str, k: int, round: int = 1) -> np.ndarray:
    submodel = submodel_for(policy, _request(k, round))
    assert isinstance(submodel, MaskedSubmodel)
    return submodel.mask


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_magnitude_keeps_what_is_not_below_a_threshold_of_the_layer_or_of_all(k: int) -> None:
    theta = np.abs(_request(k).theta)
    layers, everywhere = _mask("element-magnitude", k), _mask("element-magnitude-global", k)
    matrices = [p for p in LAYOUT.parameters if len(p.shape) > 1]
    large = np.concatenate([theta[p.span] for p in matrices])
    threshold = np.sort(large)[::-1][-(-large.size * k // 4) - 1]
    for parameter in LAYOUT.parameters:
        own = theta[parameter.span]
        if len(parameter.shape) == 1:
            assert layers[parameter.span].all()
            assert everywhere[parameter.span].all()
        else:
            smallest_kept = np.sort(own)[::-1][-(-own.size * k // 4) - 1]
            np.testing.assert_array_equal(layers[parameter.span], own >= smallest_kept)
            np.testing.assert_array_equal(everywhere[parameter.span], own >= threshold)


def test_random_keeps_every_weight_equally_often_and_as_many_of_each_layer() -> None:
    masks = np.array([_mask("element-random", 1, round) for round in range(1, 801)])
    for parameter in LAYOUT.parameters:
        often = masks[:, parameter.span].sum(axis=0)
        if len(parameter.shape) == 1:
            assert (often == 800).all()
        else:
            assert (masks[:, parameter.span].sum(axis=1) == -(-parameter.size // 4)).all()
            # Six deviations for the largest of some hundred counts.
            assert (
                np.abs(often - 800 * -(-parameter.size // 4) / parameter.size).max() < 6 * 150**0.5
            )


def test_compact_and_masked_submodels_are_two_kinds_of_one_thing() -> None:
    compact, masked = (submodel_for(p, _request(2)) for p in ("static", "element-random"))
    for submodel in (compact, masked):
        assert isinstance(submodel, Submodel)
        assert all(
            isinstance(submodel.cutout(parameter), Places) for parameter in LAYOUT.parameters
        )
    assert isinstance(compact, CompactSubmodel)
    # A masked one has no block of kept channels, so nothing may ask it for one.
    for name in ("index", "coverage_index", "shape", "along", "kept"):
        assert hasattr(compact, name)
        assert not hasattr(masked, name)
    assert (compact.rate, masked.rate) == (Fraction(1, 2), 1)


def test_what_is_cut_out_is_put_back_and_travels() -> None:
    theta = np.random.default_rng(0).normal(size=LAYOUT.size).astype(np.float32)
    submodel = submodel_for("element-random", _request(2))
    values = extract(theta, submodel)
    mask = _mask("element-random", 2)
    np.testing.assert_array_equal(values, theta[mask])
    assert submodel.size == mask.sum() == values.size
    whole = submodel.to_network(values)
    np.testing.assert_array_equal(whole, np.where(mask, theta, 0))
    np.testing.assert_array_equal(submodel.of_network(whole), values)
    back = np.zeros_like(theta)
    scatter(values, submodel, into=back)
    np.testing.assert_array_equal(back, whole)

    content = pack_task(values, spec_for(submodel, 3, "element-random", "float32"))
    got, rebuilt, _ = unpack_task(content, chain_layout(atom=4, atoms=3))
    np.testing.assert_array_equal(got, values)
    assert isinstance(rebuilt, MaskedSubmodel)
    np.testing.assert_array_equal(rebuilt.mask, mask)
    assert rebuilt.widths == full_submodel(LAYOUT).widths
    assert payload_bytes(content) < 4 * values.size + LAYOUT.size / 8 + 1200
    with pytest.raises(ValueError, match="keeps no coordinate"):
        submodel_from_bitmask(LAYOUT, 4, bytes(len(submodel.bitmask())))


@pytest.mark.parametrize("order", [lambda i: i, lambda i: -i, lambda i: i * 5 % 6])
@pytest.mark.parametrize("tile", [40, 1 << 17])
def test_the_average_is_per_coordinate_over_those_that_kept_it(
    order: Callable[[int], int], tile: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiles, "TILE", tile)
    rng = np.random.default_rng(1)
    theta = rng.normal(size=LAYOUT.size).astype(np.float32)
    masks = [rng.random(LAYOUT.size) < 0.3 for _ in range(6)]
    trained = [rng.normal(size=LAYOUT.size).astype(np.float32) for _ in range(6)]
    weights = [1.0, 2.0, 0.5, 3.0, 1.0, 0.0]
    fold = CoverageFold(LAYOUT, sum(weights), waiting=0.1)
    for i in sorted(range(6), key=order):
        submodel = MaskedSubmodel(LAYOUT, masks[i])
        fold.add(trained[i][masks[i]], submodel, weights[i], 10 + i)
    result = fold.finish(theta)
    total = np.sum([w * m for w, m in zip(weights, masks, strict=True)], axis=0)
    sums = np.sum([w * m * v for w, m, v in zip(weights, masks, trained, strict=True)], axis=0)
    expected = np.divide(sums, total, out=theta.astype(np.float64), where=total > 0)
    np.testing.assert_allclose(result.theta, expected, rtol=1e-6, atol=1e-7)
    assert (result.theta[total == 0] == theta[total == 0]).all()
    np.testing.assert_array_equal(result.counts, np.sum(masks, axis=0))
    np.testing.assert_array_equal(
        result.images, np.sum([(10 + i) * m for i, m in enumerate(masks)], axis=0)
    )


def test_keeping_everything_is_federated_averaging_to_the_bit() -> None:
    rng = np.random.default_rng(2)
    theta = rng.normal(size=LAYOUT.size).astype(np.float32)
    everything = MaskedSubmodel(LAYOUT, np.ones(LAYOUT.size, bool))
    results = []
    for layout, submodel in ((LAYOUT, everything), (chain_layout(4, 3), full_submodel(LAYOUT))):
        fold = CoverageFold(layout, 6.0)
        for weight in (1.0, 2.0, 3.0):
            values = np.full(LAYOUT.size, weight, np.float32) / 7
            fold.add(values, submodel, weight, 8)
        results.append(fold.finish(theta).theta.tobytes())
    assert results[0] == results[1]


def test_training_leaves_what_is_masked_at_zero_and_trains_the_rest_as_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = TINY.model_copy(update={"weight_decay": 0.1, "fleet": "1x1"})
    layout = layout_of(config.model, 1)
    theta = initial_weights(config.model, 1, 0)
    images = np.random.default_rng(0).uniform(-1, 1, (8, 1, 8, 8)).astype(np.float32)
    data = ImageData(images, np.zeros(8, np.int64), 10, "random")

    def train(submodel: Submodel) -> np.ndarray:
        rng = np.random.default_rng(3)
        return train_locally(extract(theta, submodel), submodel, data, config, 1, rng).values

    whole = full_submodel(layout)
    everything = MaskedSubmodel(layout, np.ones(layout.size, bool))
    assert train(everything).tobytes() == train(whole).tobytes()

    seen: list[np.ndarray] = []

    def noted(submodel: MaskedSubmodel, weights: np.ndarray) -> np.ndarray:
        seen.append(weights)
        return weights[submodel.mask]

    monkeypatch.setattr(MaskedSubmodel, "of_network", noted)
    mask = np.random.default_rng(4).random(layout.size) < 0.5
    values = train(MaskedSubmodel(layout, mask))
    assert (seen[0][~mask] == 0).all()
    assert (values != theta[mask]).mean() > 0.95


def test_weights_that_nobody_keeps_stay_as_they_are_in_a_run(tmp_path: Path) -> None:
    config = TINY.model_copy(
        update={"policy": "element-magnitude", "fleet": "1/4x2", "refresh_every": 0}
    )
    grid = LocalGrid(config)
    federate(grid, config, tmp_path)
    layout = by_coordinate(layout_of(config.model, 1))
    state = final_state(config, tmp_path)
    before = initial_weights(config.model, 1, config.seed)
    never = state.counts == 0
    assert 0.6 < never.mean() < 0.75
    assert (state.theta[never] == before[never]).all()
    assert (state.ema[never] == before[never]).all()
    assert (state.theta[~never] != before[~never]).mean() > 0.95
    (first, *_) = [m for m in grid.sent if m.metadata.message_type == "train"]
    sent = first.content.array_records["weights"]["values"].shape[0]
    request = replace(_request(1, layout=layout), weights=GlobalWeights(layout, lambda: before))
    assert sent == submodel_for("element-magnitude", request).size
