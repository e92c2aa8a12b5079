"""Everything on the node: the same reads on ext4, on overlayfs after a full pull, and on sluice.

Each operation runs with an empty page cache ("disk") and once more ("memory").
"""

import contextlib
import json
import os
import statistics
import subprocess
import time

from compare import floor, runtime
from compare.containerd import Daemon, succeed
from compare.cost import Group
from compare.place import remove
from measure import drop_page_cache, note, read_everything
from tools import workplace

IMAGE = "torch"
_SMALL_FILE = 64 << 10


@contextlib.contextmanager
def _ext4(place, directory):
    """The image's tree; /dev is mounted in it, and the tree is kept."""
    del directory
    yield floor.tree(place, IMAGE)


@contextlib.contextmanager
def _overlayfs(place, directory):
    """What a full pull leaves: a layer a directory, an overlay over them."""
    group = Group()
    point = os.path.join(directory, "mnt")
    os.mkdir(point)
    try:
        daemon = Daemon(directory, group)
        reference = f"{place.registry.name}/{IMAGE}:latest"
        succeed(daemon.ctr("images", "pull", "--plain-http", reference), group)
        succeed(daemon.ctr("images", "mount", "--rw", reference, point), group)
        yield point
    finally:
        group.close()


@contextlib.contextmanager
def _sluice(place, directory):
    """A mount of which every byte has been read, under an overlay, as a container has it."""
    point, cache = os.path.join(directory, "mnt"), os.path.join(directory, "cache")
    bundle = os.path.join(directory, "bundle")
    os.mkdir(point)
    os.mkdir(bundle)
    reference = f"{place.registry.name}/{IMAGE}:latest"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run([workplace.SLUICE, "index", "--force", reference], check=True, **quiet)
    mount = [workplace.SLUICE, "mount", reference, point, "--cache", cache]
    subprocess.run(mount, check=True, **quiet)
    read_everything(point)
    # What is whole on the node may be served otherwise from the next mount on.
    subprocess.run([workplace.SLUICE, "umount", point], check=True)
    subprocess.run(mount, check=True, **quiet)
    try:
        with runtime.bundle(bundle, point) as made:
            yield made.root
    finally:
        subprocess.run([workplace.SLUICE, "umount", point], check=True)


SYSTEMS = {"ext4": _ext4, "overlayfs": _overlayfs, "sluice": _sluice}


# ---- what is done ----


def _quietly(command, **options):
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, **options)


def _walk(root, _):
    _quietly(["find", root, "-xdev", "-printf", "%s %m\n"])


def _tar(root, names):
    # Into a pipe: GNU tar does not read what it would write to /dev/null.
    _quietly(["sh", "-c", 'tar -C "$1" --null -T "$2" -cf - | cat', "sh", root, names])


def _import(root, _):
    _quietly(["chroot", root, "/usr/bin/python3", "-c", "import torch"])


def _fio(*options):
    def run(root, largest):
        _quietly(["fio", "--name=read", "--readonly", "--filename=" + os.path.join(root, largest),
                  "--invalidate=0", "--ioengine=psync", "--output-format=json", *options])
    return run


OPERATIONS = {
    "walk": _walk,
    "tar of small files": _tar,
    "`import torch`": _import,
    "sequential read": _fio("--rw=read", "--bs=1M"),
    "random reads of 4 KiB": _fio("--rw=randread", "--bs=4k", "--io_size=32M", "--randseed=1"),
}


def _arguments(root, directory):
    """{operation: what it needs to know}, the same for every system."""
    small, largest = [], (0, "")
    for path, directories, files in os.walk(root):
        if path == root:
            directories.remove("dev")
        for name in sorted(files):
            full = os.path.join(path, name)
            if os.path.islink(full) or not os.path.isfile(full):
                continue
            size = os.path.getsize(full)
            relative = os.path.relpath(full, root)
            largest = max(largest, (size, relative))
            if size < _SMALL_FILE:
                small.append(relative)
    names = os.path.join(directory, "small-files")
    with open(names, "wb") as file:
        file.write(b"\0".join(os.fsencode(name) for name in sorted(small)))
    reads = {name: largest[1] for name in ("sequential read", "random reads of 4 KiB")}
    return {"walk": None, "tar of small files": names, "`import torch`": None, **reads}


def _seconds(operation, root, argument):
    started = time.monotonic()
    operation(root, argument)
    return time.monotonic() - started


def _measure_system(root, arguments, count):
    figures = {}
    for name, operation in OPERATIONS.items():
        disk, memory = [], []
        for _ in range(count):
            drop_page_cache()
            disk.append(_seconds(operation, root, arguments[name]))
            memory.append(_seconds(operation, root, arguments[name]))
        figures[name] = {"disk": statistics.median(disk), "memory": statistics.median(memory)}
    return figures


def measure(place, count):
    directory = place.make_directory("warm")
    arguments = _arguments(floor.tree(place, IMAGE), directory)
    figures = {}
    for name, system in SYSTEMS.items():
        note(f"everything on the node: {name}")
        own = os.path.join(directory, name)
        os.mkdir(own)
        try:
            with system(place, own) as root:
                devices = os.path.join(root, "dev")
                subprocess.run(["mount", "--bind", "/dev", devices], check=True)
                try:
                    figures[name] = _measure_system(root, arguments, count)
                finally:
                    subprocess.run(["umount", devices], check=True)
        finally:
            remove(own)
        note("  " + json.dumps({key: round(value["disk"], 3)
                                for key, value in figures[name].items()}))
    remove(directory)
    return figures
