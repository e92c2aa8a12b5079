"""A gzip layer of 10 GB (decoded): how long its index takes, and how much memory.

Its files are copies of one large tar; that tar is compressed once, and the compressed bytes are
used again as gzip members, because compressing 10 GB is not what is measured.
"""

import gzip
import hashlib
import os
import tarfile

import image
from measure import note, seconds_of_gzip, size, station
from tools import science_image, workplace
from tools.layers import GZIP
from tools.layout import CONFIG, MANIFEST, Layout

LENGTH = 10_000_000_000


def _feed(digest, path):
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)


def _append(target, path):
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            target.write(block)


def _write_layer(blob_path, content, compressed, copies):
    """The digest of the stream."""
    stream = hashlib.sha256()
    length = os.path.getsize(content)

    def member(data):
        stream.update(data)
        blob.write(gzip.compress(data, mtime=0))

    with open(blob_path, "wb") as blob:
        for number in range(copies):
            entry = tarfile.TarInfo(f"copy-{number}")
            entry.size = length
            member(entry.tobuf(tarfile.GNU_FORMAT))
            _append(blob, compressed)
            _feed(stream, content)
            if length % 512:
                member(bytes(-length % 512))
        member(bytes(1024))
    return "sha256:" + stream.hexdigest()


def _make(quick):
    layers = image.blobs(image.make())
    content, compressed = science_image.science_tar(), layers[-1]
    copies = 1 if quick else -(-LENGTH // os.path.getsize(content))

    def make_layout(directory):
        note(f"making a layer of {copies} x {size(os.path.getsize(content))}")
        layout = Layout(os.path.join(directory, "layout"))
        path = os.path.join(directory, "blob")
        digest = _write_layer(path, content, compressed, copies)
        layer = layout.add_file(path, GZIP)
        os.unlink(path)
        config = layout.add_json({"os": "linux", "architecture": "amd64", "config": {},
                                  "rootfs": {"type": "layers", "diff_ids": [digest]}}, CONFIG)
        layout.tag(layout.add_json({"schemaVersion": 2, "mediaType": MANIFEST, "config": config,
                                    "layers": [layer]}, MANIFEST), "bench")

    with open(__file__, encoding="utf-8") as source:
        recipe = f"{copies}\0{compressed}\0" + source.read()
    directory = workplace.kept("bench-large-layer", recipe, make_layout)
    return Layout(os.path.join(directory, "layout")), copies * os.path.getsize(content)


def measure(options):
    layout, length = _make(options.quick)
    with station("large-layer") as place:
        reference = place.push(layout, "bench", "large")
        note("index build, and gzip -dc of the same layer")
        gzip_seconds = seconds_of_gzip(image.blobs(layout))
        seconds, memory, made = place.index(reference)
    return {"large_layer_bytes": length, "large_layer_blob_bytes": made["image_bytes"],
            "large_layer_index_seconds": seconds, "large_layer_gzip_dc_seconds": gzip_seconds,
            "large_layer_index_peak_memory_bytes": memory,
            "large_layer_index_bytes": made["index_bytes"]}


def table(figures):
    yield ("one gzip layer: decoded; blob", f"{size(figures['large_layer_bytes'])}; "
           f"{size(figures['large_layer_blob_bytes'])}")
    yield "index build", f"{figures['large_layer_index_seconds']:.1f} s"
    yield "gzip -dc of the same layer", f"{figures['large_layer_gzip_dc_seconds']:.1f} s"
    yield "index build, most memory", size(figures["large_layer_index_peak_memory_bytes"])
    yield "index, whole", size(figures["large_layer_index_bytes"])
