"""A base for tests with a node of a cluster: containerd, CRI, and a registry with small images."""

import os

from tools import container_images
from tools.container_images import PROGRAM
from tools.containerd import Containerd
from tools.cri import Cri
from tools.newer_debian import NewerDebian
from tools.registry import push
from tools.testcase import EndToEnd, need_mounted_root


class Node(EndToEnd):
    """Images chain-0 to chain-3 are in the registry; pods and containers by `snapshotter`."""

    snapshotter = "overlayfs"
    containerd_class = Containerd
    newer = False  # the containerd of Debian's newest suite

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        need_mounted_root(cls())
        for image in container_images.chain():
            push(image.layout, image.layout.find(image.tag), cls.registry.name, image.tag, "latest")
        cls.debian = None
        if cls.newer:
            cls.debian = NewerDebian(cls.directory)
            cls.addClassCleanup(cls.debian.close)
        cls.start_daemons()
        cls.cri = Cri(cls.containerd)
        cls.addClassCleanup(cls.cri.close)

    @classmethod
    def start_daemons(cls, proxies=None):
        """containerd, after what it needs."""
        directory = os.path.join(cls.directory, "containerd")
        os.makedirs(directory, exist_ok=True)
        pause = container_images.pause().tag
        cls.containerd = cls.containerd_class(
            directory, pause=f"{cls.registry.name}/{pause}:latest", snapshotter=cls.snapshotter,
            proxies=proxies, debian=cls.debian, plain=[cls.registry.name])
        cls.addClassCleanup(cls.containerd.stop)

    def setUp(self):
        self.addCleanup(self.cri.remove_all_pods)

    def restart_containerd(self):
        self.cri.close()
        self.containerd.restart()
        self.cri.connect()

    def pod(self, name="pod"):
        return self.cri.run_pod(f"{self._testMethodName}-{name}")

    def remove_images(self):
        for reference in self.cri.image_references():
            self.cri.remove_image(reference)
        for line in self.containerd.ctr("images", "ls", "-q").stdout.split():
            self.containerd.ctr("images", "rm", "--sync", line)

    def snapshots(self, namespace, snapshotter=None):
        """Names of the snapshots that containerd has."""
        lines = self.containerd.ctr("-n", namespace, "snapshots", "--snapshotter",
                                    snapshotter or self.snapshotter, "ls").stdout.splitlines()
        return [line.split()[0] for line in lines[1:]]

    def assert_nothing_left(self):
        """After all pods, containers and images were removed."""
        for namespace in ("default", "k8s.io"):
            self.wait_until(lambda: not self.snapshots(namespace), "no snapshot is left")
        self.wait_until(lambda: not self.containerd.leftovers(), "no container is left")


class Workloads:
    """What is to be seen in containers, whoever provides their file systems."""

    def test_pod_of_cri(self):
        reference = self.reference("chain-3")
        self.cri.pull(reference)
        pod = self.pod()
        self.assertEqual((0, "layer 3\n"),
                         self.cri.run(pod, "shows", reference, PROGRAM, "show", "/etc/top"))
        container = self.cri.start(pod, "lives", reference, PROGRAM, "pause")
        self.assertEqual((0, "hello\n"), self.cri.execute(container, PROGRAM, "print", "hello"))
        for number in range(1, 4):
            path = f"/layer-{number}/07"
            self.assertEqual((0, f"7 of layer {number}\n" * 500),
                             self.cri.execute(container, PROGRAM, "show", path))
        self.cri.remove(container)
        self.cri.remove_pod(pod)
        self.remove_images()
        self.assert_nothing_left()

    def test_writes_stay_in_their_container(self):
        reference = self.reference("chain-2")
        self.cri.pull(reference)
        pod = self.pod()
        first, second = (self.cri.start(pod, name, reference, PROGRAM, "pause")
                         for name in ("first", "second"))
        self.assertEqual((0, ""), self.cri.execute(first, PROGRAM, "write", "/etc/top", "mine\n"))
        self.assertEqual((0, ""), self.cri.execute(first, PROGRAM, "write", "/new", "new\n"))
        self.assertEqual((0, ""), self.cri.execute(first, PROGRAM, "remove", "/layer-1/00"))
        self.assertEqual((0, "mine\n"), self.cri.execute(first, PROGRAM, "show", "/etc/top"))
        self.assertEqual((0, "new\n"), self.cri.execute(first, PROGRAM, "show", "/new"))
        self.assertEqual(1, self.cri.execute(first, PROGRAM, "show", "/layer-1/00")[0])
        self.assertEqual((0, "layer 2\n"), self.cri.execute(second, PROGRAM, "show", "/etc/top"))
        self.assertEqual(1, self.cri.execute(second, PROGRAM, "show", "/new")[0])
        self.assertEqual(0, self.cri.execute(second, PROGRAM, "show", "/layer-1/00")[0])

    def test_container_of_ctr(self):
        reference = self.reference("chain-1")
        self.containerd.pull(reference, self.snapshotter)
        self.assertEqual("layer 1\n", self.containerd.run(
            reference, "shows", PROGRAM, "show", "/etc/top", snapshotter=self.snapshotter))
        self.assertEqual("", self.containerd.run(
            reference, "writes", PROGRAM, "write", "/new", "x", snapshotter=self.snapshotter))
        self.remove_images()
        self.assert_nothing_left()

    def test_images_that_share_layers(self):
        """In both orders: what is there of a longer image, and of a shorter one."""
        for order in ((1, 3, 2), (3, 1, 2)):
            for number in order:
                reference = self.reference(f"chain-{number}")
                self.containerd.pull(reference, self.snapshotter)
                self.assertEqual(f"layer {number}\n", self.containerd.run(
                    reference, "shows", PROGRAM, "show", "/etc/top", snapshotter=self.snapshotter))
            self.remove_images()
            self.assert_nothing_left()

    def test_containerd_starts_anew(self):
        """Containers live on without it, and it finds their snapshots again."""
        reference = self.reference("chain-2")
        self.cri.pull(reference)
        pod = self.pod()
        container = self.cri.start(pod, "lives", reference, PROGRAM, "pause")
        self.restart_containerd()
        self.assertEqual((0, "layer 2\n"),
                         self.cri.execute(container, PROGRAM, "show", "/etc/top"))
        self.assertEqual((0, "layer 2\n"),
                         self.cri.run(pod, "later", reference, PROGRAM, "show", "/etc/top"))
