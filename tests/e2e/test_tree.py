"""A mounted image is, file by file, what an unpacker makes of it."""

import os
import subprocess

from tools import images, layers, tree
from tools.testcase import EndToEnd


class DebianTree(EndToEnd):
    """Debian with python3 and a layer of all that packages do not have."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.image = images.debian()
        cls.truth = tree.snapshot(images.unpacked(cls.image))
        # umoci drops these attributes, which the tar has.
        cls.truth["special/labelled"].xattrs["security.selinux"] = b"system_u:object_r:t:s0"
        cls.truth["special/attributes"].xattrs["user.empty"] = b""

    def setUp(self):
        reference = self.push(self.image.layout, self.image.tag, "debian")
        self.sluice("index", reference)
        self.point = self.mount(reference)

    def assert_same(self, truth, seen, ignore=()):
        lines = tree.differences(truth, seen, ignore)
        self.assertEqual(lines[:20], [], f"{len(lines)} differences")

    def test_every_file_is_what_umoci_unpacks(self):
        seen = tree.snapshot(self.point)
        self.assertGreater(len(seen), 10000)
        self.assert_same(self.truth, seen)
        self.assertEqual(tree.directory_time_differences(self.image.tars, seen)[:20], [])
        self.unmount(self.point)

    def test_metadata_needs_no_file_content(self):
        self.assert_same(self.truth, tree.snapshot(self.point, contents=False), ("content",))
        self.assertEqual(self.status(self.point)["bytes_fetched"], 0)

    def test_python_runs_in_a_chroot(self):
        done = subprocess.run(
            ["chroot", self.point, "/usr/bin/python3", "-c",
             "import json, sqlite3, ssl; print(json.dumps(sorted({'b': 2, 'a': 1})))"],
            capture_output=True, text=True, check=False)
        self.assertEqual((done.returncode, done.stdout), (0, '["a", "b"]\n'), done.stderr)

    def test_reads_at_odd_places(self):
        """Across chunk borders, to and past the end of a file."""
        path = "special/noise"
        with open(os.path.join(images.unpacked(self.image), path), "rb") as file:
            data = file.read()
        with open(os.path.join(self.point, path), "rb", buffering=0) as file:
            descriptor = file.fileno()
            for offset, length in ((0, 1), (1, 4095), (1_048_575, 2), (999_999, 1_500_000),
                                   (len(data) - 1, 100), (len(data), 10), (len(data) + 9999, 10)):
                self.assertEqual(os.pread(descriptor, length, offset), data[offset:offset + length],
                                 f"{length} bytes at {offset}")

    def test_names_that_are_not_there(self):
        for name in ("special/nothing", "etc/debian_version", "usr/share/doc/bash",
                     "special/empty/below-a-file", "special/" + "n" * 255):
            self.assertFalse(os.path.lexists(os.path.join(self.point, name)), name)

    def test_nothing_can_be_changed(self):
        for change in (lambda: open(os.path.join(self.point, "new"), "wb"),
                       lambda: os.unlink(os.path.join(self.point, "etc/issue")),
                       lambda: os.chmod(os.path.join(self.point, "etc/issue"), 0o600)):
            with self.assertRaises(OSError) as caught:
                change()
            self.assertEqual(caught.exception.strerror, "Read-only file system")

    def test_setuid_and_devices_are_off_unless_asked_for(self):
        def options(point):
            with open("/proc/self/mountinfo", encoding="utf-8") as file:
                lines = [line.split() for line in file]
            return set(next(line[5] for line in lines if line[4] == point).split(","))

        self.assertLessEqual({"ro", "nosuid", "nodev"}, options(self.point))
        with self.assertRaises(PermissionError):
            os.close(os.open(os.path.join(self.point, "special/null"), os.O_RDONLY))
        allowed = self.mount(self.reference("debian"), "--suid", "--dev", name="allowed")
        self.assertTrue({"nosuid", "nodev"}.isdisjoint(options(allowed)))
        with open(os.path.join(allowed, "special/null"), "rb") as file:
            self.assertEqual(file.read(1), b"")


class Compressions(EndToEnd):
    """The same layers in every form that registries hold them in."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.images = images.variants()
        cls.truth = tree.snapshot(images.unpacked(images.small()))

    def check(self, how):
        image = self.images[how]
        reference = self.push(image.layout, image.tag, how)
        self.sluice("index", reference)
        # A cache of its own: nothing that another compression left may answer.
        point = self.mount(reference, cache=os.path.join(self.directory, "cache-" + how))
        lines = tree.differences(self.truth, tree.snapshot(point))
        self.assertEqual(lines[:10], [], f"{len(lines)} differences")
        kinds = {layer["kind"] for layer in self.status(point)["layers"]}
        self.assertEqual(kinds, {how.split("-")[0]})
        self.unmount(point)


def _add_compression_tests():
    for how in layers.COMPRESSIONS:
        def test(self, how=how):
            self.check(how)
        setattr(Compressions, "test_" + how.replace("-", "_"), test)


_add_compression_tests()
