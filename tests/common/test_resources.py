"""What a container leaves a process, from pretended control groups and from a real one."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from common import resources
from common.resources import cores, free_memory

MIB = 2**20


@pytest.fixture(autouse=True)
def _anew() -> Iterator[None]:
    """Cores are counted once in a process."""
    cores.cache_clear()
    yield
    cores.cache_clear()


def pretend(patch: pytest.MonkeyPatch, root: Path, own: str, files: Mapping[str, str]) -> None:
    """Let this machine have 8 cores and 16 GiB, and these groups."""
    for name, text in files.items():
        path = root / "groups" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (root / "own").write_text(own)
    patch.setattr(resources, "CGROUPS", root / "groups")
    patch.setattr(resources, "OWN", root / "own")
    patch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    patch.setattr(os, "cpu_count", lambda: 8)
    memory = SimpleNamespace(available=16384 * MIB)
    patch.setattr(psutil, "virtual_memory", lambda: memory)


TWO, ONE = "0::/pod/box\n", "4:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n1:name=systemd:/\n"


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        (TWO, {"pod/box/cpu.max": "200000 100000"}, 2),
        (TWO, {"pod/box/cpu.max": "150000 100000"}, 2),  # half a core more keeps a worker busy
        (TWO, {"pod/box/cpu.max": "1000 100000"}, 1),
        (TWO, {"pod/box/cpu.max": "max 100000"}, 8),
        (TWO, {"pod/box/cpu.max": "max 100000", "pod/cpu.max": "300000 100000"}, 3),
        (TWO, {"cpu.max": "400000 100000"}, 4),  # in a container its own group is at the root
        (TWO, {"unified/pod/box/cpu.max": "100000 100000"}, 1),
        (TWO, {"pod/box/cpu.max": "rubbish"}, 8),
        (TWO, {}, 8),
        ("", {"cpu.max": "100000 100000"}, 8),
        (
            ONE,
            {
                "cpu,cpuacct/docker/abc/cpu.cfs_quota_us": "250000",
                "cpu,cpuacct/docker/abc/cpu.cfs_period_us": "100000",
            },
            3,
        ),
        (
            ONE,  # the container sees its own group as the root
            {"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "50000"},
            1,
        ),
        (ONE, {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 8),
        (ONE, {"cpuset/cpu.cfs_quota_us": "1", "cpuset/cpu.cfs_period_us": "1"}, 8),
    ],
)
def test_cores_are_those_that_every_group_around_grants(
    own: str, files: dict[str, str], expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, tmp_path, own, files)
    assert cores() == expected


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        (TWO, {"pod/box/memory.max": "2147483648", "pod/box/memory.current": "1073741824"}, 1024),
        (
            TWO,  # what is kept of files goes when it is needed
            {
                "pod/box/memory.max": "2147483648",
                "pod/box/memory.current": "1073741824",
                "pod/box/memory.stat": "anon 5\ninactive_file 536870912\nactive_file 7\n",
            },
            1536,
        ),
        (TWO, {"pod/box/memory.max": "max", "pod/box/memory.current": "5"}, 16384),
        (
            TWO,
            {
                "pod/box/memory.max": "max",
                "pod/box/memory.current": "5",
                "pod/memory.max": "1048576",
                "pod/memory.current": "2097152",
            },
            0,
        ),
        (
            ONE,
            {
                "memory/docker/abc/memory.limit_in_bytes": "536870912",
                "memory/docker/abc/memory.usage_in_bytes": "268435456",
                "memory/docker/abc/memory.stat": "total_inactive_file 134217728\n",
            },
            384,
        ),
        (TWO, {}, 16384),
    ],
)
def test_memory_is_what_every_group_around_has_left(
    own: str, files: dict[str, str], expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, tmp_path, own, files)
    assert free_memory() == expected * MIB


def test_memory_that_the_system_hides_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def hidden() -> None:
        raise FileNotFoundError("/proc/meminfo")

    monkeypatch.setattr(psutil, "virtual_memory", hidden)
    assert free_memory() == 0


def test_here_there_is_something() -> None:
    assert 1 <= cores() <= (os.cpu_count() or 1)
    assert MIB < free_memory() < psutil.virtual_memory().total


SCRIPT = "from common.resources import cores, free_memory; print(cores(), free_memory())"


def _real_group() -> tuple[dict[Path, str], list[Path]] | None:
    """Return the files that limit a new group to one core and 2 GiB, and its folders."""
    name = f"scorequilt-test-{os.getpid()}"
    root = Path("/sys/fs/cgroup")
    if (root / "cgroup.controllers").exists():
        folders = [root / name]
        limits = {folders[0] / "cpu.max": "100000 100000", folders[0] / "memory.max": f"{2**31}"}
    else:
        folders = [root / "cpu" / name, root / "memory" / name]
        limits = {
            folders[0] / "cpu.cfs_quota_us": "100000",
            folders[1] / "memory.limit_in_bytes": f"{2**31}",
        }
    try:
        for folder in folders:
            folder.mkdir()
        for path, text in limits.items():
            path.write_text(text)
    except OSError:
        for folder in folders:
            if folder.exists():
                folder.rmdir()
        return None
    return limits, folders


@pytest.mark.skipif(sys.platform != "linux", reason="control groups are Linux's")
def test_a_process_in_a_group_of_one_core_and_2_gib_knows_it() -> None:
    group = _real_group()
    if group is None:
        pytest.skip("this user may not make control groups here; the tests above pretend them")
    _, folders = group
    try:
        join = "".join(f"echo $$ > {folder}/cgroup.procs; " for folder in folders)
        command = f'{join}exec "$0" -c "{SCRIPT}"'
        done = subprocess.run(
            ["sh", "-c", command, sys.executable], capture_output=True, text=True, check=True
        )
        counted, free = map(int, done.stdout.split())
        assert counted == 1
        assert 2**30 < free <= 2**31
    finally:
        for folder in folders:
            folder.rmdir()
