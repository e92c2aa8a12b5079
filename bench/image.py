"""A real image (tests/tools/science_image.py): from its index to its last byte."""

import os
import shutil
import statistics
import subprocess
import time

from measure import (drop_page_cache, milliseconds, note, read_everything, run_measured,
                     seconds_of_gzip, size, station)
from tools import science_image

TAG = "science"


def make(quick=False):
    """A layout with the image, tagged TAG; `quick` leaves the third layer out."""
    note("making the image (minutes, the first time)")
    return science_image.make(not quick).layout


def blobs(layout):
    """The paths of the layers' blobs, lowest first, of the one image that is there."""
    manifest, = (layout.json(image["digest"]) for image in layout.manifests())
    return [layout.blob_path(layer["digest"]) for layer in manifest["layers"]]


# ---- measuring ----


def _index(place, reference, paths, runs):
    note("index build, and gzip -dc of the same layers")
    gzip = statistics.median(seconds_of_gzip(paths) for _ in range(runs))
    builds = [place.index(reference) for _ in range(runs)]
    seconds = statistics.median(build[0] for build in builds)
    made = builds[-1][2]
    return {
        "image_bytes": made["image_bytes"],
        "index_seconds": seconds,
        "gzip_dc_seconds": gzip,
        "index_to_gzip_ratio": seconds / gzip,
        "index_peak_memory_bytes": max(build[1] for build in builds),
        "index_bytes": made["index_bytes"],
        "index_bytes_before_mount": made["bytes_before_mount"],
    }


def _mount(place, reference, runs):
    note("mount times")
    fresh, known = [], []
    for number in range(runs * 2):
        cache = place.cache(str(number))
        fresh.append(place.mount(reference, cache, "usr/bin/python3"))
        place.unmount()
        known.append(place.mount(reference, cache, "usr/bin/python3"))
        place.unmount()
        shutil.rmtree(cache)
    return {
        "mount_seconds_index_in_registry": statistics.median(fresh),
        "mount_seconds_index_on_node": statistics.median(known),
    }


def _run_program(place, program):
    """With the machine's devices: torch wants /dev/urandom, and the mount is nodev."""
    devices = os.path.join(place.point, "dev")
    subprocess.run(["mount", "--bind", "/dev", devices], check=True)
    try:
        return run_measured(["chroot", place.point, "/usr/bin/python3", "-c", program])[0]
    finally:
        subprocess.run(["umount", devices], check=True)


def _use(place, reference, program, runs):
    note(f"running {program!r}, then reading everything")
    cache = place.cache("used")
    place.mount(reference, cache)
    figures = {"program": program,
               "program_seconds_nothing_cached": _run_program(place, program)}
    status = place.status()
    figures["program_fetched_bytes"] = status["bytes_fetched"] + status["window_bytes_fetched"]
    place.unmount()
    drop_page_cache()
    place.mount(reference, cache)
    figures["program_seconds_on_node"] = _run_program(place, program)
    figures["program_seconds_warm"] = statistics.median(
        _run_program(place, program) for _ in range(runs))
    started = time.monotonic()
    entries, count = read_everything(place.point)
    figures["read_everything_seconds"] = time.monotonic() - started
    figures["entries"], figures["file_bytes"] = entries, count
    figures["server_memory_bytes"] = place.server_memory()
    place.unmount()
    return figures


def _verification(place, reference, runs):
    """The same bytes from the node's disk, by a server that has to hash each chunk before its first
    use, and by one that has done so."""
    note("reading everything from the node's disk, hashed and not")
    first, again = [], []
    for _ in range(runs):
        drop_page_cache()
        place.mount(reference, place.cache("used"))
        for seconds in (first, again):
            drop_page_cache()
            started = time.monotonic()
            read_everything(place.point)
            seconds.append(time.monotonic() - started)
        place.unmount()
    return {"read_seconds_first_use": statistics.median(first),
            "read_seconds_verified": statistics.median(again)}


def _fill(place, reference, runs):
    """All of the image in the background, then read back from the disk and verified."""
    note("filling")
    filled, verified = [], []
    figures = {}
    for number in range(runs):
        cache = place.cache(f"fill-{number}")
        started = time.monotonic()
        place.mount(reference, cache, options=("--fill", "now"))
        while (fill := place.status()["fill"])["state"] not in ("checking", "complete"):
            time.sleep(0.05)
        filled.append(time.monotonic() - started)
        while fill["state"] != "complete":
            time.sleep(0.05)
            fill = place.status()["fill"]
        verified.append(time.monotonic() - started)
        figures["fill_cpu_seconds"] = place.server_cpu()
        figures["fill_memory_bytes"] = place.server_memory()["VmHWM"]
        place.unmount()
        shutil.rmtree(cache)
    return figures | {"fill_seconds": statistics.median(filled),
                      "fill_verified_seconds": statistics.median(verified)}


def measure(options):
    layout = make(options.quick)
    program = "import json" if options.quick else "import torch"
    with station("image") as place:
        reference = place.push(layout, TAG, "image")
        figures = _index(place, reference, blobs(layout), options.runs)
        figures |= _mount(place, reference, options.runs)
        figures |= _use(place, reference, program, options.runs)
        figures |= _verification(place, reference, options.runs)
        figures |= _fill(place, reference, options.runs)
    return figures


def table(figures):
    memory = figures["server_memory_bytes"]
    program = figures["program"]
    yield "image, as the registry has it", size(figures["image_bytes"])
    yield "entries; bytes of files", f"{figures['entries']:,}; {size(figures['file_bytes'])}"
    yield "index build", f"{figures['index_seconds']:.1f} s"
    yield "gzip -dc of the same layers", f"{figures['gzip_dc_seconds']:.1f} s"
    yield "ratio", f"{figures['index_to_gzip_ratio']:.2f}"
    yield "index build, most memory", size(figures["index_peak_memory_bytes"])
    yield "index, fetched before the mount", size(figures["index_bytes_before_mount"])
    yield "index, whole", size(figures["index_bytes"])
    yield ("mount to first stat, index in the registry",
           milliseconds(figures["mount_seconds_index_in_registry"]))
    yield ("mount to first stat, index on the node",
           milliseconds(figures["mount_seconds_index_on_node"]))
    yield f"{program}, nothing cached", f"{figures['program_seconds_nothing_cached']:.2f} s"
    yield "  which fetched", size(figures["program_fetched_bytes"])
    yield f"{program}, chunks on the node", f"{figures['program_seconds_on_node']:.2f} s"
    yield f"{program}, warm", f"{figures['program_seconds_warm']:.2f} s"
    yield "reading every file", f"{figures['read_everything_seconds']:.1f} s"
    yield ("server after that: RSS, of it anonymous, peak",
           f"{size(memory['VmRSS'])}, {size(memory['RssAnon'])}, {size(memory['VmHWM'])}")
    yield ("reading every file from disk, hashing each chunk",
           f"{figures['read_seconds_first_use']:.1f} s")
    yield "  the same, hashed before", f"{figures['read_seconds_verified']:.1f} s"
    yield "fill, all of it on the node", f"{figures['fill_seconds']:.1f} s"
    yield "  verified and sealed", f"{figures['fill_verified_seconds']:.1f} s"
    yield ("  the server's processor time, peak memory",
           f"{figures['fill_cpu_seconds']:.1f} s, {size(figures['fill_memory_bytes'])}")
