"""Scores of importance: the byte they travel in, and the policy that ranks by them."""

from dataclasses import replace

import numpy as np
import pytest
from flwr.app import ConfigRecord

from common import wire
from common.submodels.masked import MaskedSubmodel, by_coordinate, masked_submodel
from common.submodels.submodel import extract
from common.wire.records import WireError
from common.wire.scores import LARGEST, SMALLEST, UNSCORED, decode_scores, encode_scores
from server.policies.choose import submodel_for
from server.policies.request import GlobalWeights, Request
from tests.layouts import chain_layout

LAYOUT = by_coordinate(chain_layout(atom=4, atoms=3))
THETA = np.random.default_rng(7).normal(size=LAYOUT.size).astype(np.float32)
SCORES = np.exp(np.random.default_rng(8).normal(-20, 5, LAYOUT.size)).astype(np.float32)


def _mask(scores: np.ndarray | None, k: int) -> np.ndarray:
    weights = GlobalWeights(LAYOUT, lambda: THETA, scores)
    request = Request(LAYOUT, k, 0, 1, 1, np.random.default_rng(0), weights=weights)
    submodel = submodel_for("element-importance", request)
    assert isinstance(submodel, MaskedSubmodel)
    return submodel.mask


def test_a_score_travels_in_a_byte_within_an_eighth_of_a_factor_of_two() -> None:
    scores = np.exp(np.random.default_rng(0).uniform(-46.6, -2.8, 10_000)).astype(np.float32)
    assert scores.min() < 2 * SMALLEST
    assert scores.max() > LARGEST / 2
    codes = encode_scores(scores)
    assert len(codes) == scores.size
    assert np.abs(np.log2(decode_scores(codes) / scores)).max() <= 1 / 8 + 1e-5
    odd = np.array([0, 1e-30, SMALLEST, LARGEST, 5, np.inf, np.nan], np.float32)
    expected = [0, 0, SMALLEST, LARGEST, LARGEST, LARGEST, 0]
    np.testing.assert_allclose(decode_scores(encode_scores(odd)), expected, rtol=1e-6)
    assert list(encode_scores(decode_scores(bytes(range(256))))) == list(range(256))


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_the_least_important_weights_of_every_layer_are_left_out(k: int) -> None:
    kept = _mask(SCORES, k)
    for parameter in LAYOUT.parameters:
        own = SCORES[parameter.span].tolist()
        if len(parameter.shape) == 1:
            expected = [True] * len(own)
        else:
            best = sorted(range(len(own)), key=lambda i: -own[i])[: -(-len(own) * k // 4)]
            expected = [i in best for i in range(len(own))]
        assert kept[parameter.span].tolist() == expected


def test_without_scores_the_largest_weights_are_kept() -> None:
    weights = GlobalWeights(LAYOUT, lambda: THETA)
    request = Request(LAYOUT, 2, 0, 1, 1, np.random.default_rng(0), weights=weights)
    by_size = submodel_for("element-magnitude", request)
    for scores in (None, np.full(LAYOUT.size, UNSCORED, np.float32)):
        np.testing.assert_array_equal(np.packbits(_mask(scores, 2)).tobytes(), by_size.bitmask())


def test_a_weight_without_a_score_is_credited_with_its_layers_mean_squared_gradient() -> None:
    reported = np.where(np.random.default_rng(9).random(LAYOUT.size) < 0.5, SCORES, UNSCORED)
    kept = _mask(reported.astype(np.float32), 1)
    credited = 0
    for parameter in (p for p in LAYOUT.parameters if len(p.shape) > 1):
        own, theta = reported[parameter.span], THETA[parameter.span].astype(float)
        known = own >= 0
        fisher = own[known].sum() / (theta[known] ** 2).sum()
        filled = [s if s >= 0 else fisher * t * t for s, t in zip(own, theta, strict=True)]
        best = sorted(range(len(filled)), key=lambda i: -filled[i])[: -(-len(filled) // 4)]
        assert np.flatnonzero(kept[parameter.span]).tolist() == sorted(best)
        credited += int((~known)[best].sum())
    assert credited


SUBMODEL = masked_submodel(LAYOUT, np.random.default_rng(1).random(LAYOUT.size) < 0.3)
METRICS = {"loss": 0.5, "images": 64}


def test_scores_are_asked_for_and_travel_for_kept_coordinates_only() -> None:
    values, scores = extract(THETA, SUBMODEL), extract(SCORES, SUBMODEL)
    quiet = wire.spec_for(SUBMODEL, 3, "element-magnitude", "float32")
    asking = replace(quiet, importance=True)
    assert quiet.assignment != asking.assignment
    _, _, got = wire.unpack_task(wire.pack_task(values, asking), chain_layout(atom=4, atoms=3))
    assert got == asking
    silent = wire.pack_reply(values, quiet, METRICS)
    reply = wire.pack_reply(values, asking, METRICS, scores)
    extra = wire.payload_bytes(reply) - wire.payload_bytes(silent)
    assert extra == SUBMODEL.size + len("importance")
    assert wire.unpack_reply(silent, quiet, SUBMODEL).scores is None
    back = wire.unpack_reply(reply, asking, SUBMODEL).scores
    assert back is not None
    np.testing.assert_allclose(back, scores, rtol=0.1)


@pytest.mark.parametrize("codes", [b"", bytes(SUBMODEL.size - 1), bytes(10**6), "text", 5, None])
def test_other_scores_than_a_byte_a_coordinate_are_malformed(codes: bytes | str | int) -> None:
    spec = wire.spec_for(SUBMODEL, 3, "element-importance", "float32", importance=True)
    content = wire.pack_reply(extract(THETA, SUBMODEL), spec, METRICS)
    record = dict(content.config_records["spec"])
    content["spec"] = ConfigRecord(record if codes is None else {**record, "importance": codes})
    with pytest.raises(WireError, match="importance") as caught:
        wire.unpack_reply(content, spec, SUBMODEL)
    assert caught.value.reason == "malformed"
