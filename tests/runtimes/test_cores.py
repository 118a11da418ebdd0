"""The cores that a process may use: what its affinity and the quota of its container leave."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from runtimes.cores import ROUNDS, Threads, fastest, usable_cores

V2 = "31 23 0:28 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate"
V1 = "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid - cgroup cgroup rw,cpu,cpuacct"
OTHER = "33 31 0:30 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n22 1 8:1 / / rw - ext4 /dev/sda rw"


@pytest.fixture
def host(tmp_path, monkeypatch):
    """A host with 64 cores, whose files are under a folder."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)), raising=False)

    def with_files(groups: str, mounts: str, files: dict[str, str]) -> Path:
        for name, content in {"proc/self/cgroup": groups, "proc/self/mountinfo": mounts, **files}.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content + "\n")
        return tmp_path

    return with_files


@pytest.mark.parametrize(
    ("quota", "cores"), [("200000 100000", 2), ("150000 100000", 1), ("max 100000", 64), ("20000 100000", 1), ("?", 64)]
)
def test_a_container_with_version_2_has_the_cores_of_its_quota(host, quota, cores):
    root = host("0::/", f"{V2}\n{OTHER}", {"sys/fs/cgroup/cpu.max": quota})
    assert usable_cores(root) == cores


@pytest.mark.parametrize(("quota", "cores"), [("200000", 2), ("-1", 64), ("50000", 1), ("9900000", 64)])
def test_a_container_with_version_1_has_the_cores_of_its_quota(host, quota, cores):
    files = {"cpu.cfs_quota_us": quota, "cpu.cfs_period_us": "100000"}
    groups = "4:memory:/docker/1f3a\n3:cpuset:/\n1:cpu,cpuacct:/docker/1f3a\n0::/"
    mounts = V1.replace(" / ", " /docker/1f3a ")  # no namespace of its own: the mount begins at its group
    root = host(groups, f"{mounts}\n{OTHER}", {f"sys/fs/cgroup/cpu,cpuacct/{name}": it for name, it in files.items()})
    assert usable_cores(root) == cores


def test_a_group_has_no_more_than_the_groups_above_it(host):
    files = {"user.slice": "max 100000", "user.slice/a": "300000 100000", "user.slice/a/b": "800000 100000"}
    root = host("0::/user.slice/a/b", V2, {f"sys/fs/cgroup/{name}/cpu.max": quota for name, quota in files.items()})
    assert usable_cores(root) == 3


def test_a_group_outside_of_what_the_container_sees_leaves_the_quota_of_the_mount(host):
    root = host("0::/../../other", V2, {"sys/fs/cgroup/cpu.max": "400000 100000"})
    assert usable_cores(root) == 4


def test_a_folder_may_have_a_space_in_its_name(host):
    mounts = V2.replace("/sys/fs/cgroup", r"/my\040groups")
    assert usable_cores(host("0::/", mounts, {"my groups/cpu.max": "500000 100000"})) == 5


def test_the_affinity_counts_without_any_group(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5, 7}, raising=False)
    assert usable_cores(tmp_path) == 3


def test_a_system_without_affinity_has_all_its_cores(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 12)
    assert usable_cores(tmp_path) == 12


def test_this_machine_has_a_core():
    assert 1 <= usable_cores() <= (os.cpu_count() or 1)


class Machine:
    """A machine with known times for some work, whose first call is slow, and which is busy for one call."""

    def __init__(self, seconds: dict[int, float]) -> None:
        self.seconds, self.calls = seconds, list[int]()

    def work(self, threads: int) -> float:
        self.calls.append(threads)
        return self.seconds[threads] + 9 * (len(self.calls) in (1, 5))


@pytest.mark.parametrize(
    ("seconds", "chosen", "text"),
    [
        ({4: 1.0, 2: 1.8, 1: 3.5}, Threads(4, 1.0, False), "4 threads"),
        ({4: 1.0, 2: 1.02, 1: 2.0}, Threads(2, 1.0 / 1.02, False), "2 threads"),
        ({4: 1.5, 2: 1.0, 1: 1.9}, Threads(2, 1.5, False), "2 threads: more take 1.5 times as long"),
        (
            {2: 3.0, 1: 1.0},
            Threads(1, 3.0, True),
            "1 thread: the machine is busy, and more threads take 3.0 times as long",
        ),
        ({1: 1.0}, Threads(1), "1 thread"),
    ],
)
def test_the_fastest_number_of_threads_is_found_by_medians_of_rounds(seconds, chosen, text):
    machine = Machine(seconds)
    found = fastest(max(seconds), machine.work)
    assert found == chosen
    assert str(found) == text
    turns = [] if len(seconds) == 1 else list(seconds) * (1 + ROUNDS)
    assert machine.calls == turns


def test_an_odd_number_of_cores_is_halved_down_to_one():
    machine = Machine({6: 1.0, 3: 2.0, 1: 4.0})
    assert fastest(6, machine.work).number == 6
