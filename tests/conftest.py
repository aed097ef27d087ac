"""Array annotations are checked in every test, and nothing is cached outside the test run."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from jaxtyping import install_import_hook

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
# The same examples every time, and no deadline: a busy machine is not a failure.
settings.register_profile("suite", derandomize=True, deadline=None, max_examples=40)
settings.load_profile("suite")
ROOT = Path(__file__).parents[1]
# Compiled loops stay out: what the hook wraps cannot be compiled.
CHECKED = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for package in ("common", "server", "client", "simulations")
    for path in (ROOT / package).rglob("*.py")
    if path.stem not in ("__init__", "kernels")
]
install_import_hook(CHECKED, "beartype.beartype")


@pytest.fixture(autouse=True)
def _inside_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flower makes messages only in a process that knows its run."""
    from flwr.supercore.task_identity import TaskIdentity

    for name in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keep prepared data and classifiers of the tests away from the user's."""
    base = tmp_path_factory.getbasetemp()
    # Processes that share the tests out have folders beside each other, and share the cache, too.
    cache = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cache"
    cache.mkdir(exist_ok=True)
    os.environ["SCOREQUILT_CACHE"] = str(cache)
    yield cache
    del os.environ["SCOREQUILT_CACHE"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what may take longest, so that no process is left alone with it at the end."""

    def length(item: pytest.Item) -> float:
        limit = item.get_closest_marker("timeout")
        return limit.args[0] if limit else 1.0 if item.get_closest_marker("slow") else 0.0

    items.sort(key=length, reverse=True)
