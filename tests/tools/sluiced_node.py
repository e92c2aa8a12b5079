"""A node whose snapshotter is sluiced, and what is to be seen there while it comes and goes."""

import json
import os
import signal
import subprocess
from concurrent import futures

from tools import container_images, workplace
from tools.container_images import PROGRAM
from tools.node import Node
from tools.registry import push
from tools.sluiced import Sluiced
from tools.testcase import mounts_under


class SluicedNode(Node):
    """containerd's snapshotter is sluiced."""

    snapshotter = "sluice"
    indexed = ()  # which images of the chain have an index
    configuration = ""  # of sluiced, more than tests need anyway

    @classmethod
    def start_daemons(cls, proxies=None):
        for number in cls.indexed:
            cls.index(f"{cls.registry.name}/chain-{number}:latest")
        directory = os.path.join(cls.directory, "sluiced")
        os.makedirs(directory, exist_ok=True)
        hosts = os.path.join(cls.directory, "containerd", "certs.d")
        os.makedirs(hosts)
        cls.sluiced = Sluiced(directory, hosts, cls.configuration, cls.environment)
        cls.addClassCleanup(cls.sluiced.stop)
        super().start_daemons({"sluice": cls.sluiced.address})

    @classmethod
    def push_family(cls, count, registry=None, credentials=None):
        """Images family-0 and so on, with their indexes."""
        registry = registry or cls.registry
        for image in container_images.family(count):
            push(image.layout, image.layout.find(image.tag), registry.name, image.tag, "latest",
                 credentials)
            cls.index(f"{registry.name}/{image.tag}:latest")

    @classmethod
    def index(cls, reference):
        subprocess.run([workplace.SLUICE, "index", reference], check=True, env=cls.environment,
                       stdin=subprocess.DEVNULL, capture_output=True)

    def sluiced_status(self):
        """What `sluice status` says of it."""
        every = json.loads(self.sluice("status", "--json").stdout)
        return next(each for each in every
                    if each.get("daemon", {}).get("root") == self.sluiced.root)

    def lazy_names(self):
        return sorted(image["name"] for image in self.sluiced_status()["images"])

    def told(self, words):
        """Whether sluiced says so, in its log or when it is asked."""
        return words in self.sluiced.log() or words in json.dumps(self.sluiced_status())

    def lazy_mounts(self):
        """Where sluiced has mounted images."""
        return mounts_under(os.path.join(self.sluiced.root, "lazy"))

    def layers_in_store(self, image, namespace="k8s.io"):
        """The layers of an image of which containerd has the blobs."""
        held = self.containerd.ctr("-n", namespace, "content", "ls", "-q").stdout.split()
        manifest = image.layout.json(image.layout.find(image.tag)["digest"])
        return [number for number, layer in enumerate(manifest["layers"])
                if layer["digest"] in held]

    def check_mapped_users(self, reference, *options):
        """In a user namespace root is somebody else outside, and the image's files are its own."""
        options = ("--uidmap", "0:100000:65536", "--gidmap", "0:200000:65536", *options)
        for path in ("/etc/top", "/", PROGRAM, "/layer-1"):
            self.assertEqual("0:0\n", self.containerd.run(
                reference, "owner", PROGRAM, "owner", path, snapshotter=self.snapshotter,
                options=options), path)
        self.assertEqual("", self.containerd.run(
            reference, "writes", PROGRAM, "write", "/etc/top", "x", snapshotter=self.snapshotter,
            options=options))

    def assert_nothing_left(self):
        super().assert_nothing_left()
        root = self.sluiced.root
        self.wait_until(lambda: not self.lazy_mounts(), "no image is mounted")
        self.wait_until(lambda: not os.listdir(os.path.join(root, "lazy")),
                        "no directory of an image is left")
        for name in ("snapshots", "mapped"):
            self.wait_until(lambda: not os.listdir(os.path.join(root, name)),
                            "no directory of a snapshot is left")
        self.assertEqual([], [point for point in mounts_under(root) if point != root])


    def is_reached(self):
        """containerd waits longer between attempts when the first ones fail."""
        probe = ("snapshots", "--snapshotter", self.snapshotter)
        if self.containerd.ctr(*probe, "prepare", "probe", check=False).returncode:
            return False
        self.containerd.ctr(*probe, "rm", "probe")
        return True


class Restarts:
    """sluiced ends and starts while containers run."""

    def check_restart(self, number):
        reference = self.reference("chain-2")
        self.cri.pull(reference)
        pod = self.pod()
        container = self.cri.start(pod, "lives", reference, PROGRAM, "pause")
        self.sluiced.end(number)
        # What the kernel has in memory can be read meanwhile; what it has not waits.
        with futures.ThreadPoolExecutor(1) as thread:
            shown = thread.submit(self.cri.execute, container, PROGRAM, "show", "/etc/top")
            futures.wait([shown], 2)
            self.sluiced.start()
            self.assertEqual((0, "layer 2\n"), shown.result())
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

    def test_restart(self):
        self.check_restart(signal.SIGTERM)

    def test_killed(self):
        self.check_restart(signal.SIGKILL)
