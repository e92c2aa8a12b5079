"""A disk that promises more than it has, and fails when the kernel writes back."""

import contextlib
import os
import stat
import subprocess
import threading

from tools import images, small_disk, tree
from tools.testcase import EndToEnd


def forget_all_the_time(directory, over):
    """The kernel writes back and drops what it has of a disk, as when memory is short."""
    while not over.wait(0.02):
        subprocess.run(["sync", "--file-system", directory], check=False,
                       stderr=subprocess.DEVNULL)
        for parent, _, names in os.walk(directory):
            for name in names:
                with contextlib.suppress(OSError):
                    forget(os.path.join(parent, name))


def forget(path):
    descriptor = os.open(path, os.O_RDONLY)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


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
        forgetting = threading.Thread(target=forget_all_the_time, args=(self.cache, over))
        forgetting.start()
        try:
            for _ in range(3):
                self.assertEqual(self.wrong_files(point), [])
        finally:
            over.set()
            forgetting.join()
        self.assertGreater(self.status(point)["store_errors"], 0, "the disk was full")
        self.unmount(point)
