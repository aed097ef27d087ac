"""What a process may use of its machine: cores and memory, as far as a container leaves it any.

Containers limit their processes by Linux control groups. Python counts the machine's cores and
psutil the machine's memory, whatever a group's quota; who takes these for its own starts too many
workers, or is killed. A limit may stand in the group of the process or in any group around it.
"""

import math
import os
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")


@cache
def cores() -> int:
    """Return how many cores this process can keep busy, at least 1.

    Those that it may run on, and no more than the processor time that its groups grant.
    """
    allowed = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    for group in _groups("cpu"):
        quota, period = _quota(group)
        if quota > 0 and period > 0:
            allowed = min(allowed, math.ceil(quota / period))
    return max(1, allowed)


def free_memory() -> int:
    """Return the bytes that can be had without swapping, 0 if the system does not say."""
    import psutil  # 15 ms, which a task that trains need not wait for

    try:
        free = int(psutil.virtual_memory().available)
    except OSError:
        return 0
    for group in _groups("memory"):
        limit, used = _memory(group)
        if limit is not None:
            free = min(free, max(0, limit - used))
    return free


def _groups(controller: str) -> Iterator[Path]:
    """Yield the folders of the groups that limit this process, from its own outwards.

    In a container its own group may be the only one that is mounted, at the root.
    """
    try:
        lines = OWN.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        number, controllers, path = line.split(":", 2)
        names = [each for each in CGROUPS.glob("*") if controller in each.name.split(",")]
        if number == "0" and not controllers:  # version 2, alone or beside version 1
            mounts = [CGROUPS, CGROUPS / "unified"]
        elif controller in controllers.split(","):
            mounts = names
        else:
            continue
        for mount in mounts:
            inner = mount / path.lstrip("/")
            for group in (inner, *inner.parents):
                if group.is_relative_to(mount) and group.is_dir():
                    yield group


def _quota(group: Path) -> tuple[float, float]:
    """Return the microseconds of processor time that a group has in a period; -1 for no limit."""
    words = _words(group / "cpu.max")
    for name in ("quota", "period") if not words else ():  # version 1
        words += _words(group / f"cpu.cfs_{name}_us")
    try:
        quota, period = map(float, words)
    except ValueError:  # "max", or nothing
        return -1.0, -1.0
    return quota, period


def _memory(group: Path) -> tuple[int | None, int]:
    """Return a group's limit in bytes, None for none, and what it uses and could not give up."""
    for limit_name, used_name in (
        ("memory.max", "memory.current"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        limit, used = _words(group / limit_name), _words(group / used_name)
        if limit and used:
            plain = None if limit[0] == "max" else int(limit[0])
            return plain, max(0, int(used[0]) - _cached(group))
    return None, 0


def _cached(group: Path) -> int:
    """Return the bytes of files that the system keeps for a group as long as there is room."""
    words = _words(group / "memory.stat")
    known = dict(zip(words[::2], words[1::2], strict=False))
    return int(known.get("total_inactive_file", known.get("inactive_file", "0")))


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []
