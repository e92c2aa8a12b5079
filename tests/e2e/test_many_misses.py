"""A thousand reads wait for the registry; what the node has is served all the same."""

import os
import threading

from tools import images, readers
from tools.counting_proxy import CountingProxy
from tools.testcase import EndToEnd

MISSES = 1000


class ManyMisses(EndToEnd):
    """The proxy holds back whatever is asked of a layer."""

    def setUp(self):
        self.image, self.contents = images.for_reading()
        self.proxy = CountingProxy(self.registry.name)
        self.addCleanup(self.proxy.close)
        self.push(self.image.layout, self.image.tag, "reading")
        reference = f"{self.proxy.name}/reading:latest"
        self.sluice("index", reference)
        self.point = self.mount(reference)
        self.answers = {}
        self.addCleanup(threading.stack_size, threading.stack_size(256 << 10))

    def places(self):
        """Places of 4 KiB far from each other, in layers other than the first."""
        found = [(path, offset) for path, data in sorted(self.contents.items())
                 if not path.startswith("tar/")
                 for offset in range(0, len(data) - 4096, 40 << 10)]
        self.assertGreaterEqual(len(found), MISSES)
        return found[:MISSES]

    def read(self, path, offset, length=4096, flags=0):
        descriptor = os.open(os.path.join(self.point, path), os.O_RDONLY | flags)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
            return os.pread(descriptor, length, offset)
        finally:
            os.close(descriptor)

    def start_reading(self, place, flags):
        def run():
            try:
                self.answers[place] = self.read(*place, flags=flags)
            except OSError as error:
                self.answers[place] = error

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        return thread

    def test_hit_is_served_while_all_misses_wait(self):
        hit = next(path for path, data in sorted(self.contents.items())
                   if path.startswith("tar/") and 100_000 < len(data) < 1 << 20)
        self.assertEqual(self.read(hit, 0), self.contents[hit][:4096])
        self.proxy.hold_blobs.clear()
        # One by the page cache, the next past it where that can be.
        direct = readers.direct_flag(os.path.join(self.point, hit))
        threads = [self.start_reading(place, direct if number % 2 else 0)
                   for number, place in enumerate(self.places())]
        self.addCleanup(self.proxy.hold_blobs.set)
        self.wait_until(lambda: self.status(self.point)["reads_waiting"] >= MISSES, "misses wait",
                        seconds=60)
        for flags in (direct, 0) * 10:
            self.assertEqual(self.read(hit, 0, flags=flags), self.contents[hit][:4096])
        self.assertEqual(len(self.answers), 0, "nobody else has an answer yet")
        self.proxy.hold_blobs.set()
        for thread in threads:
            thread.join(timeout=100)
        truth = {(path, offset): self.contents[path][offset:offset + 4096]
                 for path, offset in self.places()}
        self.assertEqual({place: self.answers.get(place) == data
                          for place, data in truth.items()}, dict.fromkeys(truth, True))
        self.assertEqual(readers.wrong_files(self.point, self.contents), [])
