"""What a run costs: processor time and memory of all its processes."""

import contextlib
import os
import time

from measure import memory_of


def _cgroup2():
    """Where the unified hierarchy is: alone, or beside those of version 1."""
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        for line in file:
            if " - cgroup2 " in line:
                return line.split()[4]
    raise RuntimeError("no cgroup2 file system is mounted, so processor time cannot be told")


class Group:
    """A cgroup that holds all processes of a run; `container` is the path for a runtime's part."""

    def __init__(self):
        self.name = f"sluice-bench-{time.time_ns()}"
        self.path = os.path.join(_cgroup2(), self.name)
        self.processes = os.path.join(self.path, "system")
        self.container = f"/{self.name}/container"
        os.makedirs(self.processes)

    def join(self):
        """For preexec_fn: the process to be is one of the group."""
        with open(os.path.join(self.processes, "cgroup.procs"), "w", encoding="ascii") as file:
            file.write("0")

    def cpu_seconds(self):
        with open(os.path.join(self.path, "cpu.stat"), encoding="ascii") as file:
            values = dict(line.split() for line in file)
        return int(values["usage_usec"]) / 1e6

    def _members(self):
        with open(os.path.join(self.processes, "cgroup.procs"), encoding="ascii") as file:
            return file.read().split()

    def pids_of(self, program):
        """Processes whose program's file has this name."""
        found = []
        for pid in self._members():
            with contextlib.suppress(OSError):
                if os.path.basename(os.readlink(f"/proc/{pid}/exe")) == program:
                    found.append(int(pid))
        return found

    def peak_memory(self, program):
        """The most that each of a program's processes had, added up."""
        return sum(memory_of(pid)["VmHWM"] for pid in self.pids_of(program))

    def close(self):
        """Ends what is left of it, and removes it from every hierarchy."""
        with contextlib.suppress(OSError), \
                open(os.path.join(self.path, "cgroup.kill"), "w", encoding="ascii") as file:
            file.write("1")
        top = "/sys/fs/cgroup"
        places = {self.path, *(os.path.join(top, each, self.name) for each in os.listdir(top))}
        deadline = time.monotonic() + 30
        while places and time.monotonic() < deadline:  # those that are killed take a moment
            for place in places:
                for directory, _, _ in os.walk(place, topdown=False):
                    with contextlib.suppress(OSError):
                        os.rmdir(directory)
            places = {place for place in places if os.path.isdir(place)}
            time.sleep(0.02)
