"""A mounted image is what an independent model of tar and layers says that it is."""

import os
import random
import subprocess
import tempfile

from tools import everything, images, model, random_layers, rounds, tree, workplace
from tools.layout import Layout
from tools.tar_writer import DIRECTORY, FILE, GNU, LINK, TarWriter
from tools.testcase import EndToEnd

_SOURCES = ("everything.py", "tar_writer.py", "images.py", "layers.py", "layout.py")
FORMS = ("tar", "gzip", "gzip-members", "zstd-frames", "zstd-one-frame")


def everything_image(forms=FORMS, without=()):
    """(layout, [tar path]): the same layers under a tag for each form of compression."""
    def make(directory):
        tars = everything.write(directory, without)
        layout = Layout(os.path.join(directory, "layout"))
        for form in forms:
            images.add(layout, form, tars, (form,) * len(tars), directory)

    recipe = workplace.source_of(*_SOURCES) + str((forms, [part.__name__ for part in without]))
    directory = workplace.kept("everything", recipe, make)
    tars = [os.path.join(directory, f"{number}.tar") for number in range(len(everything.LAYERS))]
    return Layout(os.path.join(directory, "layout")), tars


# Where umoci differs from the layers, from containerd, or from what its disk can hold.
UMOCI_DIFFERS = (
    "missing: merge/in", "missing: merge/opaque/sub",  # it makes no parents for whiteouts
    "not in the image: .wh..wh.plnk",  # containerd passes over what AUFS kept for itself
    "attributes/file: attribute user.empty is None",  # it drops attributes without a value
    "attributes/shared-", "attributes/labelled: attribute security.selinux is None",
    # ext4 ends in 2446; what is finer than a nanosecond is rounded down by GNU tar and by us
    "numbers/gnu-time-253402300799: time", "numbers/pax-time-253402300799: time",
    "numbers/time--1.0000000019: time",
)


class ModelTest(EndToEnd):
    """What tests that compare with the model share."""

    def assert_is(self, truth, point):
        lines = truth.differences(point)
        self.assertEqual(lines[:20], [], f"{len(lines)} differences")

    def mount_image(self, layout, tag, name=None):
        """Pushes, indexes and mounts, with a cache that nothing has been put into."""
        name = name or tag
        reference = self.push(layout, tag, name)
        self.sluice("index", reference)
        return self.mount(reference, name=name, cache=os.path.join(self.directory, "c-" + name))


class EveryImage(ModelTest):
    """All that tars and layers can say (tools/everything.py), in each form of compression."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.layout, cls.tars = everything_image()
        cls.truth = model.Tree(cls.tars)

    def test_umoci_says_the_same(self):
        """The model is right, as far as umoci is."""
        layout, tars = everything_image(("gzip",), everything.NOT_FOR_UMOCI)
        truth = model.Tree(tars).nodes
        seen = tree.snapshot(images.unpacked(images.Image(layout, "gzip", tars)),
                             largest=model.LARGE)
        lines = tree.differences(truth, seen, ignore=("links",))
        self.assertEqual([line for line in lines if not line.startswith(UMOCI_DIFFERS)], [])
        self.assertEqual({known for known in UMOCI_DIFFERS
                          if not any(line.startswith(known) for line in lines)}, set())

    def check(self, form):
        point = self.mount_image(self.layout, form)
        self.assert_is(self.truth, point)
        self.unmount(point)


def _add_tests():
    for form in FORMS:
        def test(self, form=form):
            self.check(form)
        setattr(EveryImage, "test_" + form.replace("-", "_"), test)


_add_tests()


class RandomLayers(ModelTest):
    """Layers made of a few names, in which everything meets everything."""

    def test_random_layers(self):
        for number, generator in rounds.of(self._testMethodName, 30):
            with self.subTest(round=number), \
                    tempfile.TemporaryDirectory(dir=self.directory) as work:
                tars, possible = random_layers.write(work, generator, model.is_possible)
                layout = Layout(os.path.join(work, "layout"))
                images.add(layout, "image", tars, ("tar",) * len(tars), work)
                if not possible:
                    reference = self.push(layout, "image", f"random-{number}")
                    self.fails("index", reference, says=("layer", "entry"))
                    continue
                point = self.mount_image(layout, "image", f"random-{number}")
                self.assert_is(model.Tree(tars), point)
                self.unmount(point)


class Extremes(ModelTest):
    """Much of one kind, and what is refused."""

    def setUp(self):
        self.work = self.make_directory("work")
        self.layout = Layout(os.path.join(self.work, "layout"))
        self.tar = os.path.join(self.work, "tar")

    def add_image(self, how="tar"):
        images.add(self.layout, "image", [self.tar], [how], self.work)

    def test_directory_of_200000_files(self):
        with TarWriter(self.tar) as tar:
            for number in range(200_000):
                tar.header(b"many/%07d" % (number * 7919 % 200_000), uid=number)
        self.add_image("zstd-frames")
        point = self.mount_image(self.layout, "image", "many")
        names = os.listdir(os.path.join(point, "many"))
        self.assertEqual(names, [f"{number:07}" for number in range(200_000)])
        for number in range(0, 200_000, 1013):
            path = os.path.join(point, f"many/{number * 7919 % 200_000:07}")
            self.assertEqual(os.lstat(path).st_uid, number)
        self.assertFalse(os.path.exists(os.path.join(point, "many/0200000")))

    def test_sparse_files_as_gnu_tar_writes_them(self):
        """In its own form and the three of PAX; the truth is what it has read."""
        generator, tars = random.Random(12), []
        for name, options in (("own", "--format=gnu"), ("0.0", "--sparse-version=0.0"),
                              ("0.1", "--sparse-version=0.1"), ("1.0", "--sparse-version=1.0")):
            place = os.path.join(self.work, "source", name)
            os.makedirs(place)
            for number, size in enumerate((1, 4096, 100_001, 5_000_000, 9 << 30, 1 << 40)):
                with open(os.path.join(place, str(number)), "wb") as file:
                    file.truncate(size)
                    for _ in range(generator.choice((0, 1, 3, 30))):
                        file.seek(generator.randrange(size))
                        file.write(generator.randbytes(min(size - file.tell(), 7000)))
            tars.append(os.path.join(self.work, name + ".tar"))
            formats = [options] if name == "own" else ["--format=pax", options]
            subprocess.run(["tar", "--sparse", *formats, "-C", os.path.join(self.work, "source"),
                            "-cf", tars[-1], name], check=True)
        images.add(self.layout, "image", tars, ("gzip", "tar", "zstd-frames", "gzip"), self.work)
        point = self.mount_image(self.layout, "image", "sparse")
        truth = model.Tree(tars)
        self.assert_is(truth, point)
        source = os.path.join(self.work, "source")
        lines = [line for line in truth.differences(source)
                 if ": time" not in line and not line.startswith(".:")]
        self.assertEqual(lines, [])

    def test_127_layers(self):
        """As many as overlayfs mounts; each replaces, hides, links and adds."""
        tars = []
        for number in range(127):
            tars.append(os.path.join(self.work, f"{number}.tar"))
            with TarWriter(tars[-1]) as tar:
                tar.entry(b"last", data=b"%d" % number)
                tar.entry(b"only/%d" % number, data=b"%d" % number)
                tar.directory(b"only", mode=0o700 + number % 8, time_ns=number)
                if number:
                    tar.hardlink(b"link/%d" % number, b"only/%d" % (number - 1))
                if number % 3 == 2:
                    tar.whiteout(b"only/%d" % (number - 2))
        images.add(self.layout, "image", tars, ("tar", "gzip", "zstd-frames") * 43, self.work)
        self.assert_is(model.Tree(tars), self.mount_image(self.layout, "image", "layers"))

    def test_names_that_climb_are_refused(self):
        for number, (name, kind, link) in enumerate((
                (b"../outside", FILE, b""), (b"a/../../outside", FILE, b""), (b"a/..", FILE, b""),
                (b"a/../b", FILE, b""), (b"..", DIRECTORY, b""), (b"/..", DIRECTORY, b""),
                (b"../.wh.outside", FILE, b""), (b"inside", LINK, b"../outside"))):
            with self.subTest(name):
                with TarWriter(self.tar) as tar:
                    tar.entry(b"a/file")
                    tar.entry(name, kind, link=link)
                self.add_image()
                self.fails("index", self.push(self.layout, "image", f"climbs-{number}"),
                           says=("layer", '".."'))

    def test_what_is_no_tree_is_refused(self):
        for number, (kind, name, link, word) in enumerate((
                (FILE, b"file/below", b"", "not a directory"),
                (LINK, b"link", b"missing", "missing"), (LINK, b"link", b"directory", "directory"),
                (LINK, b"link", b"circle/x", "symbolic links"),
                (FILE, b"circle/x", b"", "symbolic links"), (FILE, b".", b"", "root"),
                (FILE, b"n" * 256, b"", "255"), (FILE, b"n/" * 2100, b"", "4095"),
                (FILE, b".wh.", b"", "whiteout"), (FILE, b".wh...", b"", "whiteout"))):
            with self.subTest(name):
                with TarWriter(self.tar) as tar:
                    tar.entry(b"file")
                    tar.directory(b"directory")
                    tar.symlink(b"circle", b"circle")
                    tar.entry(name, kind, link=link)
                self.add_image()
                self.fails("index", self.push(self.layout, "image", f"no-tree-{number}"),
                           says=("layer", word))


if rounds.SOAK_SECONDS:
    class LongForms(ModelTest):
        """What takes longer than it may for each change."""

        def test_file_of_more_than_8_gib(self):
            """What octal digits cannot tell, and what stands behind it."""
            size = (8 << 30) + 12345

            def make(directory):
                path = os.path.join(directory, "tar")
                with TarWriter(path) as tar:
                    tar.header(b"large", size=size, magic=GNU)
                    start = tar.file.tell()
                    for offset in (0, 5 << 30, (8 << 30) - 2, size - 5):
                        tar.file.seek(start + offset)
                        tar.raw(b"here")
                    tar.file.seek(start + size + -size % 512)
                    tar.entry(b"behind", data=b"the next one")
                    tar.end()
                images.add(Layout(os.path.join(directory, "layout")), "image", [path],
                           ["zstd-equal-slices"], directory)

            recipe = workplace.source_of("tar_writer.py", "images.py", "layers.py", "layout.py")
            directory = workplace.kept("large-file", recipe + str(size), make)
            point = self.mount_image(Layout(os.path.join(directory, "layout")), "image", "large")
            self.assert_is(model.Tree([os.path.join(directory, "tar")]), point)

        def test_1000000_entries(self):
            work = self.make_directory("work")
            path = os.path.join(work, "tar")
            with TarWriter(path) as tar:
                for number in range(1_000_000):
                    tar.header(b"%03d/%03d" % (number % 1000, number // 1000), uid=number)
            layout = Layout(os.path.join(work, "layout"))
            images.add(layout, "image", [path], ["zstd-frames"], work)
            point = self.mount_image(layout, "image", "million")
            names = [f"{number:03}" for number in range(1000)]
            self.assertEqual(os.listdir(point), names)
            for name in names:
                directory = os.path.join(point, name)
                self.assertEqual(os.listdir(directory), names)
                self.assertEqual([os.lstat(os.path.join(directory, names[file])).st_uid
                                  for file in (0, 500, 999)],
                                 [file * 1000 + int(name) for file in (0, 500, 999)])
