"""What a client's process imports until it has answered: every message may start a new one."""

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

ROLL_CALL = """
import sys
from flwr.app import Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity
TaskIdentity._run_id = TaskIdentity._node_id = TaskIdentity._task_id = 1
from client.app import app
from common.config import RunConfig
from common.wire.rollcall import pack_question, unpack_roll_call
node = {"partition-id": 1, "num-partitions": 2}
config = RunConfig(fleet="1x1 1/2x1").to_flat()
context = Context(run_id=1, node_id=5, node_config=node, state=RecordDict(), run_config=config)
question = Message(pack_question(measure=False), dst_node_id=5, message_type="query")
answer = unpack_roll_call(app(question, context).content)
assert (answer.partition, answer.image_shape) == (1, (1, 8, 8)), answer
assert answer.examples > 700, answer
print(*sys.modules)
"""


def _imported(script: str) -> set[str]:
    """Return which modules a process has that runs a script, with data sets already prepared."""
    python = [sys.executable, "-c", script]
    subprocess.run(python, check=True, capture_output=True)  # fills caches
    done = subprocess.run(python, check=True, capture_output=True, text=True)
    return set(done.stdout.split())


@pytest.mark.slow
def test_a_client_trains_without_importing_what_takes_long() -> None:
    imported = _imported(TRAIN)
    slow = {"sympy", "torch._dynamo", "sklearn", "scipy", "flwr_datasets", "matplotlib"}
    assert not slow & imported
    assert "client.optimizer" in imported


@pytest.mark.slow
def test_a_client_answers_the_roll_call_without_pytorch() -> None:
    imported = _imported(ROLL_CALL)
    slow = {"torch", "sklearn", "scipy", "flwr_datasets", "matplotlib", "numba"}
    assert not slow & imported
    assert "common.wire.rollcall" in imported
