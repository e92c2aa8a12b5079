"""Places to mount on, and what status tells of them."""

import concurrent.futures
import hashlib
import json
import os
import signal
import subprocess

from tools import images, workplace
from tools.testcase import EndToEnd, brokers_under, servers_under, suspend

# What scripts may rely on.
STATUS = {"reference": str, "manifest_digest": str, "index_digest": str, "trust": str,
          "mountpoint": str, "cache": str, "front": str, "front_reason": str, "pid": int,
          "uptime_seconds": int, "layers": list, "chunks_fetched": int, "bytes_fetched": int, "window_bytes_fetched": int,
          "bytes_served": int, "reads_hit": int, "reads_missed": int, "chunks_in_flight": int,
          "reads_waiting": int, "errors": int}
LAYER = {"digest": str, "kind": str, "chunks": int, "chunks_present": int, "bytes_present": int,
         "stream_bytes": int, "blob_bytes": int, "device": str}


class Mounts(EndToEnd):
    """One small image, mounted in many ways."""

    def setUp(self):
        image = images.small()
        self.image_reference = self.push(image.layout, image.tag, "small")
        self.sluice("index", self.image_reference)

    def test_odd_directory_names(self):
        for name in ("with space", "comma,and=equals", "back\\slash", "Größe 世界", "new\nline",
                     "-dash", "n" * 200):
            with self.subTest(name):
                point = self.mount(self.image_reference, name=name)
                self.assertEqual(len(os.listdir(os.path.join(point, "lower"))), 124)
                self.assertEqual(self.status(point)["mountpoint"], point)
                self.unmount(point)

    def test_relative_and_linked_directories(self):
        real = self.make_directory("real")
        link = real + "-link"
        os.symlink(real, link)
        self.addCleanup(self.unmount_if_mounted, real)
        for name in (link, os.path.relpath(real), real + "/", real + "/../" +
                     os.path.basename(real)):
            with self.subTest(name):
                self.sluice("mount", self.image_reference, name, "--cache", self.cache)
                self.assertTrue(os.path.ismount(real))
                self.assertEqual(self.status(name)["mountpoint"], real)
                self.sluice("umount", name)
                self.assertFalse(os.path.ismount(real))

    def test_what_is_below_comes_back(self):
        point = self.make_directory("below")
        with open(os.path.join(point, "mine"), "w", encoding="ascii") as file:
            file.write("mine")
        self.addCleanup(self.unmount_if_mounted, point)
        self.sluice("mount", self.image_reference, point, "--cache", self.cache)
        self.assertNotIn("mine", os.listdir(point))
        self.sluice("umount", point)
        self.assertEqual(os.listdir(point), ["mine"])

    def test_status_of_one_and_of_all(self):
        points = [self.mount(self.image_reference, name=name) for name in ("one", "two")]
        with open(os.path.join(points[0], "lower/text"), "rb") as file:
            file.read()
        told = self.status(points[0])
        for expected, found in ((STATUS, told), (LAYER, told["layers"][0])):
            self.assertEqual({name: type(found.get(name)) for name in expected}, expected)
        self.assertEqual(told["reference"], self.image_reference)
        self.assertGreater(told["bytes_served"], 0)
        self.assertLessEqual(told["layers"][0]["chunks_present"], told["layers"][0]["chunks"])
        everything = json.loads(self.sluice("status", "--json").stdout)
        self.assertLessEqual(set(points), {mount.get("mountpoint") for mount in everything})
        text = self.sluice("status").stdout
        for point in points:
            self.assertIn(point, text)
        for point in points:
            self.unmount(point)
        everything = json.loads(self.sluice("status", "--json").stdout)
        self.assertFalse(set(points) & {mount.get("mountpoint") for mount in everything})

    def test_dead_mounts_are_listed_until_they_are_cleared(self):
        points = [self.mount(self.image_reference, name=name)
                  for name in ("alive", "dead\n\x1b[1m")]
        file_name = hashlib.sha256(points[1].encode()).hexdigest()[:32]
        left = [f"/run/sluice/{file_name}.{kind}" for kind in ("sock", "log")]
        self.assertEqual([os.path.exists(path) for path in left], [True, True])
        (pid, _), = servers_under(points[1])
        os.kill(pid, signal.SIGKILL)
        self.wait_until(lambda: not brokers_under(points[1]), "all of it has ended")
        listed = {mount.get("mountpoint"): mount for mount in
                  json.loads(self.sluice("status", "--json").stdout)}
        self.assertEqual([listed[point]["dead"] for point in points], [False, True])
        self.assertEqual(listed[points[1]]["reference"], self.image_reference)
        text = self.sluice("status").stdout
        self.assertIn("dead\\012\\033[1m", text)
        self.assertNotIn("\x1b", text)
        self.sluice("umount", points[1])
        self.assertNotIn(points[1], self.sluice("status").stdout)
        self.assertEqual([os.path.exists(path) for path in left], [False, False])

    def test_servers_that_do_not_answer(self):
        """They hold up nobody who asks for the status of all."""
        points = [self.mount(self.image_reference, name=name) for name in ("well", "one", "two")]
        stopped = [pid for point in points[1:] for pid, _ in servers_under(point)]
        try:
            for pid in stopped:
                suspend(pid)
            with concurrent.futures.ThreadPoolExecutor() as pool:
                told = pool.submit(self.sluice, "status", "--json")
                text = pool.submit(self.sluice, "status")
                self.fails("status", points[1], says=(points[1], "no answer in time"))
        finally:
            for pid in stopped:
                os.kill(pid, signal.SIGCONT)
        listed = {mount.get("mountpoint"): mount for mount in json.loads(told.result().stdout)}
        self.assertEqual([None, True, True], [listed[point].get("silent") for point in points])
        self.assertEqual([False] * 3, [listed[point]["dead"] for point in points])
        self.assertEqual(self.image_reference, listed[points[1]]["reference"])
        for point in points[1:]:
            self.assertIn(f"{self.image_reference} on {point}\n  silent    its server does not answer",
                          text.result().stdout)

    def test_a_name_that_is_not_utf8(self):
        name = os.fsdecode(b"caf\xe9")
        point = self.mount(self.image_reference, name=name)
        self.assertTrue(self.status(point)["mountpoint"].endswith("caf\u00e9"))

    def test_unmounted_by_somebody_else(self):
        point = self.mount(self.image_reference)
        subprocess.run(["umount", point], check=True)
        self.wait_until(lambda: not servers_under(point), "the server has ended")
        self.fails("status", point, says=(point,))
        again = self.mount(self.image_reference)
        self.assertTrue(os.listdir(again))

    def test_output_that_cannot_be_written(self):
        with open("/dev/full", "wb") as full:
            done = subprocess.run([workplace.SLUICE, "status", "--json"], stdout=full,
                                  stderr=subprocess.PIPE, check=False, env=self.environment)
        self.assertEqual(done.returncode, 1)
        self.assertIn(b"standard output", done.stderr)

    def test_the_server_holds_nothing_of_the_callers(self):
        """A pipe that the caller reads to its end must end when the command does."""
        point = self.make_directory("piped")
        self.addCleanup(self.unmount_if_mounted, point)
        script = f"cd '{self.directory}' && exec '{workplace.SLUICE}' mount " \
                 f"{self.image_reference} '{point}' --cache '{self.cache}'"
        done = subprocess.run(["sh", "-c", script + " | cat"], capture_output=True, timeout=60,
                              check=False, env=self.environment)
        self.assertEqual((done.returncode, done.stderr), (0, b""))
        self.assertTrue(os.path.ismount(point))
