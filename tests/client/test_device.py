"""What a device says about itself."""

import psutil
import pytest

from client.device import free_memory


def test_free_memory_is_what_the_system_could_give() -> None:
    assert 2**20 < free_memory() < psutil.virtual_memory().total


def test_memory_that_the_system_hides_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def hidden() -> None:
        raise FileNotFoundError("/proc/meminfo")

    monkeypatch.setattr(psutil, "virtual_memory", hidden)
    assert free_memory() == 0
