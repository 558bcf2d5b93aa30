"""What memory a process may take, from files such as the kernel shows."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from stepreel.available_memory import AvailableMemory, available_memory

GIB = 2**30


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with 8 GiB available, and no limits."""
    monkeypatch.setattr(resource, "getrlimit", lambda limit: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    write(tmp_path, {"proc/meminfo": "MemTotal:  16777216 kB\nMemAvailable:  8388608 kB\nHugePages_Total:  0\n"})
    return tmp_path


def test_a_machine_without_limits_has_what_is_available(root: Path) -> None:
    assert available_memory(root) == AvailableMemory(nbytes=8 * GIB, bound_by="machine")
    write(root, {"proc/self/cgroup": "0::/user.slice\n", "sys/fs/cgroup/user.slice/memory.max": "max\n"})
    write(root, {"sys/fs/cgroup/user.slice/memory.current": "5\n"})
    assert available_memory(root) == AvailableMemory(nbytes=8 * GIB, bound_by="machine")


@pytest.mark.parametrize("name", ["memory.max", "memory.high"])
def test_a_group_has_its_limit_less_what_it_uses_but_for_page_cache(root: Path, name: str) -> None:
    group = "sys/fs/cgroup/pod/box"
    write(root, {"proc/self/cgroup": "0::/pod/box\n", f"{group}/{name}": f"{4 * GIB}\n"})
    write(root, {f"{group}/memory.current": f"{3 * GIB}\n", f"{group}/memory.stat": f"anon 7\ninactive_file {GIB}\n"})
    assert available_memory(root) == AvailableMemory(nbytes=2 * GIB, bound_by="cgroup")


def test_the_limit_of_a_group_above_holds_too(root: Path) -> None:
    write(root, {"proc/self/cgroup": "0::/pod/box\n", "sys/fs/cgroup/pod/box/memory.max": f"{4 * GIB}"})
    write(root, {"sys/fs/cgroup/pod/box/memory.current": "0", "sys/fs/cgroup/pod/memory.max": f"{2 * GIB}"})
    write(root, {"sys/fs/cgroup/pod/memory.current": f"{GIB}"})
    assert available_memory(root) == AvailableMemory(nbytes=GIB, bound_by="cgroup")


def test_a_container_that_does_not_see_its_own_path_has_the_limit_at_the_top(root: Path) -> None:
    write(root, {"proc/self/cgroup": "0::/../../docker/5f\n", "sys/fs/cgroup/memory.max": f"{GIB}"})
    write(root, {"sys/fs/cgroup/memory.current": f"{GIB // 4}"})
    assert available_memory(root) == AvailableMemory(nbytes=3 * GIB // 4, bound_by="cgroup")


def test_groups_of_version_1_have_limits_of_other_names(root: Path) -> None:
    group = "sys/fs/cgroup/memory/docker/5f"
    write(root, {"proc/self/cgroup": "5:cpu,cpuacct:/docker/5f\n4:memory:/docker/5f\n"})
    write(root, {f"{group}/memory.limit_in_bytes": f"{3 * GIB}", f"{group}/memory.usage_in_bytes": f"{2 * GIB}"})
    write(root, {f"{group}/memory.stat": f"cache 1\ntotal_inactive_file {GIB // 2}\n"})
    write(root, {"sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712"})
    write(root, {"sys/fs/cgroup/memory/memory.usage_in_bytes": "1"})
    assert available_memory(root) == AvailableMemory(nbytes=3 * GIB // 2, bound_by="cgroup")


def test_more_used_than_allowed_leaves_nothing(root: Path) -> None:
    write(root, {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "5", "sys/fs/cgroup/memory.current": "6"})
    assert available_memory(root) == AvailableMemory(nbytes=0, bound_by="cgroup")


def test_address_space_is_a_limit_less_what_is_mapped(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda limit: (GIB, resource.RLIM_INFINITY))
    pages = GIB // 4 // resource.getpagesize()
    write(root, {"proc/self/statm": f"{pages} 5 4 3 2 1 0\n"})
    assert available_memory(root) == AvailableMemory(nbytes=3 * GIB // 4, bound_by="RLIMIT_AS")


@pytest.mark.parametrize("text", ["", "MemAvailable:\n", "MemAvailable: much kB\n"])
def test_what_can_not_be_read_bounds_nothing(root: Path, text: str) -> None:
    write(root, {"proc/meminfo": text, "proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "many"})
    assert available_memory(root) == AvailableMemory(nbytes=0, bound_by="machine")


def test_here_there_is_some() -> None:
    assert available_memory().nbytes > 2**20
