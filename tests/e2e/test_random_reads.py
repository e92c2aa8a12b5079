"""Random reads by many threads, each byte compared: the long form is `make soak`."""

import os
import threading

from tools import images, readers, rounds
from tools.testcase import EndToEnd, servers_under
from tools.workplace import bytes_on_disk


SMALL = 32 << 20  # --cache-size, less than half of the image
SLACK = 8 << 20  # what a store that is under way may take beyond it


def memory_of(pid):
    """{"VmHWM": bytes, "VmRSS": bytes}"""
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        fields = dict(line.split(":", 1) for line in file)
    return {name: int(fields[name].split()[0]) << 10 for name in ("VmHWM", "VmRSS")}


class Watch:
    """Looks at a directory again and again, until it is told to stop: `most` bytes on disk."""

    def __init__(self, directory):
        self.directory = directory
        self.most = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        self._thread.join()

    def _run(self):
        while not self._over.wait(0.1):
            self.most = max(self.most, bytes_on_disk(self.directory))


class ReadingTest(EndToEnd):
    """An image with layers of all kinds, larger than the small cache."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.image, cls.contents = images.for_reading()

    def setUp(self):
        self.cache = os.path.join(self.directory, self._testMethodName + "-cache")
        self.image_reference = self.push(self.image.layout, self.image.tag, "reading")
        self.sluice("index", self.image_reference)
        self.seed = rounds.seed(self._testMethodName)

    def read(self, point, seconds, reads=1 << 62, **how):
        with readers.Readers(point, self.contents, self.seed, **how) as running:
            running.until(seconds, reads)
        self.assertEqual(running.wrong, [])
        self.assertEqual(running.failures, [])
        self.assertEqual(len(servers_under(point)), 1, "the server lives")
        return running


class RandomReads(ReadingTest):
    """Many threads, long and short reads."""

    def test_large_cache(self):
        point = self.mount(self.image_reference)
        self.assertGreater(self.read(point, rounds.duration(6)).reads, 100)
        self.assertEqual(readers.wrong_files(point, self.contents), [])
        self.unmount(point)

    def test_small_cache(self):
        point = self.mount(self.image_reference, "--cache-size", SMALL)
        with Watch(self.cache) as watch:
            self.assertGreater(self.read(point, rounds.duration(6)).reads, 100)
        whole = sum(layer["chunks"] for layer in self.status(point)["layers"])
        self.assertGreater(self.status(point)["chunks_fetched"], whole, "nothing was evicted")
        self.assertLess(watch.most, SMALL + SLACK)
        self.assertEqual(readers.wrong_files(point, self.contents), [])
        self.unmount(point)

    def test_two_servers_in_a_small_cache(self):
        points = [self.mount(self.image_reference, "--cache-size", SMALL, name=name)
                  for name in ("one", "two")]
        with Watch(self.cache) as watch, \
                readers.Readers(points[1], self.contents, self.seed + "-two") as other:
            self.read(points[0], rounds.duration(6))
        self.assertEqual((other.wrong, other.failures), ([], []))
        self.assertLess(watch.most, SMALL + SLACK)


class MemoryUnderEviction(ReadingTest):
    """What a server takes does not grow with what it has done."""

    def test_100000_small_reads(self):
        point = self.mount(self.image_reference, "--cache-size", SMALL)
        (pid, _), = servers_under(point)
        # Some in one file, so that not each of them costs a fetch; when time is no matter, one.
        soak = rounds.SOAK_SECONDS
        how = {"reads": 1 << 62, "runs": (1,)} if soak else {"reads": 50_000, "runs": (20,)}
        first = self.read(point, rounds.duration(300) / 2, longest=4096, **how)
        half = memory_of(pid)
        second = self.read(point, rounds.duration(300) / 2, longest=4096, **how)
        whole = memory_of(pid)
        if not soak:
            self.assertGreaterEqual(first.reads + second.reads, 100_000)
        print(f"       memory after {first.reads} reads {half['VmRSS'] >> 20} MiB, after "
              f"{second.reads} more {whole['VmRSS'] >> 20} MiB, "
              f"{whole['VmHWM'] >> 20} MiB at most; "
              f"{self.status(point)['chunks_fetched']} chunks fetched")
        self.assertLess(whole["VmHWM"], 200 << 20)
        self.assertLess(whole["VmRSS"], half["VmRSS"] + (24 << 20))
