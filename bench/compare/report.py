"""The tables of the comparison, as Markdown, from the figures that a run left."""

from compare import workloads

_FULL_PULL = "containerd, overlayfs"
_SOCI = "soci-snapshotter, unmodified image"


def _range(figure, scale=1, digits=2):
    """The median, and how far the runs are apart."""
    median, least, most = (figure[name] / scale for name in ("median", "least", "most"))
    if least == most:
        return f"{median:,.{digits}f}"
    return f"{median:,.{digits}f} ({least:,.{digits}f}–{most:,.{digits}f})"


def _row(*cells):
    return "| " + " | ".join(cells) + " |"


def _table(head, rows):
    return [_row(*head), _row(*["---"] + ["---:"] * (len(head) - 1)), *(_row(*row) for row in rows)]


def _cold(results):
    head = ("", "mounted or pulled, s", "first output, s", "done, s", "MB", "requests", "CPU, s",
            "memory, MB")
    for image, systems in results.get("cold", {}).items():
        size = results["image_bytes"][image]
        yield f"### {workloads.ALL[image].title}, {size / 1e6:,.0f} MB of gzip"
        yield ""
        yield from _table(head, [(
            system, _range(one["mounted_seconds"]), _range(one["ready_seconds"]),
            _range(one["total_seconds"]), _range(one["bytes"], 1e6, 0),
            _range(one["requests"], 1, 0), _range(one["cpu_seconds"], 1, 1),
            _range(one["memory_bytes"], 1e6, 0)) for system, one in systems.items()])
        yield ""


def _floors(results):
    if "floor" not in results:
        return
    yield "### The floor"
    yield ""
    yield from _table(
        ("", "on the local disk, s", "bytes asked for, MB", "compressed, MB", "on the wire, s",
         "floor, s", "compressed with the disk's own readahead, MB"),
        [(workloads.ALL[image].title, f"{one['local']['total_seconds']:.2f}",
          f"{one['asked']['bytes'] / 1e6:.0f}", f"{one['asked']['compressed_bytes'] / 1e6:.0f}",
          f"{one['asked']['wire_seconds']:.2f}", f"{one['floor_seconds']:.2f}",
          f"{one['asked_own_readahead']['compressed_bytes'] / 1e6:.0f} "
          f"({one['asked_own_readahead']['readahead_kb']} KiB)")
         for image, each in results["floor"].items() for one in (each["floor"],)])
    yield ""


def _warm(results):
    for systems in results.get("warm", {}).values():
        figures = systems["reads"]
        names = list(figures)
        yield "### Everything on the node"
        yield ""
        yield from _table(
            ("seconds, page cache empty / full", *names, "sluice to overlayfs"),
            [(operation, *(f"{figures[name][operation]['disk']:.2f} / "
                           f"{figures[name][operation]['memory']:.2f}" for name in names),
              " / ".join(f"{ours[state] / theirs[state]:.2f}" for state in ("disk", "memory")))
             for operation, ours in figures["sluice"].items()
             for theirs in (figures["overlayfs"][operation],)])
        yield ""


def _large(results):
    for each in results.get("large", {}).values():
        one = each["file"]
        yield "### A file of 1 GB, read once from the start"
        yield ""
        yield from _table(("", "seconds"), [
            ("sluice, nothing on the node", f"{one['sluice_seconds']:.2f}"),
            (f"curl of its {one['compressed_bytes'] / 1e6:.0f} MB", f"{one['curl_seconds']:.2f}"),
            ("`igzip -dc`, one core", f"{one['igzip_seconds']:.2f}"),
            ("`gzip -dc`, one core", f"{one['gzip_seconds']:.2f}")])
        yield ""


# ---- goals ----


def _median(results, image, system, figure):
    return results["cold"][image][system][figure]["median"]


def _goals_of_torch(results):
    floor = results["floor"]["torch"]["floor"]

    def median(system, figure):
        return _median(results, "torch", system, figure)

    profiled, plain = "sluice, profiled", "sluice, plain"
    yield ("`import torch`, profiled, to the floor", 1.25,
           lambda: median(profiled, "total_seconds") / floor["floor_seconds"])
    yield ("`import torch`, no profile, to soci", 0.5,
           lambda: median(plain, "total_seconds") / median(_SOCI, "total_seconds"))
    yield ("bytes to the first output, profiled, to the floor's", 1.15,
           lambda: median(profiled, "bytes_ready") / floor["asked"]["compressed_bytes"])
    yield ("  to what the disk's own readahead asks for", 1.15,
           lambda: (median(profiled, "bytes_ready")
                    / floor["asked_own_readahead"]["compressed_bytes"]))
    yield ("requests to the first output for a MB, profiled", 1,
           lambda: (median(profiled, "requests_ready")
                    / (median(profiled, "bytes_ready") / 1e6)))
    yield ("server memory, profiled, MB", 64, lambda: median(profiled, "memory_bytes") / 1e6)


def _goals_of_all(results):
    for image in results["cold"]:
        def median(system, figure, image=image):
            return _median(results, image, system, figure)

        yield (f"{image}: done with `--fill now`, to the full pull", 1,
               lambda median=median: (median("sluice, fill now", "total_seconds")
                                      / median(_FULL_PULL, "total_seconds")))
        yield (f"{image}: CPU, no profile, to the best peer's", 1,
               lambda image=image, median=median: median("sluice, plain", "cpu_seconds") / min(
                   one["cpu_seconds"]["median"] for name, one in results["cold"][image].items()
                   if not name.startswith("sluice")))


def _goals(results):
    """(what, at most, how it is found)"""
    yield from _goals_of_torch(results)
    yield ("cuda: command to usable root file system, ms", 80,
           lambda: 1000 * _median(results, "cuda", "sluice, plain", "mounted_seconds"))
    yield ("  to its full pull, 1/1000", 2,
           lambda: (1000 * _median(results, "cuda", "sluice, plain", "mounted_seconds")
                    / _median(results, "cuda", _FULL_PULL, "mounted_seconds")))
    yield from _goals_of_all(results)
    large = results["large"]["large"]["file"]
    yield ("file of 1 GB, to the larger of curl and igzip", 1.1,
           lambda: large["sluice_seconds"] / max(large["curl_seconds"], large["igzip_seconds"]))
    warm = results["warm"]["torch"]["reads"]
    for operation in warm["sluice"]:
        for state, words in (("disk", "page cache empty"), ("memory", "page cache full")):
            yield (f"{operation}, {words}, to overlayfs", 1.05,
                   lambda operation=operation, state=state: (
                       warm["sluice"][operation][state] / warm["overlayfs"][operation][state]))


def _judged(results):
    if not {"floor", "cold", "large", "warm"} <= set(results):
        return
    yield "### Goals"
    yield ""
    rows = []
    for what, most, find in _goals(results):
        try:
            value = find()
        except KeyError:  # a system or a variant that this run had not
            rows.append((what, f"{most}", "not measured", ""))
            continue
        rows.append((what, f"{most}", f"{value:.2f}", "met" if value <= most else "**missed**"))
    yield from _table(("", "at most", "is", ""), rows)
    yield ""


def _circumstances(results):
    machine, speed = results["machine"], results["speed"]
    link = results["link"]
    goes = "one go" if results["sittings"] == 1 else f"{results['sittings']} goes"
    yield (f"Medians of {results['runs']} (least–most), taken in {goes}; "
           f"round trip {speed['rtt_ms']:g} ms, "
           f"{speed['mbit']} Mbit/s. By itself the link gave "
           f"{link['bytes_a_second'] / 1e6:.0f} MB/s and "
           f"{1000 * link['small_request_seconds']:.1f} ms for a small request. "
           f"{machine['cores']} cores of {machine['cpu']}, {machine['memory_bytes'] / 1e9:.0f} GB, "
           f"Linux {machine['kernel']}, {results['filesystem']}. {machine['sluice']}; "
           + "; ".join(f"{name} {version}" for name, version in results["versions"].items()) + ".")
    yield ""
    for failure in results["failures"]:
        yield f"Not measured: {failure.splitlines()[0]}"
        yield ""


def markdown(results):
    parts = (_circumstances, _judged, _cold, _floors, _large, _warm)
    return "\n".join(line for part in parts for line in part(results)).rstrip() + "\n"
