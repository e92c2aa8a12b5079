"""Pods and containers with sluiced as containerd's snapshotter: images with an index."""

import json
import os
import signal
import subprocess
import time

from tools import container_images, images, tree, workplace
from tools.container_images import PROGRAM
from tools.node import Workloads
from tools.registry import push
from tools.services import connect
from tools.sluiced_node import Restarts, SluicedNode
from tools.snapshots import Mounted, Side
from tools.testcase import fields_of, suspend

_PYTHON = ("/usr/bin/python3", "-c")


class LazyNode(SluicedNode):
    """Some images are lazy, and the image of pods is not."""

    indexed = (1, 3)


class LazyImages(Workloads, Restarts, LazyNode):
    """The containerd of this Debian."""

    def cached(self, folder):
        return set(os.listdir(os.path.join(self.sluiced.root, "cache", folder)))

    def show(self, reference, path):
        pod = self.pod(f"{time.monotonic_ns()}")
        shown = self.cri.run(pod, "shows", reference, PROGRAM, "show", path)
        self.cri.remove_pod(pod)
        return shown

    def test_disk_is_given_back(self):
        """Of an image that is removed, but for what another one has, too."""
        self.cri.remove_pod(self.pod())
        before = {folder: self.cached(folder) for folder in ("blobs", "layers")}
        references = [self.push(image.layout, image.tag, image.tag)
                      for image in container_images.siblings()]
        for number, reference in enumerate(references, 1):
            self.sluice("index", reference)
            self.cri.pull(reference)
            self.assertEqual((0, f"1 of layer {number}\n" * 500),
                             self.show(reference, f"/layer-{number}/01"))
        first, second = references
        self.assertEqual(sorted(references), self.lazy_names())
        self.cri.remove_image(first)
        self.wait_until(lambda: self.lazy_names() == [second], "one image is lazy")
        self.wait_until(lambda: len(self.cached("layers")) == 2, "what only that one had has gone")
        self.registry.stop()
        try:
            server = self.sluiced_status()["server"]
            os.kill(server["pid"], signal.SIGKILL)
            self.wait_until(lambda: self.sluiced_status()["server"]["starts"] > server["starts"],
                            "there is another server")
            self.wait_until(lambda: [image["state"] for image in self.sluiced_status()["images"]]
                            == ["mounted"], "the next server has it from the cache")
            self.assertEqual((0, "1 of layer 2\n" * 500), self.show(second, "/layer-2/01"))
        finally:
            self.registry.start()
        for number in (3, 1):  # the shorter one is the first layers of the longer one
            self.cri.pull(self.reference(f"chain-{number}"))
            self.assertEqual((0, f"layer {number}\n"),
                             self.show(self.reference(f"chain-{number}"), "/etc/top"))
        self.remove_images()
        for folder, those in before.items():
            self.wait_until(lambda: self.cached(folder) <= those, f"no {folder} are left")
        self.assertLess(self.sluiced_status()["cache"]["on_disk"], 100000)
        calls = {(call["method"], call["code"]): call for call in self.sluiced_status()["calls"]}
        self.assertGreater(calls["Prepare", "OK"]["count"], 0)
        self.assert_nothing_left()

    def test_lazy(self):
        image = container_images.chain()[3]
        reference = self.reference(image.tag)
        self.cri.pull(reference)
        self.assertEqual([reference], self.lazy_names())
        self.assertEqual([], self.layers_in_store(image), "layers are not pulled")
        self.assertEqual("mounted", self.sluiced_status()["images"][0]["state"])
        pod = self.pod()  # of an image that is the first layer of this one
        for name in ("one", "two"):
            self.assertEqual((0, "layer 3\n"),
                             self.cri.run(pod, name, reference, PROGRAM, "show", "/etc/top"))
            self.assertEqual(2, len(self.lazy_mounts()), "containers share the mount")
        self.cri.remove_pod(pod)
        self.remove_images()
        self.assert_nothing_left()
        self.wait_until(lambda: not self.lazy_names(), "no image is lazy any more")

    def test_holder_and_sluiced_die(self):
        """Whoever has used an image gets errors, which is told; others have it again."""
        reference = self.reference("chain-3")
        self.cri.pull(reference)
        pod = self.pod()
        self.cri.start(pod, "loses", reference, PROGRAM, "pause")
        os.kill(self.sluiced.holder(), signal.SIGKILL)
        self.sluiced.end(signal.SIGKILL)
        self.sluiced.start()
        self.wait_until(lambda: self.told(f"{reference} was mounted, and nobody has kept"),
                        "it is told")
        self.wait_until(self.is_reached, "containerd has connected again")
        self.assertEqual((0, "1 of layer 1\n" * 500),
                         self.cri.run(pod, "has", reference, PROGRAM, "show", "/layer-1/01"))
        self.cri.remove_pod(pod)
        self.remove_images()
        self.assert_nothing_left()

    def test_silent_holder(self):
        """Nobody waits for one that does not answer; when it does again, it is told what it missed."""
        reference = self.reference("chain-3")
        pod = self.pod()
        holder = self.sluiced.holder()
        suspend(holder)
        try:
            self.cri.pull(reference)
            container = self.cri.start(pod, "lives", reference, PROGRAM, "pause")
            self.wait_until(lambda: self.told("the holder at"), "it is told")
            self.assertEqual([reference], self.lazy_names())
        finally:
            os.kill(holder, signal.SIGCONT)
        self.wait_until(lambda: self.told("there is a holder again"), "it is told all")
        self.sluiced.end(signal.SIGKILL)
        self.sluiced.start()
        self.wait_until(self.is_reached, "containerd has connected again")
        self.assertEqual((0, "layer 3\n"),
                         self.cri.execute(container, PROGRAM, "show", "/etc/top"))
        self.cri.remove_pod(pod)
        self.remove_images()
        self.assert_nothing_left()

    def test_mounts_are_nobody_elses(self):
        """Whoever looks at them while sluiced does not run is not led to unmount them."""
        reference = self.reference("chain-3")
        self.cri.pull(reference)
        point, = self.lazy_mounts()
        self.fails("umount", point, says=("one of sluiced's mounts",))
        self.sluiced.end()
        self.fails("umount", point, says=("one of sluiced's mounts",))
        self.fails("status", point, says=("one of sluiced's mounts",))
        mount, = (each for each in json.loads(self.sluice("status", "--json").stdout)
                  if each.get("mountpoint") == point)
        self.assertEqual((False, True), (mount["dead"], mount["waits_for_sluiced"]))
        self.assertIn("sluiced, which does not run", self.sluice("status").stdout)
        self.sluiced.start()
        self.wait_until(self.is_reached, "containerd has connected again")
        self.assertEqual([point], self.lazy_mounts())
        self.assertEqual((0, "layer 3\n"), self.show(reference, "/etc/top"))
        self.remove_images()
        self.assert_nothing_left()

    def test_two_at_one_place(self):
        """The one that came first is not disturbed."""
        self.cri.pull(self.reference("chain-3"))
        second = subprocess.run(self.sluiced.command, check=False, stdin=subprocess.DEVNULL,
                                text=True, capture_output=True, env=self.environment, timeout=60)
        self.assertEqual(1, second.returncode)
        self.assertIn("another sluiced", second.stderr)
        self.assertEqual(1, second.stderr.count("\n"))
        self.assertEqual(1, self.sluiced_status()["server"]["starts"])
        self.remove_images()
        self.assert_nothing_left()

    def test_ordinary_and_why(self):
        reference = self.reference("chain-2")
        self.cri.pull(reference)
        self.assertEqual([], self.lazy_names())
        reasons = {each["name"]: each["reason"] for each in self.sluiced_status()["ordinary"]}
        self.assertIn(reference, reasons)
        self.assertIn("index", reasons[reference])
        with open(os.path.join(workplace.PROJECT, "docs/man/sluice-status.1"),
                  encoding="utf-8") as file:
            page = file.read()
        self.assertEqual([], [field for field in fields_of(self.sluiced_status())
                              if field not in page])

    def test_clients_that_pass_labels(self):
        """They name the image, and not its manifest."""
        image = container_images.chain()[3]
        reference = self.reference(image.tag)
        for _ in range(2):
            self.containerd.ctr("images", "rpull", "--plain-http", "--snapshotter",
                                self.snapshotter, reference, program="ctr-remote")
            self.assertEqual([], self.layers_in_store(image, "default"))
            self.assertEqual("layer 3\n", self.containerd.run(
                reference, "shows", PROGRAM, "show", "/etc/top", snapshotter=self.snapshotter))
            self.cri.pull(reference)
            self.assertEqual([], self.layers_in_store(image))
            self.assertEqual([reference], self.lazy_names(), "one image, by either name")
            self.remove_images()
            self.assert_nothing_left()

    def test_names_that_mean_another_image(self):
        """What a client pulls by name is what the name means then."""
        for number in (1, 3):
            image = container_images.chain()[number]
            push(image.layout, image.layout.find(image.tag), self.registry.name, "moved", "latest")
            reference = self.reference("moved")
            self.index(reference)
            self.containerd.ctr("images", "rpull", "--plain-http", "--snapshotter",
                                self.snapshotter, reference, program="ctr-remote")
            self.assertEqual(f"layer {number}\n", self.containerd.run(
                reference, "shows", PROGRAM, "show", "/etc/top", snapshotter=self.snapshotter))
        self.remove_images()
        self.assert_nothing_left()


class LazyImagesNewer(Workloads, Restarts, LazyNode):
    """containerd 2.x."""

    newer = True

    def test_lazy(self):
        """By the transfer service, for CRI and for ctr."""
        image = container_images.chain()[3]
        reference = self.reference(image.tag)
        for namespace, pull in (("k8s.io", self.cri.pull), ("default", self.pull_by_ctr)):
            pull(reference)
            self.assertEqual([reference], self.lazy_names())
            self.assertEqual([], self.layers_in_store(image, namespace))
            self.remove_images()
            self.assert_nothing_left()

    def test_copied_for_mapped_users(self):
        """A client that changes the owners in a copy, whatever the snapshotter can do."""
        reference = self.reference("chain-3")
        self.containerd.pull(reference, self.snapshotter)
        self.check_mapped_users(reference)
        self.remove_images()
        self.assert_nothing_left()

    def test_mapped_users(self):
        """Owners are mapped by mounts; of the image comes what is read, and nothing stays."""
        for number in (1, 2, 3):  # the second one has an ordinary layer above a lazy one
            reference = self.reference(f"chain-{number}")
            self.containerd.pull(reference, self.snapshotter)
            self.check_mapped_users(reference, "--remap-labels")
        self.remove_images()
        self.assert_nothing_left()

    def pull_by_ctr(self, reference):
        self.containerd.pull(reference, self.snapshotter)


class AllImagesLazy(Workloads, LazyNode):
    """That of pods, too: as the first layer of each, and by itself."""

    indexed = (0, 1, 2, 3)


class ShortImagesLazy(Workloads, LazyNode):
    """Layers of lazy images below ordinary ones."""

    indexed = (1,)


class LongImagesLazy(Workloads, LazyNode):
    """Images are ordinary that are the beginning of a lazy one."""

    indexed = (3,)


class Python(LazyNode):
    """A real image."""

    indexed = ()

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.image = images.python_images()[0]
        push(cls.image.layout, cls.image.layout.find(cls.image.tag), cls.registry.name, "python",
             "latest")
        cls.index(f"{cls.registry.name}/python:latest")

    def test_python_prints(self):
        reference = self.reference("python")
        self.cri.pull(reference)
        self.assertEqual([], self.layers_in_store(self.image))
        pod = self.pod()
        program = "import json, ssl; print(json.dumps({'answer': 6 * 7}))"
        self.assertEqual((0, '{"answer": 42}\n'),
                         self.cri.run(pod, "prints", reference, *_PYTHON, program))
        self.assertEqual(1, len(self.lazy_mounts()))
        container = self.cri.start(pod, "lives", reference, *_PYTHON,
                                   "import time; time.sleep(1000)")
        writes = "open('/usr/lib/new', 'w').write('x'); import os; os.unlink('/etc/passwd')"
        self.assertEqual((0, ""), self.cri.execute(container, *_PYTHON, writes))
        seen = "import os; print(os.path.exists('/usr/lib/new'), os.path.exists('/etc/passwd'))"
        self.assertEqual((0, "True False\n"), self.cri.execute(container, *_PYTHON, seen))
        self.assertEqual((0, "False True\n"),
                         self.cri.run(pod, "fresh", reference, *_PYTHON, seen))
        self.assertEqual(1, len(self.lazy_mounts()), "containers share the mount")
        self.cri.remove_pod(pod)
        self.remove_images()
        self.assert_nothing_left()


class Tree(LazyNode):
    """What containers see of a real image of several layers."""

    indexed = ()

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        image = images.python_images()[1]
        push(image.layout, image.layout.find(image.tag), cls.registry.name, "debian", "latest")
        cls.index(f"{cls.registry.name}/debian:latest")

    def seen(self, snapshotter):
        """The image's tree, as a view that containerd has made."""
        channel = connect(self.containerd.address)
        self.addCleanup(channel.close)
        side = Side(snapshotter, channel, snapshotter, "default")
        top = next(name for name in self.snapshots("default", snapshotter)
                   if all(name != info.parent for answer in side.call("List")
                          for info in answer.info))
        mounts = side.call("View", key="seen", parent=top).mounts
        with Mounted(mounts, self.make_directory(snapshotter)) as point:
            found = tree.snapshot(point)
        side.call("Remove", key="seen")
        return found

    def test_every_file_is_what_containerd_unpacks(self):
        reference = self.reference("debian")
        self.containerd.ctr("images", "rpull", "--plain-http", "--snapshotter", self.snapshotter,
                            reference, program="ctr-remote")
        self.assertEqual([reference], self.lazy_names())
        lazy = self.seen(self.snapshotter)
        self.containerd.pull(reference, "overlayfs")
        truth = self.seen("overlayfs")
        self.assertGreater(len(truth), 10000)
        # overlayfs counts one link of a directory that several layers have.
        lines = tree.differences(truth, lazy, ("links",))
        self.assertEqual([], lines[:20], f"{len(lines)} differences")
