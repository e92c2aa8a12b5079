"""The file that a mount's metadata is mapped from is cut off while it is used."""

import errno
import os

from tools import images, tree
from tools.testcase import EndToEnd, need_kernel_front, servers_under


class DamagedMetadata(EndToEnd):
    """An image of enough entries that the kernel does not know all of them after a few looks."""

    def setUp(self):
        self.image, _ = images.python_images()
        self.image_reference = self.push(self.image.layout, self.image.tag, "python")
        self.sluice("index", self.image_reference)

    def cut_metadata(self, door):
        """A mount by that front door whose metadata is no more, its cache, and the errors that
        looking at everything ends with."""
        cache = os.path.join(self.directory, "cut-cache-" + door)
        point = self.mount(self.image_reference, "--front", door, cache=cache)
        self.assertIs(self.status(point)["metadata_damaged"], False)
        blobs = [entry.path for entry in os.scandir(os.path.join(cache, "blobs"))]
        metadata = max(blobs, key=os.path.getsize)
        os.truncate(metadata, 4096)
        failures = set()
        for directory, folders, names in os.walk(point, onerror=lambda error:
                                                 failures.add(error.errno)):
            for name in folders + names:
                try:
                    os.lstat(os.path.join(directory, name))
                except OSError as error:
                    failures.add(error.errno)
        self.assertEqual(len(servers_under(point)), 1)
        return point, cache, failures

    def assert_next_mount_is_right(self, cache):
        again = self.mount(self.image_reference, cache=cache, name="again")
        truth = tree.snapshot(images.unpacked(self.image), contents=False)
        names = {os.path.relpath(os.path.join(directory, name), again)
                 for directory, folders, files in os.walk(again) for name in folders + files}
        self.assertEqual(names, truth.keys() - {"."})
        self.assertIs(self.status(again)["metadata_damaged"], False)

    def test_looking_up_fails_and_the_server_lives(self):
        point, cache, failures = self.cut_metadata("fuse")
        self.assertEqual(failures, {errno.EIO})
        self.assertIs(self.status(point)["metadata_damaged"], True)
        self.assertIn("metadata", self.sluice("status", point).stdout)
        self.unmount(point)
        self.assert_next_mount_is_right(cache)

    def test_kernel_finds_no_sense_and_the_server_lives(self):
        """What is cut off reads as zeros there."""
        need_kernel_front(self)
        point, cache, failures = self.cut_metadata("erofs")
        self.assertLessEqual(failures, {errno.EIO, errno.EUCLEAN})
        self.assertNotEqual(failures, set())
        self.unmount(point)
        self.assert_next_mount_is_right(cache)
