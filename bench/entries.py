"""How index build, mount and the server's memory grow with the number of entries."""

import os
import statistics
import tarfile

from measure import milliseconds, note, size, station
from tools import layers, workplace
from tools.layout import Layout

COUNTS = (10_000, 100_000, 1_000_000)
FILES_PER_DIRECTORY = 500
GROUP = 100  # directories in a directory


def _header(name, kind, length=0):
    entry = tarfile.TarInfo(name)
    entry.type = kind
    entry.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
    entry.mtime = 1_600_000_000
    entry.size = length
    return entry.tobuf(tarfile.USTAR_FORMAT)


def _write_tar(path, count):
    """`count` entries, most of them files of some bytes."""
    written, number = 0, 0
    with open(path, "wb") as tar:
        while written < count:
            group, directory = divmod(number, GROUP)
            if directory == 0:
                tar.write(_header(f"data/group-{group:04}", tarfile.DIRTYPE))
                written += 1
            here = f"data/group-{group:04}/directory-{number:06}"
            tar.write(_header(here, tarfile.DIRTYPE))
            written += 1
            for file in range(min(FILES_PER_DIRECTORY, count - written)):
                data = f"{number} {file}\n".encode()
                tar.write(_header(f"{here}/file-{file:05}.txt", tarfile.REGTYPE, len(data)))
                tar.write(data.ljust(512, b"\0"))
                written += 1
            number += 1
        tar.write(bytes(1024))


def _make(count):
    def make_layout(directory):
        note(f"making a layer of {count:,} entries")
        tar, blob = (os.path.join(directory, name) for name in ("tar", "blob"))
        _write_tar(tar, count)
        kind = layers.compress(tar, blob, "gzip-parallel")
        Layout(os.path.join(directory, "layout")).add_image([(tar, blob, kind)], "bench")
        os.unlink(tar)
        os.unlink(blob)

    with open(__file__, encoding="utf-8") as source:
        recipe = f"{count}\0" + source.read()
    directory = workplace.kept(f"bench-entries-{count}", recipe, make_layout)
    return Layout(os.path.join(directory, "layout"))


def _walk(root):
    count = 1
    for directory, names, files in os.walk(root):
        for name in names + files:
            os.lstat(os.path.join(directory, name))
        count += len(names) + len(files)
    return count


def _measure_one(place, count, runs):
    reference = place.push(_make(count), "bench", f"entries-{count}")
    note(f"{count:,} entries")
    builds = [place.index(reference) for _ in range(runs)]
    cache = place.cache(str(count))
    fresh = [place.mount(reference, cache)]
    place.unmount()
    known = []
    for _ in range(runs * 2):
        known.append(place.mount(reference, cache))
        after_mount = place.server_memory()
        place.unmount()
    place.mount(reference, cache)
    entries = _walk(place.point)
    after_walk = place.server_memory()
    place.unmount()
    return {"entries": entries, "index_seconds": statistics.median(build[0] for build in builds),
            "index_peak_memory_bytes": max(build[1] for build in builds),
            "index_bytes": builds[-1][2]["index_bytes"],
            "index_bytes_before_mount": builds[-1][2]["bytes_before_mount"],
            "mount_seconds_index_in_registry": fresh[0],
            "mount_seconds_index_on_node": statistics.median(known),
            "server_memory_bytes": after_mount, "server_memory_after_walk_bytes": after_walk}


def measure(options):
    counts = COUNTS[:2] if options.quick else COUNTS
    with station("entries") as place:
        return {"by_entries": [_measure_one(place, count, options.runs) for count in counts]}


def table(figures):
    for one in figures["by_entries"]:
        yield f"{one['entries']:,} entries", ""
        yield ("  index build, most memory",
               f"{one['index_seconds']:.1f} s, {size(one['index_peak_memory_bytes'])}")
        yield ("  index, fetched before the mount; whole",
               f"{size(one['index_bytes_before_mount'])}; {size(one['index_bytes'])}")
        yield ("  mount to first stat, index in the registry",
               milliseconds(one["mount_seconds_index_in_registry"]))
        yield ("  mount to first stat, index on the node",
               milliseconds(one["mount_seconds_index_on_node"]))
        for label, key in (("  server after the mount", "server_memory_bytes"),
                           ("  server after lstat of all", "server_memory_after_walk_bytes")):
            memory = one[key]
            yield (label + ": anonymous, mapped, peak", f"{size(memory['RssAnon'])}, "
                   f"{size(memory['RssFile'])}, {size(memory['VmHWM'])}")
