"""What chunks of one size or another would bring for a program: the bytes that the kernel reads when
it runs, and the chunks in which they lie, by where they are in the compressed layers."""

import os
import subprocess

from compare import asked
from image import TAG, blobs, make
from measure import drop_page_cache, note, size, station

SIZES = [32, 64, 128, 256, 512, 1024, 2048, 4096]  # KiB


def _rows_read(root, layers):
    """For each layer, the (first byte, end) of its stream that were read through the mount."""
    rows = [[] for _ in layers]
    for path, runs in asked.resident_files(root):
        # The highest that has it is the one that is shown.
        for layer, found in reversed(list(zip(layers, rows))):
            if path in layer["files"]:
                start, _ = layer["files"][path]
                found += [(start + first, start + end) for first, end in runs]
                break
    return rows


def _read_by(place, reference, program, layers):
    # While chunks are missing, the kernel reads ahead 128 KiB, as much as block devices start with.
    place.mount(reference, place.cache("traced"))
    devices = os.path.join(place.point, "dev")
    drop_page_cache()
    subprocess.run(["mount", "--bind", "/dev", devices], check=True)
    try:
        subprocess.run(["chroot", place.point, "/usr/bin/python3", "-c", program], check=True)
    finally:
        subprocess.run(["umount", devices], check=True)
    rows = _rows_read(place.point, layers)
    place.unmount()
    return rows


def _compressed(layer, first, end):
    return asked.blob_offset(layer, end) - asked.blob_offset(layer, first)


def _in_chunks(rows, layer, length):
    """(bytes of the blob, rows of neighbours) when the stream is cut into pieces of `length`."""
    chunks = set()
    for first, end in rows:
        chunks.update(range(first // length, (end - 1) // length + 1))
    count = sum(_compressed(layer, chunk * length, (chunk + 1) * length) for chunk in chunks)
    return count, sum(chunk - 1 not in chunks for chunk in chunks)


def measure(options):
    layout = make(options.quick)
    program = "import json" if options.quick else "import torch"
    note(f"which pages {program!r} reads")
    layers = [asked.read_layer(path) for path in blobs(layout)]
    with station("chunk-size") as place:
        reference = place.push(layout, TAG, "image")
        place.index(reference)
        rows = _read_by(place, reference, program, layers)
    read = sum(_compressed(layer, first, end)
               for layer, found in zip(layers, rows) for first, end in found)
    trade = []
    for kibibytes in SIZES:
        counts = [_in_chunks(found, layer, kibibytes << 10)
                  for layer, found in zip(layers, rows)]
        trade.append([kibibytes, sum(count for count, _ in counts), sum(row for _, row in counts)])
    return {"chunk_size_program": program, "chunk_size_read_bytes": read,
            "chunk_size_trade": trade}


def table(figures):
    read = figures["chunk_size_read_bytes"]
    yield f"{figures['chunk_size_program']}: compressed bytes of what the kernel read", size(read)
    for kibibytes, count, rows in figures["chunk_size_trade"]:
        yield f"chunks of {kibibytes} KiB", f"{size(count)} ({count / read:.2f}), {rows} rows"
