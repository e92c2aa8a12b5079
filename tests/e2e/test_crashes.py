"""What a server leaves behind when it dies, and what a power loss leaves of its disk."""

import errno
import os
import shutil
import signal
import subprocess

from tools import images, readers, rounds
from tools.testcase import EndToEnd, servers_under

DEAD = (errno.EIO, errno.ENOTCONN, errno.ECONNABORTED)


def tear(directory, generator):
    """Writes that did not come to the disk, or as something else."""
    for parent, _, names in os.walk(directory):
        for name in sorted(names):
            path = os.path.join(parent, name)
            size = os.path.getsize(path)
            with open(path, "r+b") as file:
                for _ in range(generator.choice((0, 0, 1, 5))):
                    offset = generator.randrange(max(1, size)) // 512 * 512
                    length = min(generator.choice((512, 4096, 100_000)), size - offset)
                    file.seek(offset)
                    file.write(generator.choice((bytes, generator.randbytes))(length))
                if generator.random() < 0.1:
                    file.truncate(generator.randrange(size + 1))


class Crashes(EndToEnd):
    """Each round begins with an empty cache, and ends with a mount that must be right."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.image, cls.contents = images.for_reading()

    def setUp(self):
        self.image_reference = self.push(self.image.layout, self.image.tag, "reading")
        self.sluice("index", self.image_reference)

    def mount_cache(self, cache, number, generator=None):
        """With room for all or, at random, not."""
        small = generator and generator.random() < 0.5
        return self.mount(self.image_reference, *(("--cache-size", "32M") if small else ()),
                          cache=cache, name=f"mnt-{number}")

    def assert_right(self, cache, number):
        point = self.mount_cache(cache, number)
        self.assertEqual(readers.wrong_files(point, self.contents), [])
        self.unmount(point)
        shutil.rmtree(cache)

    def test_killed_at_any_moment(self):
        for number, generator in rounds.of(self._testMethodName, 8):
            cache = self.make_directory(f"cache-{number}")
            for life in range(generator.choice((1, 1, 3))):
                point = self.mount_cache(cache, f"{number}-{life}", generator)
                with readers.Readers(point, self.contents, generator.random(),
                                     allowed=DEAD) as running:
                    running.until(generator.uniform(0, 0.6))
                    (pid, _), = servers_under(point)
                    os.kill(pid, signal.SIGKILL)
                self.assertEqual(running.wrong, [])
                self.unmount(point)
            self.assert_right(cache, number)

    def test_copies_taken_at_any_moment(self):
        """As a power loss leaves them; and torn, as a worse disk would."""
        for number, generator in rounds.of(self._testMethodName, 4):
            cache = self.make_directory(f"cache-{number}")
            point = self.mount_cache(cache, number, generator)
            copies = []
            with readers.Readers(point, self.contents, generator.random()) as running:
                for copy in range(3):
                    running.until(generator.uniform(0, 0.3))
                    copies.append(f"{cache}-copy-{copy}")
                    # Files come and go meanwhile.
                    subprocess.run(["cp", "-a", cache, copies[-1]], check=False,
                                   stderr=subprocess.DEVNULL)
            self.assertEqual((running.wrong, running.failures), ([], []))
            self.unmount(point)
            for copy, path in enumerate(copies):
                if copy:
                    tear(path, generator)
                self.assert_right(path, f"{number}-{copy}")
            self.assert_right(cache, f"{number}-whole")
