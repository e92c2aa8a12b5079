"""What a node fetches, counted at the registry's side."""

import os
import signal
import subprocess
import threading
import time

from tools import images
from tools.counting_proxy import CountingProxy
from tools.testcase import EndToEnd, servers_under

# A read costs a chunk (4 MiB decoded at most) and, in a gzip layer, a group of windows.
ONE_CHUNK = 4 << 20
PROGRAM = "import json; print(json.dumps({'answer': 6 * 7}))"


class Bytes(EndToEnd):
    """The command sees a counting proxy instead of the registry."""

    def setUp(self):
        self.proxy = CountingProxy(self.registry.name)
        self.addCleanup(self.proxy.close)
        self.cache = os.path.join(self.directory, self._testMethodName + "-cache")

    def push_indexed(self, image, repository):
        """Pushes past the proxy, indexes through it; returns the reference through the proxy."""
        self.push(image.layout, image.tag, repository)
        reference = f"{self.proxy.name}/{repository}:latest"
        self.sluice("index", reference)
        self.proxy.forget()
        return reference

    def layers_of(self, image):
        manifest = image.layout.json(image.layout.find(image.tag)["digest"])
        return [layer["digest"] for layer in manifest["layers"]]

    def layer_bytes(self, image):
        return sum(self.proxy.blob_bytes(layer) for layer in self.layers_of(image))

    def run_python(self, point, program=PROGRAM):
        done = subprocess.run(["chroot", point, "/usr/bin/python3", "-c", program],
                              capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def test_mount_fetches_no_layer(self):
        image, _ = images.python_images()
        self.mount(self.push_indexed(image, "python"))
        self.assertEqual(self.layer_bytes(image), 0)
        self.assertLess(self.proxy.blob_bytes(), 2 << 20)

    def test_small_read_costs_a_chunk(self):
        image, _ = images.python_images()
        point = self.mount(self.push_indexed(image, "python"))
        with open(os.path.join(point, "etc/debian_version"), encoding="ascii") as file:
            self.assertRegex(file.read(), r"^\d+\.\d+\n$")
        fetched = self.layer_bytes(image)
        self.assertGreater(fetched, 0)
        self.assertLess(fetched, ONE_CHUNK)
        self.assertEqual(self.status(point)["bytes_fetched"], fetched)

    def test_program_leaves_most_of_the_image_unfetched(self):
        image, _ = images.python_images()
        point = self.mount(self.push_indexed(image, "python"))
        self.assertEqual(self.run_python(point), '{"answer": 42}\n')
        whole = sum(os.path.getsize(image.layout.blob_path(layer))
                    for layer in self.layers_of(image))
        self.assertLess(self.layer_bytes(image), whole / 2)

    def test_second_mount_fetches_nothing_again(self):
        image, _ = images.python_images()
        reference = self.push_indexed(image, "python")
        point = self.mount(reference)
        self.run_python(point)
        self.unmount(point)
        self.proxy.forget()
        point = self.mount(reference, name="again")
        self.run_python(point)
        self.assertEqual(self.proxy.blob_requests(), [])
        self.assertEqual(self.status(point)["bytes_fetched"], 0)

    def test_related_image_fetches_only_what_is_new(self):
        python, related = images.python_images()
        reference = self.push_indexed(python, "python")
        related_reference = self.push_indexed(related, "related")
        point = self.mount(reference)
        self.run_python(point)
        self.proxy.forget()
        point = self.mount(related_reference, name="related")
        self.run_python(point)
        shared, new = self.layers_of(python), self.layers_of(related)[-1]
        self.assertNotIn(new, shared)
        self.assertEqual([self.proxy.blob_bytes(layer) for layer in shared], [0, 0])
        # All that may come is the related image's own metadata and tables.
        self.assertEqual(self.proxy.blob_bytes(new), 0)
        with open(os.path.join(point, "opt/extra/data"), "rb") as file:
            self.assertEqual(len(file.read()), 2_000_000)
        self.assertGreater(self.proxy.blob_bytes(new), 1_900_000)
        self.assertEqual([self.proxy.blob_bytes(layer) for layer in shared], [0, 0])

    def test_each_byte_comes_once(self):
        """Reading everything twice fetches no blob byte twice."""
        image = images.small()
        point = self.mount(self.push_indexed(image, "small"))
        for _ in range(2):
            subprocess.run(["find", point, "-type", "f", "-exec", "cat", "{}", "+"], check=True,
                           stdout=subprocess.DEVNULL)
        self.assertGreater(self.layer_bytes(image), 1 << 20)
        for layer in self.layers_of(image):
            length = os.path.getsize(image.layout.blob_path(layer))
            # Neighbouring chunks of one deflate stream share a byte, where a block ends in it.
            requests = len(self.proxy.blob_requests(layer))
            self.assertLessEqual(self.proxy.blob_bytes(layer), length + 64 * requests)


class RegistryGone(EndToEnd):
    """A node needs no registry for what it has."""

    def setUp(self):
        self.cache = os.path.join(self.directory, self._testMethodName + "-cache")
        self.image, _ = images.python_images()
        self.image_reference = self.push(self.image.layout, self.image.tag, "python")
        self.sluice("index", self.image_reference)
        self.addCleanup(self.start_registry)

    def start_registry(self):
        if not self.registry.process:
            self.registry.start()

    def read(self, point, path):
        with open(os.path.join(point, path), "rb") as file:
            return file.read()

    def test_cached_image_mounts_by_tag_and_says_so(self):
        point = self.mount(self.image_reference)
        version = self.read(point, "etc/debian_version")
        self.unmount(point)
        self.registry.stop()
        point = self.mount(self.image_reference, name="offline")
        said = self.mount_output.stderr.strip().splitlines()
        self.assertEqual(len(said), 1, said)
        self.assertIn(self.registry.name, said[0])
        self.assertIn("last meant", said[0])
        self.assertEqual(self.read(point, "etc/debian_version"), version)

    def start_reading(self, point, path):
        """(thread, list that gets the bytes or the error)"""
        result = []

        def run():
            try:
                result.append(self.read(point, path))
            except OSError as error:
                result.append(error)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        self.wait_until(lambda: self.status(point)["reads_waiting"] > 0, "a read waits")
        return thread, result

    def test_registry_that_restarts_is_waited_for(self):
        point = self.mount(self.image_reference)
        self.read(point, "etc/debian_version")
        self.registry.stop()
        thread, result = self.start_reading(point, "usr/bin/perl")
        time.sleep(4)  # longer than the attempts that are worth making for a mount
        self.assertEqual(result, [])
        self.registry.start()
        thread.join(timeout=120)
        self.assertEqual(len(result[0]), os.path.getsize(
            os.path.join(images.unpacked(self.image), "usr/bin/perl")))
        self.assertEqual(self.status(point)["errors"], 0)

    def test_server_ends_while_it_waits_for_the_registry(self):
        point = self.mount(self.image_reference, "--read-timeout", "110")
        self.registry.stop()
        thread, result = self.start_reading(point, "usr/bin/perl")
        (pid, _), = servers_under(point)
        os.kill(pid, signal.SIGTERM)
        self.wait_until(lambda: not servers_under(point), "the server has ended")
        thread.join(timeout=120)
        self.assertIsInstance(result[0], OSError)
        self.assertFalse(os.path.ismount(point))

    def test_uncached_read_fails_and_the_mount_stays(self):
        point = self.mount(self.image_reference, "--read-timeout", "3")
        version = self.read(point, "etc/debian_version")
        self.registry.stop()
        # perl-base is far from /etc in the layer, and nothing has read it.
        with self.assertRaises(OSError) as caught:
            self.read(point, "usr/bin/perl")
        self.assertEqual(caught.exception.strerror, "Input/output error")
        self.assertEqual(self.read(point, "etc/debian_version"), version)
        self.assertEqual(len(servers_under(point)), 1)
        status = self.status(point)
        self.assertGreater(status["errors"], 0)
        self.assertIn(self.registry.name, status["last_error"])
        self.assertIn("connection refused", status["last_error"])
        self.registry.start()

        def can_be_read():
            try:
                return len(self.read(point, "usr/bin/perl")) > 1_000_000
            except OSError:
                return False

        self.wait_until(can_be_read, "reads work again")

    def test_unknown_image_says_that_the_registry_is_gone(self):
        self.registry.stop()
        point = self.make_directory("mnt")
        self.fails("mount", self.reference("never-seen"), point, "--cache", self.cache,
                   says=(self.registry.name, "refused"))
