"""A registry that takes a request and does not answer: who waits, who does not, and how it ends."""

import os
import signal
import threading
import time

from tools import images, tree
from tools.counting_proxy import CountingProxy
from tools.testcase import EndToEnd, servers_under


READ_TIMEOUT = 20  # seconds


class SlowRegistry(EndToEnd):
    """Blobs are held back at a proxy once the image is mounted."""

    def setUp(self):
        self.cache = os.path.join(self.directory, self._testMethodName + "-cache")
        self.proxy = CountingProxy(self.registry.name)
        self.addCleanup(self.proxy.close)
        self.addCleanup(self.proxy.hold_blobs.set)
        self.image, _ = images.python_images()
        self.push(self.image.layout, self.image.tag, "python")
        reference = f"{self.proxy.name}/python:latest"
        self.sluice("index", reference)
        self.point = self.mount(reference, *self.options())
        # Now this chunk is on the node, and nothing else is.
        self.read("etc/debian_version")
        self.proxy.hold_blobs.clear()

    def options(self):
        """Only where the bound itself is tried: elsewhere reads wait for as long as they must."""
        return ("--read-timeout", str(READ_TIMEOUT)) if "silence" in self._testMethodName else ()

    def read(self, path):
        with open(os.path.join(self.point, path), "rb") as file:
            return file.read()

    def start_readers(self, paths):
        """A thread for each path; {path: content digest or error} fills as they end."""
        results = {}

        def run(path):
            try:
                results[path] = tree.content_digest(os.path.join(self.point, path))
            except OSError as error:
                results[path] = error

        threads = [threading.Thread(target=run, args=(path,), daemon=True) for path in paths]
        for thread in threads:
            thread.start()
        return threads, results

    def large_files(self, count):
        root = images.unpacked(self.image)
        libraries = os.path.join(root, f"usr/lib/{os.uname().machine}-linux-gnu")
        files = [os.path.relpath(entry.path, root) for entry in os.scandir(libraries)
                 if entry.is_file(follow_symlinks=False)]
        return sorted(files, key=lambda path: -os.path.getsize(os.path.join(root, path)))[:count]

    def test_hits_do_not_wait_for_misses(self):
        paths = self.large_files(40)
        threads, results = self.start_readers(paths)
        self.wait_until(lambda: self.status(self.point)["reads_waiting"] >= 20, "misses wait")
        # /etc is one chunk; these have not been read, and are not in the page cache.
        for name in ("etc/passwd", "etc/group", "etc/issue"):
            self.assertTrue(self.read(name))
        self.assertEqual(results, {})
        self.proxy.hold_blobs.set()
        for thread in threads:
            thread.join()
        root = images.unpacked(self.image)
        truth = {path: tree.content_digest(os.path.join(root, path)) for path in paths}
        self.assertEqual(results, truth)

    def test_silence_ends_in_an_error_and_the_mount_stays(self):
        path, = self.large_files(1)
        begun = time.monotonic()
        threads, results = self.start_readers([path])
        threads[0].join(timeout=150)
        # One bound, though the kernel asks twice.
        self.assertLess(time.monotonic() - begun, 1.8 * READ_TIMEOUT)
        self.assertIsInstance(results.get(path), OSError)
        self.assertEqual(results[path].strerror, "Input/output error")
        self.assertTrue(self.read("etc/passwd"))
        self.proxy.hold_blobs.set()
        truth = tree.content_digest(os.path.join(images.unpacked(self.image), path))

        def is_right():
            try:
                return tree.content_digest(os.path.join(self.point, path)) == truth
            except OSError:
                return False  # what failed is remembered for a moment
        self.wait_until(is_right, "it can be read")

    def test_server_ends_while_reads_wait(self):
        threads, results = self.start_readers(self.large_files(5))
        self.wait_until(lambda: self.status(self.point)["reads_waiting"] >= 3, "misses wait")
        (pid, _), = servers_under(self.point)
        os.kill(pid, signal.SIGTERM)
        self.wait_until(lambda: not servers_under(self.point), "the server has ended")
        for thread in threads:
            thread.join(timeout=60)
        self.assertEqual(len(results), 5)
        for path, result in results.items():
            self.assertIsInstance(result, OSError, path)
        self.assertFalse(os.path.ismount(self.point))
