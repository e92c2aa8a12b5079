"""A file of 1 GB, read once from the start, nothing on the node; and what curl and igzip take."""

import os
import statistics
import subprocess
import time

from compare import images
from compare.place import remove
from measure import drop_page_cache, note
from tools import layers, workplace
from tools.layers import LayerWriter
from tools.layout import Layout
from tools.registry import push

SIZE = 1_000_000_000
_NAME = "large"


def _make(directory):
    """The content is a tar of torch's layer, so that it compresses as programs do."""
    note("making an image of a file of 1 GB")
    source = Layout(images.directory())
    manifest = source.json(source.find("torch")["digest"])
    tar, blob = os.path.join(directory, "tar"), os.path.join(directory, "blob")
    unpacked = subprocess.run(["sh", "-c", 'gzip -dc "$1" | head -c "$2"', "sh",
                               source.blob_path(manifest["layers"][-1]["digest"]), str(SIZE)],
                              stdout=subprocess.PIPE, check=True).stdout
    with LayerWriter(tar) as layer:
        layer.file("large", unpacked)
    media_type = layers.compress(tar, blob, "gzip")
    Layout(os.path.join(directory, "layout")).add_image([(tar, blob, media_type)], _NAME)
    os.unlink(tar)
    os.unlink(blob)


def _layout():
    recipe = workplace.source_of("layers.py") + str(SIZE)
    return Layout(os.path.join(workplace.kept("bench-large-file", recipe, _make), "layout"))


def _timed(command, **options):
    started = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, **options)
    return time.monotonic() - started


def _read(place):
    directory = place.make_directory("large")
    point, cache = os.path.join(directory, "mnt"), os.path.join(directory, "cache")
    os.mkdir(point)
    try:
        with place.link() as link:
            subprocess.run([workplace.SLUICE, "mount", f"127.0.0.1:{link.port}/{_NAME}:latest",
                            point, "--cache", cache], check=True)
            drop_page_cache()
            seconds = _timed(["dd", "if=" + os.path.join(point, "large"), "bs=1M", "status=none",
                              "of=/dev/null"])
            subprocess.run([workplace.SLUICE, "umount", point], check=True)
            return seconds
    finally:
        remove(directory)


def _fetch(place, digest):
    with place.link() as link:
        drop_page_cache()
        return _timed(["curl", "-s", "-f", "-o", "/dev/null",
                       f"http://127.0.0.1:{link.port}/v2/{_NAME}/blobs/{digest}"])


def measure(place, count):
    layout = _layout()
    manifest = layout.find(_NAME)
    layer, = layout.json(manifest["digest"])["layers"]
    push(layout, manifest, place.registry.name, _NAME, "latest")
    subprocess.run([workplace.SLUICE, "index", "--force",
                    f"{place.registry.name}/{_NAME}:latest"], check=True,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    blob = layout.blob_path(layer["digest"])

    def median(measure_one, *arguments):
        return statistics.median(measure_one(*arguments) for _ in range(count))

    note("a file of 1 GB from the start to the end")
    figures = {"compressed_bytes": layer["size"],
               "sluice_seconds": median(_read, place),
               "curl_seconds": median(_fetch, place, layer["digest"]),
               "igzip_seconds": median(_timed, ["igzip", "-dc", blob]),
               "gzip_seconds": median(_timed, ["gzip", "-dc", blob])}
    note(f"  {figures}")
    return figures
