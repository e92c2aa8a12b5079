"""`sluice convert`: the same tree for every runtime, in blobs that are read at random."""

import json
import os
import random
import stat
import subprocess
import time

from tools import images, layers, model, random_layers, rounds, tree
from tools.containerd import Containerd
from tools.counting_proxy import CountingProxy
from tools.layers import PLAIN, ZSTD, LayerWriter
from tools.layout import MANIFEST, Layout
from tools.testcase import EndToEnd

from e2e.test_every_image import everything_image

HELLO = ("python3", "-c", "import json; print(json.dumps([1]))")


class ConvertTest(EndToEnd):
    """What tests of conversions share."""

    def convert(self, source, target, *options):
        """Converts; returns what the command says of it."""
        return json.loads(self.sluice("convert", source, target, "--json", *options).stdout)

    def manifest(self, repository, tag="latest"):
        return json.loads(self.client().manifest(repository, tag)[0])

    def config(self, repository, tag="latest"):
        digest = self.manifest(repository, tag)["config"]["digest"]
        return self.client().blob(repository, digest)

    def decoded_layers(self, repository, tag, directory):
        """The tars, as zstd(1) decodes the layers."""
        tars = []
        for number, layer in enumerate(self.manifest(repository, tag)["layers"]):
            tars.append(os.path.join(directory, f"decoded-{number}.tar"))
            with open(tars[-1], "wb") as tar:
                subprocess.run(["zstd", "-dcq"], stdout=tar, check=True,
                               input=self.client().blob(repository, layer["digest"]))
        return tars

    def unpacked_by_umoci(self, repository, tag="latest"):
        """What umoci, which knows no zstd, makes of it once zstd(1) has decoded the layers."""
        work = self.make_directory("umoci")
        layout = Layout(os.path.join(work, "layout"))
        tars = self.decoded_layers(repository, tag, work)
        layout.add_image([(tar, tar, PLAIN) for tar in tars], "image")
        subprocess.run(["umoci", "--log=error", "unpack", "--image", f"{work}/layout:image",
                        f"{work}/bundle"], check=True)
        return os.path.join(work, "bundle", "rootfs")

    def assert_same_trees(self, expected, found, **options):
        lines = tree.differences(tree.snapshot(expected), tree.snapshot(found), **options)
        self.assertEqual(lines[:20], [], f"{len(lines)} differences")


class ConvertDebian(ConvertTest):
    """A real image, of gzip layers."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.image = images.debian()

    def test_real_image(self):
        source = self.push(self.image.layout, self.image.tag, "debian")
        target = self.reference("converted")
        said = self.convert(source, target, "--level", 6)
        self.assertLess(said["bytes_after"], said["bytes_before"])

        # The manifest is complete, names its index, and has the layers that it says.
        manifest = self.manifest("converted")
        self.assertEqual(manifest["mediaType"], MANIFEST)
        self.assertEqual({layer["mediaType"] for layer in manifest["layers"]}, {ZSTD})
        self.assertEqual(sum(layer["size"] for layer in manifest["layers"]), said["bytes_after"])
        self.assertEqual(manifest["annotations"]["vnd.sluice.index.digest"], said["index_digest"])
        # Nothing was moved: the streams are the same, and so is the config.
        self.assertEqual(self.config("converted"), self.config("debian"))

        point = self.mount(target, "--trust", "pinned")
        truth = model.Tree(list(self.image.tars))
        lines = truth.differences(point)
        self.assertEqual(lines[:20], [])
        self.unmount(point)
        self.assert_same_trees(images.unpacked(self.image), self.unpacked_by_umoci("converted"))


class ConvertEverything(ConvertTest):
    """All that tars and layers can say."""

    def test_everything(self):
        layout, tars = everything_image()
        truth = model.Tree(tars)
        for form in ("tar", "gzip-members", "zstd-one-frame"):
            with self.subTest(form):
                source = self.push(layout, form, form)
                target = self.reference(form, "converted")
                self.convert(source, target)
                point = self.mount(target, name=form, cache=self.make_directory("cache-" + form))
                lines = truth.differences(point)
                self.assertEqual(lines[:20], [], f"{len(lines)} differences")
                self.unmount(point)


class ConvertByProfile(ConvertTest):
    """Files that were read first come first."""

    def setUp(self):
        self.image, _ = images.python_images()
        self.repository = self._testMethodName.replace("_", "-")
        self.source = self.push(self.image.layout, self.image.tag, self.repository)
        self.target = self.reference(self.repository, "converted")
        self.proxy = CountingProxy(self.registry.name)
        self.addCleanup(self.proxy.close)

    def ranges_of_play(self, tag, name):
        """How many ranges of blobs a fresh node asks for until it has what the profile names."""
        self.proxy.forget()
        point = self.mount(self.reference(self.repository, tag, self.proxy), name=name,
                           cache=self.make_directory("cache-" + name))
        self.wait_until(lambda: self.status(point)["profile"]["state"] == "done",
                        "the profile was played")
        ranges = [request for request in self.proxy.blob_requests() if request.range]
        printed = subprocess.run(["chroot", point, *HELLO], text=True, stdout=subprocess.PIPE,
                                 check=True).stdout
        self.assertEqual(printed, "[1]\n")
        read = self.status(point)["profile"]
        self.assertGreater(read["chunks_read"], read["chunks"] / 2)
        return len(ranges), point

    def assert_containerd_unpacks_the_same(self):
        """Also the times of directories, but for those that say when containerd came by."""
        started = time.time_ns()
        containerd = Containerd(self.make_directory("containerd"))
        self.addCleanup(containerd.stop)
        points = []
        for reference in (self.source, self.target):
            points.append(self.make_directory("pulled-%d" % len(points)))
            containerd.pull(reference)
            containerd.mount(reference, points[-1])
            self.addCleanup(containerd.unmount, points[-1])
        expected, found = map(tree.snapshot, points)
        for node in (*expected.values(), *found.values()):
            node.time = min(node.time, started)
        self.assertEqual(tree.differences(expected, found, directory_times=True), [])
        printed = subprocess.run(["chroot", points[1], *HELLO], text=True, stdout=subprocess.PIPE,
                                 check=True).stdout
        self.assertEqual(printed, "[1]\n")

    def test_profiled_files_come_first(self):
        self.sluice("index", self.source)
        self.sluice("profile", self.source, "--", *HELLO)
        said = self.convert(self.source, self.target, "--level", 9)
        self.assertEqual(said["layers_reordered"], 2)
        profile = said["profile"]
        self.assertLess(profile["profile_runs_after"], profile["profile_runs_before"] / 4)
        self.assertLess(profile["profile_bytes_after"], profile["profile_bytes_before"])

        # Only the order has changed: of the tars, and of nothing else in the config.
        old, new = (json.loads(self.config(self.repository, tag)) for tag in
                    ("latest", "converted"))
        moved = new["rootfs"].pop("diff_ids")
        self.assertNotEqual(moved, old["rootfs"].pop("diff_ids"))
        self.assertEqual(new, old)
        truth = model.Tree(list(self.image.tars))
        before, _ = self.ranges_of_play("latest", "before")
        after, point = self.ranges_of_play("converted", "after")
        self.assertLess(after, before / 2)
        self.assertEqual(truth.differences(point), [])
        self.assert_same_trees(images.unpacked(self.image),
                               self.unpacked_by_umoci(self.repository, "converted"),
                               directory_times=True)
        self.assert_containerd_unpacks_the_same()

        # Again, to the byte; and without the profile.
        again = self.reference(self.repository, "again")
        self.assertEqual(self.convert(self.source, again, "--level", 9)["target_digest"],
                         said["target_digest"])
        plain = self.convert(self.source, again, "--no-profile", "--level", 1)
        self.assertEqual(plain["layers_reordered"], 0)
        self.assertNotIn("profile", plain)

    def test_a_record_of_a_node(self):
        record = os.path.join(self.directory, "record")
        self.fails("convert", self.source, self.target, "--profile", record,
                   says=("has no sluice index",))
        self.sluice("index", self.source)
        point = self.mount(self.source, "--record", record, name="recording",
                           cache=self.make_directory("cache"))
        subprocess.run(["chroot", point, *HELLO], stdout=subprocess.DEVNULL, check=True)
        self.unmount(point)
        said = self.convert(self.source, self.target, "--profile", record, "--level", 1)
        self.assertEqual(said["layers_reordered"], 2)
        with open(record, "r+b") as file:
            file.truncate(100)
        self.fails("convert", self.source, self.target, "--profile", record, says=("record",))
        self.fails("convert", self.source, self.target, "--profile", record, "--no-profile",
                   code=2, says=("--no-profile",))


class ConvertAnything(ConvertTest):
    """Layers of every kind, with profiles of files that were chosen at random."""

    def record(self, reference, generator, name):
        """A record of a node that reads some of the files, from the last to the first."""
        record = os.path.join(self.directory, name + ".record")
        point = self.mount(reference, "--record", record, name=name,
                           cache=os.path.join(self.directory, "cache-" + name))
        files = [path for path, node in tree.snapshot(point, contents=False).items()
                 if stat.S_ISREG(node.mode)]
        for path in sorted(files, reverse=True):
            if generator.random() < 0.5:
                with open(os.path.join(point, path), "rb") as file:
                    file.read(100_000)
        self.unmount(point)
        return record

    def check(self, layout, tag, tars, generator, name):
        """How many layers were reordered."""
        source = self.push(layout, tag, name)
        self.sluice("index", source)
        record = self.record(source, generator, name)
        target = self.reference(name, "converted")
        said = self.convert(source, target, "--profile", record, "--level", 1)
        point = self.mount(target, name=name, cache=os.path.join(self.directory, "c-" + name))
        lines = model.Tree(tars).differences(point)
        self.assertEqual(lines[:20], [], f"{len(lines)} differences")
        self.unmount(point)
        # What others unpack is the layers, not the index.
        work = self.make_directory("layers-" + name)
        decoded = self.decoded_layers(name, "converted", work)
        self.assertEqual(model.Tree(decoded).nodes, model.Tree(tars).nodes)
        return said["layers_reordered"]

    def test_everything(self):
        layout, tars = everything_image()
        self.check(layout, "gzip", tars, random.Random(3), "everything")

    def test_random_layers(self):
        reordered = 0
        for number, generator in rounds.of(self._testMethodName, 12):
            with self.subTest(round=number):
                work = self.make_directory(f"work-{number}")
                tars, possible = random_layers.write(work, generator, model.is_possible)
                if not possible:
                    continue
                layout = Layout(os.path.join(work, "layout"))
                images.add(layout, "image", tars, ("gzip",) * len(tars), work)
                reordered += self.check(layout, "image", tars, generator, f"random-{number}")
        self.assertGreater(reordered, 0)


class ConvertSmall(ConvertTest):
    """What does not depend on the content."""

    def setUp(self):
        self.image = images.small()
        self.repository = self._testMethodName.replace("_", "-")
        self.source = self.push(self.image.layout, self.image.tag, self.repository)

    def test_equal_to_the_byte(self):
        """Also with other numbers of threads, and from other compressions of the same tars."""
        targets = [self.reference(self.repository, f"target-{number}") for number in range(3)]
        self.convert(self.source, targets[0], "--threads", 1)
        self.convert(self.source, targets[1], "--threads", 5)
        other = self.push(self.image.layout, "zstd-one-frame", self.repository, "other")
        self.convert(other, targets[2])
        digests = {self.client().manifest_digest(self.repository, f"target-{number}")
                   for number in range(3)}
        self.assertEqual(len(digests), 1)
        again = self.convert(self.source, self.reference(self.repository, "again"))
        self.assertEqual(again["bytes_pushed"], 0)
        self.convert(self.source, targets[1], "--level", 1)
        self.assertNotIn(self.client().manifest_digest(self.repository, "target-1"), digests)

    def test_names_that_are_refused(self):
        digest = self.client().manifest_digest(self.repository, "latest")
        for target in (self.source, self.source + "@" + digest,
                       self.source.rpartition(":")[0] + "@" + digest):
            self.fails("convert", self.source, target, code=2, says=("tag",))
        self.fails("convert", self.source, self.reference(self.repository, "new"), "--level", 20, code=2,
                   says=("--level",))
        self.fails("convert", self.reference(self.repository, "missing"), self.reference(self.repository, "new"),
                   says=("missing",))
        self.assertEqual(self.client().tags(self.repository), ["latest"])

    def test_layers_that_are_not_what_they_should_be(self):
        """Nothing of them is pushed under the tag."""
        work = self.make_directory("work")
        tars = [os.path.join(work, name) for name in ("right.tar", "other.tar", "none.tar")]
        for tar, content in zip(tars, (b"right", b"other")):
            with LayerWriter(tar) as writer:
                writer.file("file", content * 50_000)
        with open(tars[2], "wb") as file:
            file.write(b"this is no tar archive at all\n" * 100)
        blob = os.path.join(work, "blob")
        layout = Layout(os.path.join(work, "layout"))
        for tag, tar, compressed, length in (
                ("cut", tars[0], tars[0], 100), ("lies", tars[0], tars[1], None),
                ("no-tar", tars[2], tars[2], None)):
            with self.subTest(tag):
                media_type = layers.compress(compressed, blob, "gzip")
                if length:
                    os.truncate(blob, length)
                layout.add_image([(tar, blob, media_type)], tag)
                source = self.push(layout, tag, self.repository, tag)
                self.fails("convert", source, self.reference(self.repository, "converted"),
                           says=("layer 1",))
        self.assertNotIn("converted", self.client().tags(self.repository))
