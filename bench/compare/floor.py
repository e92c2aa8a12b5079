"""The least time that a workload can take: on a local disk, or until its bytes have arrived."""

import contextlib
import os
import statistics

from compare import asked, runtime, workloads
from compare.cost import Group
from compare.place import remove
from measure import drop_page_cache, note
from tools import images as test_images

_READAHEAD_KB = 128


def _setting(path):
    device = os.stat(path).st_dev
    return f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb"


def _read(path):
    with open(path, encoding="ascii") as file:
        return int(file.read())


def _write(path, value):
    with open(path, "w", encoding="ascii") as file:
        file.write(str(value))


@contextlib.contextmanager
def _usual_readahead(setting):
    """Of a disk: what the kernel has where nobody tuned it."""
    before = _read(setting)
    try:
        _write(setting, _READAHEAD_KB)
        yield
    finally:
        _write(setting, before)


def tree(place, name):
    """The image's tree, unpacked on the disk."""
    return test_images.unpacked(test_images.Image(place.layout, name, ()))


def _run(place, workload, root, cold):
    group = Group()
    directory = place.make_directory("local")
    try:
        with runtime.bundle(directory, root) as bundle:
            arguments = bundle.arguments(workloads.command(workload), group)
            if cold:
                drop_page_cache()
            before = group.cpu_seconds()
            ready, total = workloads.run(workload, arguments, group)
            return {"ready_seconds": ready, "total_seconds": total,
                    "cpu_seconds": group.cpu_seconds() - before}
    finally:
        group.close()
        remove(directory)


def _asked(place, workload, root, layers):
    _run(place, workload, root, True)
    plain, compressed = asked.in_page_cache(layers, root)
    wire = place.speed.rtt_ms / 1000 + compressed * 8 / (place.speed.mbit * 1e6)
    return {"bytes": plain, "compressed_bytes": compressed, "wire_seconds": wire}


def measure(place, workload, count):
    """The floor, and what it is made of. The disk's own readahead may be another: what it makes of
    the same work is shown beside."""
    note(f"{workload.image}: on the local disk")
    root = tree(place, workload.image)
    layers = asked.layers_of(place.layout, workload.image)
    setting = _setting(root)
    own = _asked(place, workload, root, layers) | {"readahead_kb": _read(setting)}
    runs = [_run(place, workload, root, True) for _ in range(count)]
    warm = _run(place, workload, root, False)
    with _usual_readahead(setting):
        usual = _asked(place, workload, root, layers) | {"readahead_kb": _READAHEAD_KB}
    local = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
    note(f"  local {local['total_seconds']:.2f} s; asked for {usual['bytes'] / 1e6:.0f} MB, "
         f"compressed {usual['compressed_bytes'] / 1e6:.0f} MB, which take "
         f"{usual['wire_seconds']:.2f} s")
    return {"local": local, "local_warm": warm, "asked": usual, "asked_own_readahead": own,
            "floor_seconds": max(local["total_seconds"], usual["wire_seconds"])}
