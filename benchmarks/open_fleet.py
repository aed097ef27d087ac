"""`python -m benchmarks.open_fleet FOLDER`: 200 clients that come uncounted and judge.

The whole server (`server.app.federate`) with clients in its own process that answer at once with
noise and with losses and moments made beforehand. Cases are a fixed fleet judged by the server,
the same judged by its clients, and `fleet="auto"` judged by its clients, each in a fresh process.
Prints as Markdown what a round takes without its clients' answers, and the server's memory over the
rounds; `open-fleet.json` in FOLDER has every number.
"""

import json
import logging
import os
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Annotated, Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported

import typer
from flwr.app import Message
from flwr.supercore.task_identity import TaskIdentity

from benchmarks.many import SHAPE, ManyClients
from common.config import RunConfig
from common.files import write_json
from common.wire import Answer, Question, pack_answer, unpack_evaluation

EXAMPLES = 100
BASE: dict[str, Any] = {
    "policy": "static",
    "model.widths": "8,16",
    "model.groups": 2,
    "evaluation.samples": 64,
    "evaluation.evaluations": 1,
    "evaluation.features": "untrained",
}
CASES: dict[str, dict[str, Any]] = {
    "fixed, judged by the server": {},
    "fixed, judged by its clients": {"evaluation.by": "clients"},
    "auto, judged by its clients": {"evaluation.by": "clients", "fleet": "auto 1/2"},
}


class Judges(ManyClients):
    """Clients that also answer what they find, and note what time their answers take.

    Attributes:
        began: When each round's first task was sent.
        away: Seconds that clients' answers have taken until then.
    """

    def __init__(self, config: RunConfig, clients: int, found: Answer) -> None:
        super().__init__(clients, config)
        self.found = found
        self.questions: dict[int, Question] = {}
        self.seconds = 0.0
        self.began: list[float] = []
        self.away: list[float] = []

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Keep what the answers need until somebody asks for them."""
        return super().push_messages(map(self._noted, messages))

    def _noted(self, message: Message) -> Message:
        metadata = message.metadata
        if metadata.message_type == "train" and int(metadata.group_id) > len(self.began):
            self.began.append(time.perf_counter())
            self.away.append(self.seconds)
        if metadata.message_type == "evaluate":
            self.questions[metadata.dst_node_id] = unpack_evaluation(message.content, SHAPE)
        return message

    def _answer(self, number: str, message: Message, size: int) -> Message:
        started = time.perf_counter()
        if message.metadata.message_type == "evaluate":
            question = self.questions.pop(message.metadata.dst_node_id)
            answer = Message(pack_answer(_to(question, self.found), question), reply_to=message)
        else:
            answer = super()._answer(number, message, size)
        self.seconds += time.perf_counter() - started
        return answer

    def rounds(self) -> list[float]:
        """Return what each round but the last took besides its clients' answers, in seconds."""
        own = [began - away for began, away in zip(self.began, self.away, strict=True)]
        return [end - start for start, end in pairwise(own)]


def found_by_a_client(config: RunConfig) -> Answer:
    """Return the moments of some digits, as a client finds them."""
    import numpy as np
    import torch

    from client.evaluation import evaluate_locally
    from common.data import Splits, load_dataset
    from common.features import network_named

    train = load_dataset("digits").train
    splits = Splits(train.select(np.arange(EXAMPLES)), train.select(np.arange(200, 225)))
    network = network_named("untrained", SHAPE)
    question = Question(number="", rates=(), features="untrained", samples=None)
    return evaluate_locally(
        question,
        splits,
        config,
        0,
        weights=None,
        network=network,
        least_images=2,
        device=torch.device("cpu"),
    )


def _to(question: Question, found: Answer) -> Answer:
    """Return an answer to all that is asked."""
    near = (0.1, 0.2, 0.3, 0.4, 0.5) if question.samples is not None else ()
    return Answer(
        held_out=found.held_out,
        losses=dict.fromkeys(question.rates, (0.5,) * 8),
        moments=found.moments if question.features else {},
        nearest=near,
        nearest_held_out=near,
    )


def measure(case: str, clients: int, rounds: int) -> dict[str, Any]:
    """Run one case in this process."""
    import torch

    from server.app import federate
    from server.grid import StreamingGrid

    for name in ("_run_id", "_node_id", "_task_id"):
        setattr(TaskIdentity, name, 1)  # Flower makes messages only in a process that has a run
    logging.disable(logging.CRITICAL)
    torch.set_num_threads(1)
    fleet = {"fleet": f"1/2x{clients}", "simulation-clients": clients, "rounds": rounds}
    config = RunConfig.from_flat(BASE | fleet | CASES[case])
    grid = Judges(config, clients, found_by_a_client(config))
    with tempfile.TemporaryDirectory() as folder:
        federate(StreamingGrid(grid), config, Path(folder))
        history = (Path(folder) / "history.jsonl").stat().st_size
        summary = json.loads((Path(folder) / "summary.json").read_text())
    judged = len(summary.get("memorisation", {}))
    assert judged == (clients if config.by_clients else 0), "everybody has judged, or nobody was to"
    return {
        "case": case,
        "seconds": grid.rounds(),
        # The most while clients of a round answer: the server holds then what it ever holds.
        "mib": [max(grid.resident[n * clients : (n + 1) * clients]) for n in range(rounds)],
        "history_kib_a_round": history / 1024 / (rounds + 1),
    }


def table(results: list[dict[str, Any]]) -> str:
    """Return the results as Markdown."""
    last = len(results[0]["mib"])
    marks = [n for n in (2, last // 2, last) if n <= last]
    heads = ["200 clients", "seconds a round", *(f"MiB in round {n}" for n in marks)]
    lines = [f"| {' | '.join(heads)} |", "|" + " --- |" * len(heads)]
    for each in results:
        seconds = median(each["seconds"][1:])
        cells = [each["case"], f"{seconds:.2f}", *(f"{each['mib'][n - 1]:.0f}" for n in marks)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(
    folder: Annotated[Path, typer.Argument(help="Where to write.")],
    clients: Annotated[int, typer.Option(min=2, help="How many there are.")] = 200,
    rounds: Annotated[int, typer.Option(min=4, help="Of every case.")] = 20,
) -> None:
    """Run all cases, one after the other, and print what they took."""
    results = []
    for case in CASES:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:
            results.append(fresh.submit(measure, case, clients, rounds).result())
        typer.echo(f"{results[-1]}", err=True)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "open-fleet.json", results)
    typer.echo(table(results).replace("200 clients", f"{clients} clients"))


if __name__ == "__main__":
    typer.run(main)
