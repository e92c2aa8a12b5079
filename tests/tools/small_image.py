"""A base for tests that read the small image through a cache of their own."""

import os
import random
import stat

from tools import images, tree
from tools.testcase import EndToEnd


class SmallImage(EndToEnd):
    """Pushed and indexed for each test; what is read is compared with the truth."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.image = images.small()
        cls.truth = {path: node for path, node in
                     tree.snapshot(images.unpacked(cls.image)).items() if stat.S_ISREG(node.mode)}

    def setUp(self):
        self.cache = os.path.join(self.directory, self._testMethodName + "-cache")
        self.image_reference = self.push(self.image.layout, self.image.tag, "small")
        self.sluice("index", self.image_reference)

    def wrong_files(self, point, seed=0):
        """Reads all files in an order of its own; the paths with other bytes than the truth."""
        paths = sorted(self.truth)
        random.Random(seed).shuffle(paths)
        return [path for path in paths
                if tree.content_digest(os.path.join(point, path)) != self.truth[path].content]
