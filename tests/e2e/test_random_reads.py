"""Random reads by many threads, each byte compared: the long form is `make soak`."""

import os

from tools import images, readers, rounds
from tools.testcase import EndToEnd, servers_under


def memory_of(pid):
    """{"VmHWM": bytes, "VmRSS": bytes}"""
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        fields = dict(line.split(":", 1) for line in file)
    return {name: int(fields[name].split()[0]) << 10 for name in ("VmHWM", "VmRSS")}


def bytes_on_disk(directory):
    total = 0
    for parent, _, names in os.walk(directory):
        for name in names:
            try:
                total += os.lstat(os.path.join(parent, name)).st_blocks * 512
            except FileNotFoundError:
                pass
    return total


class RandomReads(EndToEnd):
    """An image with layers of all kinds, larger than the small cache."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.image, cls.contents = images.for_reading()
        cls.image_reference = f"{cls.registry.name}/reading:latest"

    def setUp(self):
        self.cache = os.path.join(self.directory, self._testMethodName + "-cache")
        self.push(self.image.layout, self.image.tag, "reading")
        self.sluice("index", self.image_reference)
        self.seed = rounds.seed(self._testMethodName)

    def read(self, point, seconds, reads=1 << 62):
        with readers.Readers(point, self.contents, self.seed) as running:
            running.until(rounds.duration(seconds), reads)
        self.assertEqual(running.wrong, [])
        self.assertEqual(running.failures, [])
        self.assertGreater(running.reads, 50)
        return running

    def test_large_cache(self):
        point = self.mount(self.image_reference)
        self.read(point, 8)
        self.assertEqual(readers.wrong_files(point, self.contents), [])
        self.unmount(point)
