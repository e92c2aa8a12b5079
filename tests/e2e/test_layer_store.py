"""Podman with sluiced's layer store: lazy images, and ordinary ones beside them."""

import base64
import json
import os
import signal
import subprocess
import tempfile

from tools import container_images, images, model, random_layers, rounds, tree
from tools.container_images import PROGRAM
from tools.counting_proxy import CountingProxy
from tools.layers import LayerWriter
from tools.layout import Layout
from tools.podman import Podman
from tools.sluiced import Sluiced
from tools.testcase import EndToEnd, mounts_under, need_mounted_root

_PYTHON = ("/usr/bin/python3", "-c")


def _changing_image(directory):
    """Three layers, each of which hides and replaces what is below."""
    paths = [os.path.join(directory, f"{number}.tar") for number in range(3)]
    with LayerWriter(paths[0]) as layer:
        for name in ("gone", "opaque", "anew", "kept", "turned"):
            layer.directory(name, mode=0o750)
            layer.file(name + "/old", b"old\n" * 1000)
            layer.directory(name + "/below")
            layer.file(name + "/below/old", b"older\n")
        layer.file("removed", b"removed\n")
        layer.file("replaced", b"old\n")
    with LayerWriter(paths[1]) as layer:
        layer.whiteout("gone")
        layer.whiteout("removed")
        layer.directory("opaque", mode=0o711)
        layer.opaque("opaque")
        layer.file("opaque/new", b"new\n", uid=1000)
        layer.directory("opaque/below")
        layer.whiteout("anew")
        layer.file("replaced", b"new\n", mode=0o600)
        layer.file("linked", b"linked\n")
        layer.hardlink("linked-too", "linked")
        layer.file("turned", b"a file where a directory was\n")
    with LayerWriter(paths[2]) as layer:
        layer.directory("anew", mode=0o700)
        layer.file("anew/new", b"new\n")
        layer.directory("removed")
        layer.file("removed/inside", b"a directory where a file was\n")
        layer.whiteout("turned")
        layer.directory("kept", mode=0o750)
        layer.whiteout("kept/old")
        layer.symlink("gone", "kept")
    layout = Layout(os.path.join(directory, "layout"))
    images.add(layout, "changing", paths, ("gzip",) * len(paths), directory)
    return images.Image(layout, "changing", paths)


class PodmanNode(EndToEnd):
    """A registry behind a proxy that counts, sluiced, and Podman."""

    door = "auto"

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        need_mounted_root(cls())
        cls.proxy = CountingProxy(cls.registry.name)
        cls.addClassCleanup(cls.proxy.close)
        cls.store = os.path.join(cls.directory, "layers")
        directory = os.path.join(cls.directory, "sluiced")
        os.mkdir(directory)
        cls.sluiced = Sluiced(directory, more=f'[layer_store]\npath = "{cls.store}"\n'
                              f'[lazy]\nfill = "off"\nfront = "{cls.door}"\n',
                              environment=cls.environment)
        cls.addClassCleanup(cls.sluiced.stop)

    def setUp(self):
        self.podman = self.new_podman("podman", self.store)

    def new_podman(self, name, layer_store=None):
        podman = Podman(self.make_directory(name), self.environment, layer_store)
        self.addCleanup(podman.close)
        return podman

    def publish(self, image, *, index=True):
        """Its name, by way of the proxy."""
        reference = self.push(image.layout, image.tag, image.tag)
        if index:
            self.sluice("index", reference)
        return f"{self.proxy.name}/{image.tag}:latest"

    def layer_sizes(self, image):
        manifest = image.layout.json(image.layout.find(image.tag)["digest"])
        return [layer["size"] for layer in manifest["layers"]]

    def sluiced_status(self):
        every = json.loads(self.sluice("status", "--json").stdout)
        return next(each for each in every
                    if each.get("daemon", {}).get("root") == self.sluiced.root)

    def lazy_mounts(self):
        return mounts_under(os.path.join(self.sluiced.root, "lazy"))

    def assert_nothing_left(self):
        self.wait_until(lambda: not self.lazy_mounts(), "nothing is mounted any more")
        self.wait_until(lambda: not self.sluiced_status()["images"], "no image is known any more")
        with open(os.path.join(self.sluiced.root, "layers.json"), encoding="utf-8") as file:
            self.assertEqual([], json.load(file)["layers"])

    def seen(self, podman, reference):
        with podman.mounted(reference) as point:
            return tree.snapshot(point)

    def check_as_ordinary(self):
        """What Podman itself unpacks as it should."""
        image = _changing_image(self.make_directory("image"))
        reference = self.publish(image)
        self.podman.pull(reference)
        ordinary = self.new_podman("ordinary")
        ordinary.pull(reference)
        self.assertEqual((3, 0), (self.podman.lazy_layers(), ordinary.lazy_layers()))
        truth, lazy = self.seen(ordinary, reference), self.seen(self.podman, reference)
        self.assertIn("opaque/new", truth)
        self.assertNotIn("opaque/old", truth)
        truth.pop(".")  # Podman's own idea, where no layer names it
        lazy.pop(".")
        # overlayfs counts one link of a directory that several layers have.
        lines = tree.differences(truth, lazy, ("links",))
        self.assertEqual([], lines[:20], f"{len(lines)} differences")


class LayerStore(PodmanNode):
    """By the front door that sluiced takes by itself."""

    def test_python(self):
        image = images.python_images()[0]
        reference = self.publish(image)
        self.proxy.forget()
        said = self.podman.pull(reference)
        self.assertNotIn("GC doesn't seem to be supported", said)
        self.assertEqual(2, self.podman.lazy_layers())
        program = "import json, ssl; print(json.dumps({'answer': 6 * 7}))"
        self.assertEqual('{"answer": 42}\n', self.podman.run(reference, *_PYTHON, program))
        self.assertLess(self.proxy.blob_bytes(), sum(self.layer_sizes(image)) / 3)
        writes = ("import os; open('/usr/lib/new', 'w').write('x'); os.unlink('/etc/passwd'); "
                  "print(os.path.exists('/usr/lib/new'), os.path.exists('/etc/passwd'))")
        for _ in range(2):  # each container has what it writes for itself
            self.assertEqual("True False\n", self.podman.run(reference, *_PYTHON, writes))
        self.podman("rmi", reference)
        self.assert_nothing_left()

    def test_whole_tree(self):
        """Whiteouts, opaque directories, links into lower layers, parents that are not named."""
        image = images.debian()
        reference = self.publish(image)
        self.podman.pull(reference)
        self.assertEqual(3, self.podman.lazy_layers())
        lazy = self.seen(self.podman, reference)
        truth = tree.snapshot(images.unpacked(image))
        self.assertGreater(len(truth), 10000)
        # umoci leaves some attributes out; a link into another layer is a copy, as overlayfs's.
        lines = tree.differences(truth, lazy, ("links", "xattrs"))
        self.assertEqual(["special/link-of-lower: same_as is 'special/link-of-lower', "
                          "expected 'etc/passwd'"], lines[:20], f"{len(lines)} differences")
        self.podman("rmi", reference)
        self.assert_nothing_left()

    def test_as_an_ordinary_pull(self):
        self.check_as_ordinary()

    def test_what_needs_blobs(self):
        """It fails, and says so."""
        reference = self.publish(container_images.chain()[1])
        self.podman.pull(reference)
        target = os.path.join(self.make_directory("saved"), "image.tar")
        said = self.podman("save", "--output", target, reference, expect=125).stderr
        self.assertIn("operation not supported", said)
        self.assertIn("skopeo copy", self.sluiced.log())

    def test_names(self):
        """What names no layer is not there, and what is not asked for is not told."""
        image = container_images.chain()[1]
        reference = self.publish(image)
        layer = image.layout.json(image.layout.find(image.tag)["digest"])["layers"][0]["digest"]
        there = base64.b64encode(reference.encode()).decode()
        self.assertEqual(["blob", "diff", "info"], sorted(
            name for name in ("blob", "diff", "info", "use", "other")
            if os.path.exists(os.path.join(self.store, there, layer, name))))
        with open(os.path.join(self.store, there, layer, "info"), encoding="utf-8") as file:
            self.assertEqual(layer, json.load(file)["compressed-diff-digest"])
        self.assertEqual([], os.listdir(self.store))
        nowhere = base64.b64encode(self.reference("nowhere").encode()).decode()
        for path in ("x", "====", "A" * 200, base64.b64encode(b"No Name").decode(),
                     base64.b64encode(b"a\0b").decode(), there + "/" + layer[:-1],
                     there + "/sha256:" + "0" * 64, nowhere + "/" + layer):
            self.assertFalse(os.path.exists(os.path.join(self.store, path)), path)
        with self.assertRaises(OSError):
            os.mkdir(os.path.join(self.store, "new"))
        with self.assertRaises(FileNotFoundError):  # as it is when it was not in use
            os.rmdir(os.path.join(self.store, there, layer))
        self.podman.pull(reference)
        self.podman("rmi", reference)
        self.assert_nothing_left()

    def test_images_that_share_layers(self):
        """One lazy, one not, one lazy; the shared layers are there once."""
        chain = container_images.chain()
        references = [self.publish(image, index=number != 2)
                      for number, image in enumerate(chain[1:], 1)]
        for reference in references:
            self.podman.pull(reference)
        self.assertEqual(4 - 1, self.podman.lazy_layers(), "one was pulled with the ordinary image")
        for number, reference in enumerate(references, 1):
            self.assertEqual(f"layer {number}\n",
                             self.podman.run(reference, PROGRAM, "show", "/etc/top"))
        reasons = {each["name"]: each["reason"] for each in self.sluiced_status()["ordinary"]}
        self.assertIn("index", reasons[references[1]])
        self.podman("rmi", references[0])
        self.assertEqual("layer 3\n", self.podman.run(references[2], PROGRAM, "show", "/etc/top"))
        self.podman("rmi", *references[1:])
        self.assert_nothing_left()

    def test_restarts(self):
        """sluiced is killed, and then stopped, while a container runs."""
        image = container_images.chain()[3]
        reference = self.publish(image)
        self.podman.pull(reference)
        container = self.podman.start(reference, PROGRAM, "pause")
        (lazy,) = self.sluiced_status()["images"]
        self.assertEqual([1, 1, 1, 1, 4], sorted(len(view["layers"]) for view in lazy["views"]))
        self.assertEqual(sum(layer["stream_bytes"] for view in lazy["views"]
                             for layer in view["layers"]), 2 * lazy["stream_bytes"])
        for number in (signal.SIGKILL, signal.SIGTERM):
            self.sluiced.end(number)
            self.sluiced.start()
            self.assertEqual("layer 3\n",
                             self.podman("exec", container, PROGRAM, "show", "/etc/top").stdout)
            self.assertEqual("1 of layer 2\n" * 500,
                             self.podman.run(reference, PROGRAM, "show", "/layer-2/01"))
        self.podman("rm", "--force", "--time=0", container)
        self.podman("rmi", reference)
        self.assert_nothing_left()

    def test_machine_starts_anew_without_registry(self):
        """Nothing is mounted then, and what is cached runs."""
        reference = self.publish(container_images.chain()[2])
        self.podman.pull(reference)
        self.assertEqual("layer 2\n", self.podman.run(reference, PROGRAM, "show", "/etc/top"))
        self.sluiced.end()
        self.sluiced.end_holder()
        for point in self.lazy_mounts():
            subprocess.run(["umount", "--lazy", point], check=True)
        self.registry.stop()
        try:
            self.sluiced.start()
            self.assertEqual("layer 2\n", self.podman.run(reference, PROGRAM, "show", "/etc/top"))
        finally:
            self.registry.start()
        self.podman("rmi", reference)
        self.assert_nothing_left()


class RandomLayersInPodman(PodmanNode):
    """Layers made of a few names, each by itself and stacked by overlayfs."""

    def test_random_layers(self):
        for number, generator in rounds.of(self._testMethodName, 5):
            with self.subTest(round=number), \
                    tempfile.TemporaryDirectory(dir=self.directory) as work:
                tars, possible = random_layers.write(work, generator, model.is_possible)
                if not possible:
                    continue
                layout = Layout(os.path.join(work, "layout"))
                images.add(layout, f"random-{number}", tars, ("gzip",) * len(tars), work)
                reference = self.publish(images.Image(layout, f"random-{number}", tars))
                self.podman.pull(reference)
                # For overlayfs a link into another layer is a copy.
                lines = tree.differences(model.Tree(tars).nodes, self.seen(self.podman, reference),
                                         ("links", "same_as"), directory_times=True)
                self.assertEqual([], lines[:20], f"{len(lines)} differences")
                self.podman("rmi", reference)
        self.assert_nothing_left()


class LayerStoreByFuse(PodmanNode):
    """Where the kernel cannot mount EROFS from files."""

    door = "fuse"

    def test_as_an_ordinary_pull(self):
        self.check_as_ordinary()
