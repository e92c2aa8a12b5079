"""What chunks of one size or another would bring for a program: the bytes that the kernel reads when
it runs, and the chunks in which they lie, by where they are in the compressed layers."""

import bisect
import ctypes
import mmap
import os
import subprocess
import tarfile
import zlib

from image import blobs, make
from measure import drop_page_cache, note, size, station

SIZES = [32, 64, 128, 256, 512, 1024, 2048, 4096]  # KiB
READAHEAD = "128"  # KiB, what block devices start with
PAGE = mmap.PAGESIZE

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int,
                       ctypes.c_long]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]


def _cached_pages(path, length):
    """The pages of a file that are in the page cache, as (first byte, end) of rows of them."""
    count = -(-length // PAGE)
    found = ctypes.create_string_buffer(count)
    with open(path, "rb") as file:
        # Not Python's mmap: it tells no address of what is mapped read-only.
        address = _libc.mmap(None, length, mmap.PROT_READ, mmap.MAP_SHARED, file.fileno(), 0)
        _libc.mincore(address, length, found)
        _libc.munmap(address, length)
    rows = []
    for page, flags in enumerate(found.raw):
        if not flags & 1:
            continue
        if rows and rows[-1][1] == page * PAGE:
            rows[-1][1] += PAGE
        else:
            rows.append([page * PAGE, (page + 1) * PAGE])
    return [(first, min(end, length)) for first, end in rows]


class _Layer:
    """Where a layer's files are in its stream, and where its stream is in the blob."""

    def __init__(self, path):
        self.files = {}
        with tarfile.open(path, "r:gz") as tar:
            for member in tar:
                name = os.path.normpath(member.name)
                if member.isreg():
                    self.files[name] = member.offset_data
                elif member.islnk():
                    self.files[name] = self.files.get(os.path.normpath(member.linkname))
        self.stream, self.blob = [0], [0]
        decoder = zlib.decompressobj(31)
        with open(path, "rb") as file:
            while piece := file.read(16384):
                self.stream.append(self.stream[-1] + len(decoder.decompress(piece)))
                self.blob.append(self.blob[-1] + len(piece))

    def blob_offset(self, offset):
        position = bisect.bisect_right(self.stream, offset) - 1
        if position + 1 == len(self.stream):
            return self.blob[-1]
        before, after = self.stream[position], self.stream[position + 1]
        share = (offset - before) / (after - before)
        return self.blob[position] + share * (self.blob[position + 1] - self.blob[position])


def _rows_read(root, found_layers):
    """For each layer, the (first byte, end) of its stream that were read through the mount."""
    rows = [[] for _ in found_layers]
    device = os.lstat(root).st_dev
    for directory, names, files in os.walk(root):
        names[:] = [name for name in names
                    if os.lstat(os.path.join(directory, name)).st_dev == device]
        for name in files:
            path = os.path.join(directory, name)
            if os.path.islink(path) or not os.path.isfile(path) or not os.path.getsize(path):
                continue
            inside = os.path.relpath(path, root)
            for number in reversed(range(len(found_layers))):
                start = found_layers[number].files.get(inside)
                if start is not None:
                    rows[number] += [(start + first, start + end) for first, end in
                                     _cached_pages(path, os.path.getsize(path))]
                    break
    return rows


def _read_by(place, reference, program, found_layers):
    place.mount(reference, place.cache("traced"))
    number = os.lstat(place.point).st_dev
    readahead = f"/sys/class/bdi/{os.major(number)}:{os.minor(number)}/read_ahead_kb"
    with open(readahead, "w", encoding="ascii") as file:
        file.write(READAHEAD)
    devices = os.path.join(place.point, "dev")
    drop_page_cache()
    subprocess.run(["mount", "--bind", "/dev", devices], check=True)
    try:
        subprocess.run(["chroot", place.point, "/usr/bin/python3", "-c", program], check=True)
    finally:
        subprocess.run(["umount", devices], check=True)
    rows = _rows_read(place.point, found_layers)
    place.unmount()
    return rows


def _in_chunks(rows, layer, length):
    """(bytes of the blob, rows of neighbours) when the stream is cut into pieces of `length`."""
    chunks = set()
    for first, end in rows:
        chunks.update(range(first // length, (end - 1) // length + 1))
    count = sum(layer.blob_offset((chunk + 1) * length) - layer.blob_offset(chunk * length)
                for chunk in chunks)
    return count, sum(chunk - 1 not in chunks for chunk in chunks)


def measure(options):
    layout = make(options.quick)
    program = "import json" if options.quick else "import torch"
    note(f"which pages {program!r} reads")
    found_layers = [_Layer(path) for path in blobs(layout)]
    with station("chunk-size") as place:
        reference = place.push(layout, "bench", "image")
        place.index(reference)
        rows = _read_by(place, reference, program, found_layers)
    read = sum(layer.blob_offset(end) - layer.blob_offset(first)
               for layer, found in zip(found_layers, rows) for first, end in found)
    trade = []
    for kibibytes in SIZES:
        counts = [_in_chunks(found, layer, kibibytes << 10)
                  for layer, found in zip(found_layers, rows)]
        trade.append([kibibytes, sum(count for count, _ in counts), sum(row for _, row in counts)])
    return {"chunk_size_program": program, "chunk_size_read_bytes": read,
            "chunk_size_trade": trade}


def table(figures):
    read = figures["chunk_size_read_bytes"]
    yield f"{figures['chunk_size_program']}: compressed bytes of what the kernel read", size(read)
    for kibibytes, count, rows in figures["chunk_size_trade"]:
        yield f"chunks of {kibibytes} KiB", f"{size(count)} ({count / read:.2f}), {rows} rows"
