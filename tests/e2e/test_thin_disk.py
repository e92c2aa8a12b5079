"""A disk that promises more than it has, and fails when the kernel writes back."""

import os
import stat
import threading

from tools import images, small_disk, tree
from tools.testcase import EndToEnd


def forget_all_the_time(over):
    """The kernel writes back and drops what it can, as when memory is short."""
    while not over.wait(0.02):
        os.sync()
        with open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as file:
            file.write("1")


class ThinDisk(EndToEnd):
    """The cache is an ext4 of 600 MB in a file for which there is room for 60."""

    def setUp(self):
        self.cache = self.make_directory("cache")
        self.addCleanup(small_disk.mount(self.cache, room="60m", size="600m"))

    def wrong_files(self, point):
        return [path for path, node in self.truth.items()
                if tree.content_digest(os.path.join(point, path)) != node.content]

    def test_no_wrong_byte_when_writing_back_fails(self):
        self.image, _ = images.python_images()
        self.truth = {path: node for path, node in
                      tree.snapshot(images.unpacked(self.image)).items()
                      if stat.S_ISREG(node.mode)}
        reference = self.push(self.image.layout, self.image.tag, "python")
        self.sluice("index", reference)
        point = self.mount(reference, cache=os.path.join(self.cache, "sluice"))
        over = threading.Event()
        forgetting = threading.Thread(target=forget_all_the_time, args=(over,))
        forgetting.start()
        try:
            for _ in range(3):
                self.assertEqual(self.wrong_files(point), [])
        finally:
            over.set()
            forgetting.join()
        self.assertGreater(self.status(point)["store_errors"], 0, "the disk was full")
        self.unmount(point)
