"""What a client's process imports until it has trained: every message may start a new one."""

import subprocess
import sys

import pytest

TRAIN = """
import sys
import numpy as np
import client.app
from client.training import train_locally
from common.config import RunConfig
from common.data import load_partition
from common.submodels import full_submodel
from common.network import layout_of
config = RunConfig(local_steps=1, batch_size=2)
data = load_partition(config.data, config.partition, config.partition_alpha, 8, 0, config.seed)
submodel = full_submodel(layout_of(config.model, 1))
values = np.full(submodel.size, 0.01, np.float32)
train_locally(values, submodel, data, config, 1, np.random.default_rng(0))
print(*sys.modules)
"""


@pytest.mark.slow
def test_a_client_trains_without_importing_what_takes_long() -> None:
    subprocess.run([sys.executable, "-c", TRAIN], check=True, capture_output=True)  # fills caches
    done = subprocess.run([sys.executable, "-c", TRAIN], check=True, capture_output=True, text=True)
    slow = {"sympy", "torch._dynamo", "sklearn", "scipy", "flwr_datasets", "matplotlib"}
    assert not slow & set(done.stdout.split())
    assert "client.optimizer" in done.stdout.split()
