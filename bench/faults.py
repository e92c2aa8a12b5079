"""Throughput of cold reads while requests to the registry fail: errors, resets, damaged bytes."""

import contextlib
import shutil
import statistics
import time

import image
from fakes.fault_proxy import FaultProxy
from measure import note, read_everything, size, station

PERCENT_FAILING = (0, 1, 5)
# What ends as soon as it happens; a stall only measures the client's patience.
FAULTS = {"500": 1, "503": 1, "reset": 2, "reset-in-body": 2, "truncated": 2, "flipped": 2}


def _read_once(place, reference, proxy, percent):
    """(bytes of files a second, ranges asked for, of them failed)"""
    cache = place.cache("faults")
    proxy.rate = 0
    place.mount(reference, cache)
    proxy.forget()
    proxy.counts.clear()
    proxy.rate = percent / 100
    started = time.monotonic()
    _, count = read_everything(place.point)
    seconds = time.monotonic() - started
    place.unmount()
    shutil.rmtree(cache)
    return count / seconds, len(proxy.blob_requests()), sum(proxy.counts.values())


def _measure_rate(place, proxy, repository, percent, runs):
    note(f"reading everything while {percent} % of requests fail")
    rates, requests, failed = [], 0, 0
    for seed in range(runs):
        proxy.seed = seed
        rate, asked, broken = _read_once(place, f"{proxy.name}/{repository}:latest", proxy, percent)
        rates.append(rate)
        requests += asked
        failed += broken
    return {"percent_failing": percent, "bytes_per_second": statistics.median(rates),
            "requests": requests, "requests_failed": failed}


def measure(options):
    layout = image.make(options.quick)
    with station("faults") as place, \
            contextlib.closing(FaultProxy(place.registry.name, 0, 0, FAULTS)) as proxy:
        place.index(place.push(layout, image.TAG, "faults"))
        return {"throughput": [_measure_rate(place, proxy, "faults", percent, options.runs)
                               for percent in PERCENT_FAILING]}


def table(figures):
    undisturbed = figures["throughput"][0]["bytes_per_second"]
    for one in figures["throughput"]:
        label = f"{one['percent_failing']} % failing"
        yield label, (f"{size(one['bytes_per_second'])}/s, {one['bytes_per_second'] / undisturbed:.2f}"
                      f" ({one['requests_failed']} of {one['requests']} requests)")
