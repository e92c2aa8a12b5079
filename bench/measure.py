"""What every section of the bench needs: a registry with a mount point, timing, memory, the report."""

import contextlib
import json
import os
import platform
import shutil
import subprocess
import sys
import time

from tools import workplace
from tools.registry import Registry, push
from tools.testcase import mounts_under, servers_under


def note(text):
    print("bench: " + text, file=sys.stderr, flush=True)


def size(count):
    return f"{count / 1e6:,.1f} MB"


def milliseconds(seconds):
    return f"{1000 * seconds:,.0f} ms"


# A process that is begun takes the most memory of its parent over as its own (getrusage(2)), and the
# bench may have had much: so a small one stands between, which tells time and memory.
_BETWEEN = """
import os, sys, time
os.set_inheritable(int(sys.argv[1]), False)
started = time.monotonic()
pid = os.posix_spawnp(sys.argv[2], sys.argv[2:], os.environ)
_, status, usage = os.wait4(pid, 0)
os.write(int(sys.argv[1]), b"%f %d" % (time.monotonic() - started, usage.ru_maxrss * 1024))
sys.exit(os.waitstatus_to_exitcode(status) & 255)
"""


def run_measured(command, **options):
    """(seconds, the most memory in bytes, standard output)"""
    reading, writing = os.pipe()
    with open(reading, encoding="ascii") as report:
        try:
            between = [sys.executable, "-S", "-c", _BETWEEN, str(writing), *command]
            process = subprocess.run(between, stdout=subprocess.PIPE, pass_fds=[writing],
                                     check=False, **options)
        finally:
            os.close(writing)
        if process.returncode:
            raise RuntimeError(f"{' '.join(command)}: exit code {process.returncode}")
        seconds, memory = report.read().split()
    return float(seconds), int(memory), process.stdout


def seconds_of_gzip(blobs):
    """What `gzip -dc` takes for them, one after another."""
    return sum(run_measured(["sh", "-c", 'gzip -dc < "$1" > /dev/null', "sh", blob])[0]
               for blob in blobs)


def drop_page_cache():
    os.sync()
    with open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as file:
        file.write("3\n")


def memory_of(pid):
    """The VmRSS, VmHWM, RssAnon and RssFile lines of a process, in bytes."""
    found = {}
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        for line in file:
            name, _, value = line.partition(":")
            if name in ("VmRSS", "VmHWM", "RssAnon", "RssFile"):
                found[name] = int(value.split()[0]) * 1024
    return found


def read_file(path, buffer):
    """Bytes."""
    count = 0
    with open(path, "rb", buffering=0) as file:
        while length := file.readinto(buffer):
            count += length
    return count


def read_everything(root):
    """(entries, bytes) of a tree, after reading all of it, each file once."""
    entries, count = 1, 0
    buffer = bytearray(1 << 20)
    seen = set()
    for directory, names, files in os.walk(root):
        entries += len(names) + len(files)
        for name in files:
            path = os.path.join(directory, name)
            info = os.lstat(path)
            if not os.path.isfile(path) or os.path.islink(path) or info.st_ino in seen:
                continue
            seen.add(info.st_ino)
            count += read_file(path, buffer)
    return entries, count


def machine():
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        models = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {"cpu": models[0] if models else platform.machine(), "cores": os.cpu_count(),
            "memory_bytes": pages, "kernel": platform.release(),
            "sluice": run_measured([workplace.SLUICE, "--version"])[2].decode().strip()}


class Station:
    """A registry with images, a mount point, and the command."""

    def __init__(self, directory):
        self.directory = directory
        self.registry = Registry(os.path.join(directory, "registry"), syncs=True)
        self.point = os.path.join(directory, "mnt")
        os.mkdir(self.point)
        self.environment = {**os.environ, "HOME": directory}

    def close(self):
        for point in mounts_under(self.directory):
            subprocess.run(["umount", "-l", point], check=False)
        self.registry.stop()

    def push(self, layout, tag, repository):
        """The image's reference."""
        push(layout, layout.find(tag), self.registry.name, repository, "latest")
        return f"{self.registry.name}/{repository}:latest"

    def sluice(self, *arguments):
        return run_measured([workplace.SLUICE, *arguments], env=self.environment)

    def index(self, reference):
        """(seconds, the most memory in bytes, what it says of itself)"""
        seconds, memory, output = self.sluice("index", "--force", "--json", reference)
        return seconds, memory, json.loads(output)

    def status(self):
        return json.loads(self.sluice("status", self.point, "--json")[2])

    def cache(self, name):
        return os.path.join(self.directory, "cache-" + name)

    def mount(self, reference, cache, path=".", options=()):
        """Seconds from the start of the command to the answer of the first stat."""
        started = time.monotonic()
        subprocess.run([workplace.SLUICE, "mount", reference, self.point, "--cache", cache,
                        *options], env=self.environment, check=True)
        os.lstat(os.path.join(self.point, path))
        return time.monotonic() - started

    def unmount(self):
        self.sluice("umount", self.point)

    def server_memory(self):
        (pid, _), = servers_under(self.point)
        return memory_of(pid)

    def server_cpu(self):
        """Seconds of a processor, of the kernel's work for it, too."""
        with open(f"/proc/{self.status()['pid']}/stat", encoding="ascii") as file:
            fields = file.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def station(name):
    directory = workplace.fresh_directory("bench-" + name)
    try:
        with contextlib.closing(Station(directory)) as opened:
            yield opened
    finally:
        if not mounts_under(directory):
            shutil.rmtree(directory)
