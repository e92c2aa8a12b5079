"""Many readers, several mounts, and servers that die."""

import concurrent.futures
import os
import signal
import subprocess

from tools.small_image import SmallImage
from tools.testcase import servers_under


class Concurrent(SmallImage):
    """All read the same small image and compare it with the truth."""

    def assert_many_readers_agree(self, points, readers=24):
        with concurrent.futures.ThreadPoolExecutor(readers) as pool:
            answers = pool.map(lambda seed: self.wrong_files(points[seed % len(points)], seed),
                               range(readers))
            self.assertEqual([wrong for wrong in answers if wrong], [])

    def test_many_readers(self):
        point = self.mount(self.image_reference)
        self.assert_many_readers_agree([point])
        status = self.status(point)
        chunks = sum(layer["chunks"] for layer in status["layers"])
        # One fetch per chunk, however many wait for it.
        self.assertLessEqual(status["chunks_fetched"], chunks)
        self.assertEqual((status["chunks_in_flight"], status["reads_waiting"]), (0, 0))

    def test_two_mounts_share_a_cache(self):
        points = [self.mount(self.image_reference, name=name) for name in ("one", "two")]
        self.assert_many_readers_agree(points)
        self.unmount(points[0])
        self.assertEqual(self.wrong_files(points[1], 5), [])

    def test_killed_server_leaves_a_usable_cache(self):
        point = self.mount(self.image_reference)
        reader = subprocess.Popen(["find", point, "-type", "f", "-exec", "cat", "{}", "+"],
                                  stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.addCleanup(reader.wait)
        self.addCleanup(reader.kill)
        self.wait_until(lambda: self.status(point)["bytes_served"] > 0, "something was read")
        (pid, _), = servers_under(point)
        os.kill(pid, signal.SIGKILL)
        reader.wait(timeout=60)
        self.wait_until(lambda: not servers_under(point), "the server is gone")
        # The dead mount answers errors, not silence, and can be taken away.
        with self.assertRaises(OSError):
            for path in self.truth:
                with open(os.path.join(point, path), "rb", buffering=0) as file:
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                    file.readall()
        self.sluice("umount", point)
        self.assertNotIn(point, open("/proc/self/mountinfo", encoding="utf-8").read())
        again = self.mount(self.image_reference, name="again")
        self.assertEqual(self.wrong_files(again, 1), [])

    def test_damaged_cache_heals(self):
        point = self.mount(self.image_reference)
        self.assertEqual(self.wrong_files(point, 1), [])
        self.unmount(point)
        damaged = 0
        for directory, _, names in os.walk(self.cache):
            for name in names:
                path = os.path.join(directory, name)
                size = os.path.getsize(path)
                with open(path, "r+b") as file:
                    for offset in range(size // 2, size, 200_000):
                        file.seek(offset)
                        file.write(b"\xa5damage\x5a"[:size - offset])
                        damaged += 1
        self.assertGreater(damaged, 10)
        point = self.mount(self.image_reference, name="again")
        self.assertEqual(self.wrong_files(point, 2), [])

    def test_full_disk_serves_without_keeping(self):
        os.mkdir(self.cache, 0o700)
        for size in ("64k", "1m"):
            with self.subTest(size):
                subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "tmpfs",
                                self.cache], check=True)
                try:
                    point = self.mount(self.image_reference, name=size)
                    self.assertEqual(self.wrong_files(point, 1), [])
                    self.assertEqual(self.status(point)["errors"], 0)
                    self.unmount(point)
                finally:
                    subprocess.run(["umount", "-l", self.cache], check=True)

    def test_umount_while_reads_are_under_way(self):
        point = self.mount(self.image_reference)
        with open(os.path.join(point, "lower/text"), "rb") as file:
            self.fails("umount", point, says=("busy",))
            self.sluice("umount", point, "--lazy")
            self.assertFalse(os.path.ismount(point))
            self.assertEqual(len(file.read()), 5 << 20)
        self.wait_until(lambda: not servers_under(point), "the server has ended")
