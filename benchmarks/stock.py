"""The app that a round's overhead is compared with: Flower's own averaging of a state dict.

Written into a folder as a user would write it: `FedAvg`, the grid as Flower hands it over, arrays
under their names, one record to a message. Its clients import PyTorch, read the state dict, change
every weight and send it back; the server evaluates nothing and notes when each round was complete,
and how long the slowest client says that it took.
"""

import json
from pathlib import Path

import tomli_w

from common.submodels import Layout

SERVER = """
import json
import time
from pathlib import Path

import torch
from flwr.app import ArrayRecord, MetricRecord
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg

app = ServerApp()
SHAPES = json.loads((Path(__file__).parent / "shapes.json").read_text())


@app.main()
def main(grid, context):
    run_dir = Path(context.run_config["run-dir"])
    slowest = 0.0

    def aggregate(records, key):
        nonlocal slowest
        slowest = max(record["metrics"]["seconds"] for record in records)
        return MetricRecord({"seconds": slowest})

    def after_round(round, arrays):
        with (run_dir / "history.jsonl").open("a") as file:
            file.write(json.dumps({"round": round, "seconds_slowest": slowest}) + "\\n")

    state = {name: torch.randn(shape) for name, shape in SHAPES.items()}
    strategy = FedAvg(fraction_evaluate=0.0, train_metrics_aggr_fn=aggregate)
    strategy.start(
        grid, ArrayRecord(state), num_rounds=context.run_config["rounds"], evaluate_fn=after_round
    )
"""

CLIENT = """
import time

import torch
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.train()
def train(message, context):
    started = time.perf_counter()
    state = message.content["arrays"].to_torch_state_dict()
    state = {name: value + 1e-3 * torch.randn_like(value) for name, value in state.items()}
    metrics = {"num-examples": 100, "seconds": time.perf_counter() - started}
    content = RecordDict({"arrays": ArrayRecord(state), "metrics": MetricRecord(metrics)})
    return Message(content, reply_to=message)
"""


def write_stock_app(folder: Path, layout: Layout) -> None:
    """Write the app for a model with a layout's parameters, one array each."""
    shapes = {parameter.name: parameter.shape for parameter in layout.parameters}
    for part, code in (("server", SERVER), ("client", CLIENT)):
        (folder / part).mkdir(parents=True)
        (folder / part / "__init__.py").touch()
        (folder / part / "app.py").write_text(code, encoding="utf-8")
    (folder / "server" / "shapes.json").write_text(json.dumps(shapes), encoding="utf-8")
    project = {
        "project": {"name": "stock", "version": "0.1.0", "license": "Apache-2.0"},
        "tool": {
            "flwr": {
                "app": {
                    "publisher": "stock",
                    "components": {"serverapp": "server.app:app", "clientapp": "client.app:app"},
                    "config": {"rounds": 1, "run-dir": ""},
                }
            }
        },
    }
    (folder / "pyproject.toml").write_text(tomli_w.dumps(project), encoding="utf-8")
