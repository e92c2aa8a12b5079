"""Servers, who starts them, and the holder come and go; who reads notices nothing."""

import contextlib
import glob
import os
import shutil
import signal
import subprocess
import threading
import time

from tools import images, readers, rounds, small_disk, workplace
from tools.image_node import ImageNode
from tools.layout import Layout
from tools.testcase import EndToEnd, mounts_under
from tools.workplace import HOLDER


def _make(directory):
    layout = Layout(os.path.join(directory, "layout"))
    for number in (1, 2):
        tar = os.path.join(directory, f"{number}.tar")
        images.write_small_tree(tar, number, "tree", 60)
        images.add(layout, str(number), [tar], ["gzip"], directory)


def states_of(pid):
    """Of its threads: proc_pid_stat(5)."""
    found = []
    for path in glob.glob(f"/proc/{pid}/task/*/stat"):
        with contextlib.suppress(OSError):
            with open(path, encoding="ascii", errors="replace") as file:
                found.append(file.read().rsplit(") ", 1)[1][0])
    return found


def held_by(holder):
    """How many connections and journals."""
    held = 0
    for path in glob.glob(f"/proc/{holder}/fd/*"):
        with contextlib.suppress(OSError):
            held += os.readlink(path).startswith(("/dev/fuse", "/memfd:"))
    return held


class Restart(EndToEnd):
    """Two images, by a front door each where the kernel has both."""

    def setUp(self):
        made = workplace.kept("restart", workplace.source_of(
            "images.py", "layers.py", "layout.py", "../e2e/test_restart.py"), _make)
        layout = Layout(os.path.join(made, "layout"))
        self.references = [self.push(layout, tag, tag) for tag in ("1", "2")]
        for reference in self.references:
            self.sluice("index", reference)
        # A short path: that of a socket has a hundred characters at the most.
        self.holder_directory = os.path.join("/tmp", f"sluice-restart-{os.getpid()}")
        self.addCleanup(shutil.rmtree, self.holder_directory, ignore_errors=True)
        self.socket = os.path.join(self.holder_directory, "holder.sock")
        self.disk = self.make_directory("disk")
        self.addCleanup(small_disk.mount(self.disk, "300m"))
        self.node = None
        self.addCleanup(self.end)
        self.start_node()

    def start_node(self):
        self.node = ImageNode(os.path.join(self.disk, "cache"), self.environment,
                              (self.socket, HOLDER))
        self.assertEqual(self.node.started, {}, self.node.log)

    def end(self):
        for point in self.mounted():
            subprocess.run(["umount", "-l", point], check=False)
        if self.node and self.node.process.poll() is None:
            self.node.stop()
        self.holder("--abort")
        self.wait_until(lambda: not self.holder_processes(), "the holder has ended")

    def holder(self, *arguments):
        return subprocess.run([HOLDER, "--socket", self.socket, *arguments], check=False,
                              stderr=subprocess.DEVNULL, timeout=120)

    def holder_processes(self):
        found = []
        for name in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{name}/cmdline", "rb") as file:
                    if self.socket.encode() in file.read().split(b"\0")[:5] and \
                            os.readlink(f"/proc/{name}/exe") == HOLDER:
                        found.append(int(name))
            except OSError:
                continue
        return found

    def mounted(self):
        return [point for point in mounts_under(self.directory) if not point.startswith(self.disk)]

    def open_both(self):
        self.points = []
        for number, front in enumerate(("auto", "fuse"), 1):
            point = os.path.join(self.directory, f"{self._testMethodName}-{number}")
            answer = self.node.open(number, self.references[number - 1], point, front=front)
            self.assertNotIn("error", answer)
            self.points.append(point)
        self.devices = [os.stat(point).st_dev for point in self.points]
        self.contents = [self.read_all(point) for point in self.points]

    def read_all(self, point):
        contents = {}
        for directory, _, names in os.walk(point):
            for name in names:
                path = os.path.join(directory, name)
                if not os.path.islink(path) and os.path.isfile(path):
                    with open(path, "rb") as file:
                        contents[os.path.relpath(path, point)] = file.read()
        return contents

    def forget_pages(self):
        """So that the kernel asks again."""
        for point, contents in zip(self.points, self.contents):
            for path in contents:
                descriptor = os.open(os.path.join(point, path), os.O_RDONLY)
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
                os.close(descriptor)

    def while_it_is_read(self, disturb):
        """Many readers of both, to whom nothing may happen."""
        reading = [readers.Readers(point, contents, "restart", count=4, allowed=())
                   for point, contents in zip(self.points, self.contents)]
        with reading[0], reading[1]:
            disturb()
            self.wait_until(self.is_served, "all is served")
            before = [each.reads for each in reading]
            self.wait_until(lambda: all(each.reads > count for each, count in
                                        zip(reading, before)), "they read on")
        for each in reading:
            self.assertEqual((each.wrong, each.failures), ([], []))
            print(f"    {each.reads} reads, the slowest {each.slowest * 1000:.0f} ms", flush=True)
        self.assertEqual([os.stat(point).st_dev for point in self.points], self.devices)

    def is_served(self):
        status = self.node.status()
        return status["server"] and all(image["state"] == "open" for image in status["images"])

    def kill_servers(self, what, usual):
        for _, generator in rounds.of(what, usual):
            for _ in range(generator.choice((1, 1, 1, 2))):
                self.kill_server()
            self.forget_pages()
            time.sleep(generator.random() * 0.2)

    def kill_server(self):
        self.wait_until(lambda: self.node.status()["server"], "there is a server")
        try:
            self.node.kill_server()
        except (ProcessLookupError, TypeError):
            pass  # The one before was just being seen to be dead.

    def next_node(self):
        """As after a crash of the daemon."""
        self.node.process.send_signal(signal.SIGKILL)
        self.node.process.wait()
        self.start_node()

    def test_killed_servers(self):
        self.open_both()
        self.while_it_is_read(lambda: self.kill_servers("killed servers", 20))
        self.assertEqual(len(self.mounted()), 2)

    def test_who_starts_them_is_killed(self):
        self.open_both()

        def disturb():
            for _ in range(4):
                self.next_node()
                self.forget_pages()
                self.wait_until(self.is_served, "all is served")
                self.kill_server()
        self.while_it_is_read(disturb)
        # It knows what it has, and how to end it.
        self.node.close(1)
        self.wait_until(lambda: [image["id"] for image in self.node.status()["images"]] == [2],
                        "one has gone")
        self.next_node()
        self.wait_until(self.is_served, "the other is served")
        self.assertEqual([image["id"] for image in self.node.status()["images"]], [2])
        self.assertEqual(self.mounted(), [self.points[1]])

    def test_who_starts_them_is_stopped(self):
        self.open_both()

        def disturb():
            self.node.stop()
            time.sleep(0.2)
            self.start_node()
        self.while_it_is_read(disturb)

    def test_killed_while_the_disk_stalls(self):
        """What waits for the disk goes when that has answered, and so long the next one waits."""
        self.open_both()
        subprocess.run(["fsfreeze", "--freeze", self.disk], check=True)
        thaw = threading.Timer(12, self.thaw)
        try:
            self.node.send_open(3, self.references[0], os.path.join(self.directory, "stalls"))
            server = self.node.server()
            self.wait_until(lambda: "D" in states_of(server), "it waits for the disk")
            self.node.process.send_signal(signal.SIGKILL)
            self.node.process.wait()
            thaw.start()
            self.start_node()
        finally:
            thaw.cancel()
            self.thaw()
        self.wait_until(self.is_served, "all is served")
        self.forget_pages()
        self.assertEqual([self.read_all(point) for point in self.points], self.contents)

    def thaw(self):
        subprocess.run(["fsfreeze", "--unfreeze", self.disk], check=False,
                       stderr=subprocess.DEVNULL)

    def test_another_holder_takes_over(self):
        self.open_both()

        def disturb():
            for _ in range(3):
                before = self.holder_processes()
                self.assertEqual(self.holder("--take-over", "--background").returncode, 0)
                self.wait_until(lambda gone=before: not set(gone) & set(self.holder_processes()),
                                "the one before has ended")
                self.kill_server()
                self.wait_until(self.is_served, "all is served")
                self.next_node()
                self.forget_pages()
        self.while_it_is_read(disturb)

    def test_holder_is_killed(self):
        """Another one is started, and gets everything."""
        self.open_both()

        def disturb():
            before = self.holder_processes()
            held = [held_by(pid) for pid in before]
            for pid in before:
                os.kill(pid, signal.SIGKILL)
            self.wait_until(lambda: [held_by(pid) for pid in self.holder_processes()
                                     if pid not in before] == held, "another has all")
            self.next_node()
            self.forget_pages()
        self.while_it_is_read(disturb)

    def test_closed_image_is_served_on(self):
        """Whoever has a file open of an image that was closed reads on, with every next server."""
        self.open_both()
        kept = [os.open(point, os.O_RDONLY | os.O_DIRECTORY) for point in self.points]
        for number in (1, 2):
            self.node.close(number)
        self.assertEqual(self.mounted(), [])
        for restart in (self.kill_server, self.next_node, self.kill_server):
            restart()
            for descriptor, contents in zip(kept, self.contents):
                for path, content in contents.items():
                    with open(f"/proc/self/fd/{descriptor}/{path}", "rb") as file:
                        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                        self.assertEqual(file.read(), content)
        for descriptor in kept:
            os.close(descriptor)
        self.wait_until(lambda: not self.node.status()["images"], "nobody uses them")
        # Nothing is held of them: told to end, it ends.
        self.node.stop()
        for pid in self.holder_processes():
            os.kill(pid, signal.SIGTERM)
        self.wait_until(lambda: not self.holder_processes(), "the holder has ended")

    def test_all_die(self):
        """Reads of what was mounted fail, and do not wait; opened again, it is mounted anew."""
        self.open_both()
        for pid in self.holder_processes():
            os.kill(pid, signal.SIGKILL)
        self.node.process.send_signal(signal.SIGKILL)
        self.node.process.wait()
        self.wait_until(lambda: self.fails_to_read(self.points[1]), "reads fail")
        self.start_node()
        for number, point in enumerate(self.points, 1):
            self.assertNotIn("error", self.node.open(number, self.references[number - 1], point))
            self.assertEqual(self.read_all(point), self.contents[number - 1])
        self.assertEqual(len(self.mounted()), 2)

    def fails_to_read(self, point):
        try:
            os.stat(os.path.join(point, "none"))
        except FileNotFoundError:
            return False
        except OSError:
            return True
        return False
