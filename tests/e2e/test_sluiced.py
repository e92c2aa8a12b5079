"""Pods and containers with sluiced as containerd's snapshotter: images without an index."""

import os

from tools.container_images import PROGRAM
from tools.node import Workloads
from tools.sluiced_node import Restarts, SluicedNode


class OrdinaryImages(Workloads, Restarts, SluicedNode):
    """The containerd of this Debian."""

    def test_clients_that_pass_labels(self):
        reference = self.reference("chain-3")
        self.containerd.ctr("images", "rpull", "--plain-http", "--snapshotter", self.snapshotter,
                            reference, program="ctr-remote")
        self.assertEqual("layer 3\n", self.containerd.run(
            reference, "shows", PROGRAM, "show", "/etc/top", snapshotter=self.snapshotter))
        self.remove_images()
        self.assert_nothing_left()

    def test_namespaces(self):
        """What one has removed, another one still has."""
        reference = self.reference("chain-1")
        for namespace in ("one", "two"):
            self.containerd.ctr("-n", namespace, "images", "pull", "--plain-http", "--snapshotter",
                                self.snapshotter, reference)
        self.containerd.ctr("-n", "one", "images", "rm", "--sync", reference)
        self.wait_until(lambda: not self.snapshots("one"), "no snapshot is left in one namespace")
        self.assertEqual("layer 1\n", self.containerd.run(
            reference, "shows", PROGRAM, "show", "/etc/top", snapshotter=self.snapshotter,
            namespace="two"))
        self.containerd.ctr("-n", "two", "images", "rm", "--sync", reference)
        self.wait_until(lambda: not self.snapshots("two"), "no snapshot is left")
        self.assert_nothing_left()

    def test_what_a_crash_has_left(self):
        """The directory of an image that nothing uses, whose record was being written."""
        left = os.path.join(self.sluiced.root, "lazy", "77")
        self.sluiced.end()
        os.makedirs(os.path.join(left, "rootfs"))
        with open(os.path.join(left, "image.json.aBcDeF"), "wb") as file:
            file.write(b'{"na')
        self.sluiced.start()
        self.wait_until(self.is_reached, "containerd has connected again")
        self.assertFalse(os.path.exists(left))


class OrdinaryImagesNewer(Workloads, Restarts, SluicedNode):
    """containerd 2.x."""

    newer = True

    def test_mapped_users(self):
        """Owners are mapped by mounts, and copied nowhere."""
        reference = self.reference("chain-2")
        self.containerd.pull(reference, self.snapshotter)
        self.check_mapped_users(reference, "--remap-labels")
        self.remove_images()
        self.assert_nothing_left()
