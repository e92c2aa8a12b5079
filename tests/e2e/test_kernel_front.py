"""The kernel front door: what it shows, what it is made of, and how it ends."""

import json
import os
import signal
import subprocess
import tempfile

from e2e.test_every_image import ModelTest, everything_image
from tools import images, model, readers
from tools.counting_proxy import CountingProxy, ProxyHandler
from tools.testcase import (EndToEnd, brokers_under, need_kernel_front, need_mounted_root,
                            servers_under)


class Interrupting(CountingProxy):
    """Before the first answer to a question for a blob something happens."""

    def __init__(self, upstream, digest, happens):
        self.digest = digest
        self.happens = happens
        super().__init__(upstream, _Interrupted)


class _Interrupted(ProxyHandler):
    def forward(self, proxy, body):
        happens = proxy.happens
        if happens and self.path.endswith(proxy.digest):
            proxy.happens = None
            happens()
        return super().forward(proxy, body)


def _maps(pid, name):
    with open(f"/proc/{pid}/maps", encoding="utf-8") as file:
        return name in file.read()


class Kernel(EndToEnd):
    """Skipped where the kernel cannot."""

    front = "erofs"

    def setUp(self):
        need_kernel_front(self)

    def devices(self, point):
        status = self.status(point)
        self.assertEqual(status["front"], "erofs")
        return [layer["device"] for layer in status["layers"]]

    def fill(self, reference, name="filling", **options):
        """All of the image in the cache, and sealed."""
        point = self.mount(reference, "--fill", "now", name=name, **options)
        self.wait_until(lambda: self.status(point)["fill"]["state"] == "complete", "it is filled",
                        seconds=120)
        self.unmount(point)


class KernelFront(Kernel):
    """An image of layers of all kinds."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.image, cls.contents = images.for_reading()

    def setUp(self):
        super().setUp()
        self.cache = os.path.join(self.directory, self._testMethodName + "-cache")
        self.image_reference = self.push(self.image.layout, self.image.tag, "reading")
        self.sluice("index", self.image_reference)

    def test_table_of_mounts_names_the_image(self):
        point = self.mount(self.image_reference)
        with open("/proc/self/mountinfo", encoding="utf-8") as file:
            line, = (line.split() for line in file if line.split()[4] == point)
        self.assertEqual(line[line.index("-") + 1:][:2],
                         ["erofs", "sluice:" + self.image_reference])
        self.assertEqual(set(self.devices(point)), {"fuse"})

    def test_long_name(self):
        name = "/".join(["long" * 12] * 5)
        reference = self.push(self.image.layout, self.image.tag, name)
        self.sluice("index", reference)
        point = self.mount(reference)
        self.assertEqual(self.status(point)["reference"], reference)

    def test_metadata_that_is_evicted_before_it_is_mounted(self):
        """By another server, or by this one's own, which starts with too small a cache."""
        index = json.loads(self.client().manifest("reading", self.index_digest())[0])
        metadata, table = (part["annotations"]["vnd.sluice.content.digest"][7:]
                           for part in index["layers"][:2])
        point = self.mount(self.image_reference)
        self.unmount(point)
        blobs = os.path.join(self.cache, "blobs")
        os.unlink(os.path.join(blobs, table))

        def evict():
            self.wait_until(lambda: any(_maps(pid, metadata) for pid, _ in servers_under(point)),
                            "the metadata is mapped")
            os.unlink(os.path.join(blobs, metadata))

        proxy = Interrupting(self.registry.name, index["layers"][1]["digest"], evict)
        self.addCleanup(proxy.close)
        point = self.mount(f"{proxy.name}/reading:latest")
        self.assertFalse(os.path.exists(os.path.join(blobs, metadata)))
        self.devices(point)
        self.assertEqual(readers.wrong_files(point, self.contents), [])

    def index_digest(self):
        return json.loads(self.sluice("index", self.image_reference, "--json").stdout)["index_digest"]

    def test_sealed_layers_need_no_server(self):
        self.fill(self.image_reference)
        point = self.mount(self.image_reference)
        self.assertEqual(set(self.devices(point)), {"file"})
        self.assertEqual(readers.wrong_files(point, self.contents), [])
        self.assertEqual(self.status(point)["bytes_served"], 0)
        (pid, _), = servers_under(point)
        os.kill(pid, signal.SIGKILL)
        self.wait_until(lambda: not servers_under(point) and not brokers_under(point), "both end")
        self.assertEqual(readers.wrong_files(point, self.contents), [])
        self.fails("status", point, says=("has died", "umount"))
        self.unmount(point)

    def test_cache_is_pruned_under_the_kernel(self):
        """What was lent is evicted by its name only, also when its server was killed."""
        self.fill(self.image_reference)
        point = self.mount(self.image_reference)
        (pid, _), = servers_under(point)
        os.kill(pid, signal.SIGKILL)
        self.wait_until(lambda: not servers_under(point), "the server has ended")
        self.sluice("cache", "prune", "--all", "--cache", self.cache)
        self.assertEqual(readers.wrong_files(point, self.contents), [])

    def test_recording_sees_what_is_sealed(self):
        self.fill(self.image_reference)
        record = os.path.join(self.directory, "record")
        point = self.mount(self.image_reference, "--record", record)
        self.assertEqual(set(self.devices(point)), {"fuse"})

    def test_unmounting_ends_the_server(self):
        """With devices of the server, and without."""
        for filled in (False, True):
            with self.subTest(filled=filled):
                if filled:
                    self.fill(self.image_reference)
                point = self.mount(self.image_reference, name=f"mnt-{filled}")
                inside = os.open(os.path.join(point, sorted(self.contents)[0]), os.O_RDONLY)
                subprocess.run(["umount", "-l", point], check=True)
                self.assertEqual(len(servers_under(point)), 1, "the file is open")
                self.assertEqual(os.read(inside, 1 << 20),
                                 self.contents[sorted(self.contents)[0]][:1 << 20])
                os.close(inside)
                self.wait_until(lambda point=point: not servers_under(point), "the server ends")
                self.wait_until(lambda point=point: not brokers_under(point), "so does the broker")

    def test_lives_on_in_another_namespace(self):
        need_mounted_root(self)
        for filled in (False, True):
            with self.subTest(filled=filled):
                if filled:
                    self.fill(self.image_reference)
                point = self.mount(self.image_reference, name=f"mnt-{filled}")
                path = os.path.join(point, sorted(self.contents)[0])
                other = subprocess.Popen(["unshare", "--mount", "--propagation", "private", "sh",
                                          "-c", 'echo; read line && exec cat "$1"', "-", path],
                                         stdin=subprocess.PIPE, stdout=subprocess.PIPE)
                self.addCleanup(other.wait)
                self.addCleanup(other.kill)
                self.assertEqual(other.stdout.read(1), b"\n")
                subprocess.run(["umount", point], check=True)
                self.assertEqual(len(servers_under(point)), 1)
                output, _ = other.communicate(b"go on\n", timeout=60)
                self.assertEqual(output, self.contents[sorted(self.contents)[0]])
                self.wait_until(lambda point=point: not servers_under(point), "the server ends")

    def test_overlay_on_top(self):
        point = self.mount(self.image_reference)
        writable = self.make_directory("writable")
        names = [os.path.join(writable, name) for name in ("upper", "work", "merged")]
        for name in names:
            os.mkdir(name)
        upper, work, merged = names
        subprocess.run(["mount", "-t", "overlay", "overlay", "-o",
                        f"lowerdir={point},upperdir={upper},workdir={work}", merged], check=True)
        self.addCleanup(subprocess.run, ["umount", "-l", merged], check=False,
                        stderr=subprocess.DEVNULL)
        changed = sorted(self.contents)[0]
        with open(os.path.join(merged, changed), "ab") as file:
            file.write(b"more")
        with open(os.path.join(merged, changed), "rb") as file:
            self.assertEqual(file.read(), self.contents[changed] + b"more")
        rest = {path: data for path, data in self.contents.items() if path != changed}
        self.assertEqual(readers.wrong_files(merged, rest), [])
        # The wrong way round: the overlay holds the tree.
        subprocess.run(["umount", "-l", point], check=True)
        self.assertEqual(len(servers_under(point)), 1)
        self.assertEqual(readers.wrong_files(merged, rest), [])
        subprocess.run(["umount", merged], check=True)
        self.wait_until(lambda: not servers_under(point), "the server ends")

    def test_killed_server_means_errors(self):
        point = self.mount(self.image_reference)
        path = os.path.join(point, sorted(self.contents)[0])
        held = os.open(path, os.O_RDONLY)
        self.addCleanup(os.close, held)
        (pid, _), = servers_under(point)
        os.kill(pid, signal.SIGKILL)
        self.wait_until(lambda: not servers_under(point), "the server is gone")
        with self.assertRaisesRegex(OSError, "Input/output error"):
            os.read(held, 4096)
        with self.assertRaisesRegex(OSError, "Input/output error"):
            with open(path, "rb") as file:
                file.read()
        self.sluice("umount", "--lazy", point)
        again = self.mount(self.image_reference, name="again")
        self.assertEqual(readers.wrong_files(again, self.contents), [])

    def test_cache_where_the_kernel_cannot(self):
        """A tmpfs has nothing that EROFS could read from."""
        cache = tempfile.mkdtemp(prefix="sluice-cache-", dir="/dev/shm")
        self.addCleanup(subprocess.run, ["rm", "-rf", cache], check=True)
        mount = ("mount", self.image_reference, self.make_directory("mnt"), "--cache", cache)
        self.fails(*mount, "--front", "erofs",
                   says=("kernel front door", "block device required", "--front auto"))
        self.front = "auto"
        point = self.mount(self.image_reference, cache=cache, name="auto")
        status = self.status(point)
        self.assertEqual(status["front"], "fuse")
        self.assertIn("Block device required", status["front_reason"])
        self.assertEqual(readers.wrong_files(point, self.contents), [])

    def test_usage(self):
        self.fails("mount", self.image_reference, "/mnt", "--front", "back",
                   says=("--front", "back", "auto"), code=2)


class SharedLayers(Kernel):
    """Two images with layers in common."""

    def test_files_and_devices_side_by_side(self):
        for image in images.python_images():
            self.sluice("index", self.push(image.layout, image.tag, image.tag))
        self.fill(self.reference("python"))
        point = self.mount(self.reference("related"))
        self.assertEqual(self.devices(point), ["file", "file", "fuse"])
        done = subprocess.run(["chroot", point, "python3", "/opt/extra/hello.py"], check=True,
                              capture_output=True, timeout=120)
        self.assertEqual(done.stdout, b"hello from the related image\n")


class SealedEverything(Kernel, ModelTest):
    """All that tars and layers can say, out of sealed files; sparse ones by the server."""

    def test_kernel_shows_what_the_model_says(self):
        layout, tars = everything_image()
        reference = self.push(layout, "tar", "everything")
        self.sluice("index", reference)
        self.fill(reference)
        point = self.mount(reference)
        self.assertEqual(set(self.devices(point)), {"file"})
        self.assert_is(model.Tree(tars), point)
        self.assertGreater(self.status(point)["bytes_served"], 0)
        self.unmount(point)
