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


class _Mounts:
    """Mounts of the image, one after the other, with one cache."""

    def __init__(self, place, directory):
        self.point, self.cache = (os.path.join(directory, name) for name in ("mnt", "cache"))
        self.reference = f"{place.registry.name}/{IMAGE}:latest"
        os.mkdir(self.point)
        self._run("index", "--force", self.reference)

    @staticmethod
    def _run(*arguments):
        subprocess.run([workplace.SLUICE, *arguments], check=True, stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL)

    @contextlib.contextmanager
    def mounted(self, *options):
        self._run("mount", self.reference, self.point, "--cache", self.cache, *options)
        try:
            yield self.point
        finally:
            self._run("umount", self.point)

    def status(self):
        return json.loads(subprocess.run([workplace.SLUICE, "status", self.point, "--json"],
                                         check=True, stdout=subprocess.PIPE).stdout)


@contextlib.contextmanager
def _lower(mounts, directory, device):
    """A mount under an overlay, as a container has it, once all bytes are on the node. `device`: by
    what the kernel must have the layers."""
    bundle = os.path.join(directory, "bundle")
    os.mkdir(bundle)
    with mounts.mounted() as point, runtime.bundle(bundle, point) as made:
        devices = {layer["device"] for layer in mounts.status()["layers"]}
        if devices != {device}:
            raise RuntimeError(f"the layers are read by {devices}, not {device}")
        yield made.root


@contextlib.contextmanager
def _sluice(place, directory):
    """What fill leaves: layers that were verified, of which the kernel is given the files."""
    mounts = _Mounts(place, directory)
    with mounts.mounted("--fill", "now"):
        while mounts.status()["fill"]["state"] != "complete":
            time.sleep(0.1)
    with _lower(mounts, directory, "file") as root:
        yield root


@contextlib.contextmanager
def _sluice_by_server(place, directory):
    """What reading leaves: all is there, and the server is asked for it."""
    mounts = _Mounts(place, directory)
    with mounts.mounted() as point:
        read_everything(point)
    with _lower(mounts, directory, "fuse") as root:
        yield root


SYSTEMS = {"ext4": _ext4, "overlayfs": _overlayfs, "sluice": _sluice,
           "sluice, by its server": _sluice_by_server}


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


def _rounds(operation, roots, argument, count):
    """{system: its medians}. The systems take turns, for a machine is not equally fast at all
    times."""
    disk, memory = ({name: [] for name in roots} for _ in range(2))
    for _ in range(count):
        for name, root in roots.items():
            drop_page_cache()
            disk[name].append(_seconds(operation, root, argument))
            memory[name].append(_seconds(operation, root, argument))
    return {name: {"disk": statistics.median(disk[name]),
                   "memory": statistics.median(memory[name])} for name in roots}


@contextlib.contextmanager
def _ready(place, directory):
    """{system: where its tree is}, all at once."""
    with contextlib.ExitStack() as stack:
        roots = {}
        for name, system in SYSTEMS.items():
            note(f"everything on the node: {name}")
            own = os.path.join(directory, str(len(roots)))
            os.mkdir(own)
            stack.callback(remove, own)
            roots[name] = stack.enter_context(system(place, own))
            devices = os.path.join(roots[name], "dev")
            subprocess.run(["mount", "--bind", "/dev", devices], check=True)
            stack.callback(subprocess.run, ["umount", devices], check=True)
        yield roots


def measure(place, count):
    directory = place.make_directory("warm")
    arguments = _arguments(floor.tree(place, IMAGE), directory)
    figures = {name: {} for name in SYSTEMS}
    with _ready(place, directory) as roots:
        for title, operation in OPERATIONS.items():
            for name, one in _rounds(operation, roots, arguments[title], count).items():
                figures[name][title] = one
            note(f"  {title}: " + json.dumps({name: round(figures[name][title]["disk"], 3)
                                              for name in figures}))
    remove(directory)
    return figures
