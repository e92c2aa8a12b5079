"""Which compressed bytes a workload cannot do without.

The workload runs on a local disk with an empty page cache and the kernel's usual readahead; what is
in the page cache then is what the kernel asked for. Where those pages are in the layers' tars, and
those in the blobs, is found by unpacking the blobs with zlib, not with what sluice knows of them.
"""

import bisect
import contextlib
import ctypes
import json
import mmap
import os
import stat
import tarfile
import zlib

from compare import images
from measure import note

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mmap.restype = ctypes.c_void_p
_LIBC.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int,
                       ctypes.c_long]
_LIBC.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_LIBC.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]
_PAGE = mmap.PAGESIZE


class _Gunzip:
    """The stream of a gzip blob, and at which stream offsets which bytes of the blob were used."""

    def __init__(self, path):
        self.file = open(path, "rb")
        self.decoder = zlib.decompressobj(31)
        self.pending = b""
        self.used = 0
        self.length = 0
        self.points = [[0, 0]]  # [stream offset, blob offset]

    def read(self, size):
        while len(self.pending) < size and (block := self.file.read(16384)):
            self.used += len(block)
            data = self.decoder.decompress(block)
            while self.decoder.eof and self.decoder.unused_data:
                rest = self.decoder.unused_data
                self.decoder = zlib.decompressobj(31)
                data += self.decoder.decompress(rest)
            self.length += len(data)
            self.points.append([self.length, self.used])
            self.pending += data
        data, self.pending = self.pending[:size], self.pending[size:]
        return data


def read_layer(path):
    """Of a gzip blob: {"points": [[stream offset, blob offset]], "files": {name: [stream offset,
    size]}}"""
    stream = _Gunzip(path)
    files, links = {}, {}
    with contextlib.closing(stream.file), tarfile.open(fileobj=stream, mode="r|") as tar:
        for entry in tar:
            name = entry.name.lstrip("./")
            if entry.isreg():
                files[name] = [entry.offset_data, entry.size]
            elif entry.islnk():
                links[name] = entry.linkname.lstrip("./")
    files |= {name: files[target] for name, target in links.items() if target in files}
    return {"points": stream.points, "files": files}


def _layer(layout, digest):
    path = os.path.join(images.directory(), "map-" + digest.split(":")[1] + ".json")
    if not os.path.exists(path):
        note("reading where files are in layer " + digest[:19])
        made = read_layer(layout.blob_path(digest))
        with open(path + ".new", "w", encoding="utf-8", errors="surrogateescape") as file:
            json.dump(made, file)
        os.rename(path + ".new", path)
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        return json.load(file)


def _resident(path, size):
    """[(offset, end)] of a file's bytes that are in the page cache."""
    file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        address = _LIBC.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, file, 0)
    finally:
        os.close(file)
    if address in (None, ctypes.c_void_p(-1).value):
        return []
    pages = (size + _PAGE - 1) // _PAGE
    vector = ctypes.create_string_buffer(pages)
    _LIBC.mincore(address, size, vector)
    _LIBC.munmap(address, size)
    runs, start = [], None
    for page, state in enumerate(vector.raw[:pages] + b"\0"):
        if state & 1 and start is None:
            start = page
        elif not state & 1 and start is not None:
            runs.append((start * _PAGE, min(page * _PAGE, size)))
            start = None
    return runs


def resident_files(root):
    """(name, [(offset, end)]) of each file of which something is in the page cache."""
    seen = set()
    for directory, _, names in os.walk(root):
        for name in names:
            path = os.path.join(directory, name)
            info = os.lstat(path)
            if not stat.S_ISREG(info.st_mode) or not info.st_size or info.st_ino in seen:
                continue
            seen.add(info.st_ino)
            runs = _resident(path, info.st_size)
            if runs:
                yield os.path.relpath(path, root), runs


def blob_offset(layer, at):
    """Of a stream offset, between the points by proportion."""
    points = layer["points"]
    index = bisect.bisect_right(points, [at, float("inf")])
    if index == len(points):
        return points[-1][1]
    (low, used), (high, more) = points[index - 1], points[index]
    return used + (more - used) * (at - low) / (high - low) if high > low else used


def layers_of(layout, name):
    """Where files are in each layer, the highest first. The first time takes a minute for 10 GB."""
    manifest = layout.json(layout.find(name)["digest"])
    return [_layer(layout, each["digest"]) for each in reversed(manifest["layers"])]


def in_page_cache(layers, root):
    """(bytes of files, compressed bytes) of an image's tree that are in the page cache."""
    plain = compressed = 0
    for path, runs in resident_files(root):
        layer = next((each for each in layers if path in each["files"]), None)
        plain += sum(end - start for start, end in runs)
        if layer:
            place, _ = layer["files"][path]
            compressed += sum(blob_offset(layer, place + end) - blob_offset(layer, place + start)
                              for start, end in runs)
    if not compressed:
        raise RuntimeError("nothing that was read is in the page cache: somebody emptied it")
    return plain, int(compressed)
