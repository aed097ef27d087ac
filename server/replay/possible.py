"""Whether widths of a run can teach each other at all."""

from dataclasses import replace
from fractions import Fraction
from functools import cache

import numpy as np
from jaxtyping import Float32

from common.config import RunConfig
from common.errors import UserError
from common.submodels import Layout, submodel_of_rate
from server.fleet import Client, request_for
from server.policies import GlobalWeights, policy_named, submodel_for


def replays(config: RunConfig, layout: Layout) -> bool:
    """Say whether a run replays: as configured, or wherever widths can teach each other.

    Raises:
        UserError: It is to, and cannot; the line says why.
    """
    mode = config.replay.mode
    reason = _hindrance(config, layout) if mode != "off" else ""
    if mode == "on" and reason:
        raise UserError(f"replay.mode: on, but {reason}; set replay.mode=off, or auto")
    return mode != "off" and not reason


def _hindrance(config: RunConfig, layout: Layout) -> str:
    """Say why widths cannot teach each other; empty if they can."""
    widths = config.widths(layout.atom)
    policy = policy_named(config.policy)
    if len(widths) < 2 or config.participants == "full":
        return f"no client of fleet={config.fleet} trains a narrower width than another"
    if policy.single_weights or not all(_fixed(config, layout, rate) for rate in widths[:-1]):
        return f"with policy={config.policy} a narrow width is no network of its own"
    if config.evaluation.widths != "all":
        return "with evaluation.widths=full nobody measures what narrower widths have learned"
    if config.evaluate_every > config.rounds - 2:
        return f"with evaluate-every={config.evaluate_every} nothing is measured in time"
    if config.batch_size < 2:
        return "a batch of one image has no room for another"
    return ""


def _fixed(config: RunConfig, layout: Layout, rate: Fraction) -> bool:
    """Say whether clients of a rate always train that width of the global model, or less of it."""
    client = Client(node=0, partition=0, rate=rate, examples=1, index=0, count=2)
    width = np.frombuffer(submodel_of_rate(layout, rate).bitmask(), np.uint8)
    some = GlobalWeights(layout, cache(lambda: _unlike(layout.size)))
    for index in (0, 1):
        for round in (1, 2, 3):
            request = request_for(layout, config, replace(client, index=index), round, some)
            held = np.frombuffer(submodel_for(config.policy, request).bitmask(), np.uint8)
            if (held & ~width).any():
                return False
    return True


def _unlike(size: int) -> Float32[np.ndarray, "P"]:
    """Return weights that a policy can tell apart."""
    return np.random.default_rng(0).standard_normal(size, np.float32)
