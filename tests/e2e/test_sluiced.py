"""Pods and containers with sluiced as containerd's snapshotter: images without an index."""

import os
import signal

from tools.container_images import PROGRAM
from tools.node import Node, Workloads
from tools.sluiced import Sluiced
from tools.testcase import mounts_under


class SluicedNode(Node):
    """containerd's snapshotter is sluiced."""

    snapshotter = "sluice"

    @classmethod
    def start_daemons(cls, proxies=None):
        directory = os.path.join(cls.directory, "sluiced")
        os.mkdir(directory)
        hosts = os.path.join(cls.directory, "containerd", "certs.d")
        os.makedirs(hosts)
        cls.sluiced = Sluiced(directory, hosts, environment=cls.environment)
        cls.addClassCleanup(cls.sluiced.stop)
        super().start_daemons({"sluice": cls.sluiced.address})

    def assert_nothing_left(self):
        super().assert_nothing_left()
        root = self.sluiced.root
        self.wait_until(lambda: not os.listdir(os.path.join(root, "snapshots")),
                        "no directory of a snapshot is left")
        self.assertEqual([], mounts_under(root))


class Restarts:
    """sluiced ends and starts while containers run."""

    def check_restart(self, number):
        reference = self.reference("chain-2")
        self.cri.pull(reference)
        pod = self.pod()
        container = self.cri.start(pod, "lives", reference, PROGRAM, "pause")
        self.sluiced.end(number)
        self.assertEqual((0, "layer 2\n"),
                         self.cri.execute(container, PROGRAM, "show", "/etc/top"))
        self.sluiced.start()
        self.wait_until(self.is_reached, "containerd has connected again")
        self.assertEqual((0, "1 of layer 1\n" * 500),
                         self.cri.run(pod, "later", reference, PROGRAM, "show", "/layer-1/01"))
        longer = self.reference("chain-3")
        self.cri.pull(longer)
        self.assertEqual((0, "layer 3\n"),
                         self.cri.run(pod, "longer", longer, PROGRAM, "show", "/etc/top"))
        self.cri.remove_pod(pod)
        self.remove_images()
        self.assert_nothing_left()

    def is_reached(self):
        """containerd waits longer between attempts when the first ones fail."""
        probe = ("snapshots", "--snapshotter", self.snapshotter)
        if self.containerd.ctr(*probe, "prepare", "probe", check=False).returncode:
            return False
        self.containerd.ctr(*probe, "rm", "probe")
        return True

    def test_restart(self):
        self.check_restart(signal.SIGTERM)

    def test_killed(self):
        self.check_restart(signal.SIGKILL)


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
        done = self.containerd.ctr("-n", "two", "run", "--rm", "--cgroup",
                                   self.containerd.cgroup + "/two", "--snapshotter",
                                   self.snapshotter, reference, "two", PROGRAM, "show", "/etc/top")
        self.assertEqual("layer 1\n", done.stdout)
        self.containerd.ctr("-n", "two", "images", "rm", "--sync", reference)
        self.wait_until(lambda: not self.snapshots("two"), "no snapshot is left")
        self.assert_nothing_left()


class OrdinaryImagesNewer(Workloads, Restarts, SluicedNode):
    """containerd 2.x."""

    newer = True
