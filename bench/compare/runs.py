"""One run of a workload by one system over the link, and many of them."""

import statistics
import time

from compare.cost import Group
from compare.place import remove
from measure import drop_page_cache, note


def run(place, system, workload):
    """The figures of one cold run."""
    group = Group()
    directory = place.make_directory("run")
    try:
        system.begin(directory, group)
        with place.link(system.registry) as link:
            drop_page_cache()
            requests, cpu = place.requests(system.registry), group.cpu_seconds()
            first = []
            started = time.monotonic()
            system.pull(workload, link.port, group)
            mounted = time.monotonic() - started
            ready, seconds = system.execute(workload, group, lambda: first.append(
                (link.counters(), place.requests(system.registry))))
            counters = link.counters()
            (counters_then, requests_then), = first
            figures = {
                "mounted_seconds": mounted,
                "ready_seconds": mounted + ready,
                "total_seconds": mounted + seconds,
                "bytes_ready": counters_then.down,
                "bytes": counters.down,
                "bytes_up": counters.up,
                "connections": counters.connections,
                "requests_ready": requests_then - requests,
                "requests": place.requests(system.registry) - requests,
                "cpu_seconds": group.cpu_seconds() - cpu,
                "memory_bytes": group.peak_memory(system.program),
            }
            system.check()
            system.end()
        return figures
    finally:
        group.close()
        remove(directory)


def medians(samples):
    """Of each figure the median, and how far the samples are apart."""
    return {name: {"median": statistics.median(values), "least": min(values), "most": max(values)}
            for name in samples[0]
            for values in ([sample[name] for sample in samples],)}


def measure(place, system, workload, count):
    note(f"{workload.image}: {system.name}")
    system.prepare(workload)
    samples = []
    for _ in range(count):
        samples.append(run(place, system, workload))
        one = samples[-1]
        note(f"  mounted {one['mounted_seconds']:.2f} s, ready {one['ready_seconds']:.2f} s, total "
             f"{one['total_seconds']:.2f} s, {one['bytes'] / 1e6:.0f} MB, "
             f"{one['requests']} requests, {one['cpu_seconds']:.1f} s CPU, "
             f"{one['memory_bytes'] / 1e6:.0f} MB")
    return medians(samples)
