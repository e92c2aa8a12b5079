"""sluiced and its server are killed while containers read, start and go."""

import os
import random
import signal
import threading
import time

import grpc

from tools import rounds
from tools.container_images import PROGRAM, TREE, family_sums
from tools.sluiced_node import SluicedNode


class Kills(SluicedNode):
    """Two containers read all there is of theirs all the time, and others of a third image come and
    go with it."""

    configuration = '[lazy]\nfill = "off"\n'
    daemon_dies, usual = False, 10

    @classmethod
    def start_daemons(cls, proxies=None):
        cls.push_family(3)
        super().start_daemons(proxies)

    def setUp(self):
        super().setUp()
        self.over = threading.Event()
        self.problem = None  # of those that come and go
        self.counts = {"containers": 0, "calls again": 0}

    def forget_pages(self):
        """So that the kernel asks the server again."""
        for point in self.lazy_mounts():
            for directory, _, names in os.walk(point):
                for name in names:
                    descriptor = os.open(os.path.join(directory, name), os.O_RDONLY)
                    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
                    os.close(descriptor)

    # ---- those that come and go ----

    def come_and_go(self, pod):
        try:
            while not self.over.is_set():
                self.one_comes_and_goes(pod, self.counts["containers"])
                self.counts["containers"] += 1
        except Exception as problem:  # pylint: disable=broad-except
            self.problem = problem

    def one_comes_and_goes(self, pod, number):
        reference = self.reference("family-2")
        self.insistently(lambda: self.cri.pull(reference))
        container = self.insistently(lambda: self.cri.create(
            pod, f"passes-{number}-{random.random()}", reference, PROGRAM, "hold", TREE))
        self.insistently(lambda: self.cri.start_created(container))
        self.wait_until(lambda: self.cri.output(container) == family_sums(2),
                        "all was read and is right", seconds=90)
        self.insistently(lambda: self.cri.remove(container))
        self.insistently(lambda: self.cri.remove_image(reference))

    def insistently(self, call):
        """As kubelet: what fails while sluiced is away is tried again."""
        deadline = time.monotonic() + 60
        while True:
            try:
                return call()
            except grpc.RpcError:
                if not self.daemon_dies or time.monotonic() > deadline:
                    raise
                self.counts["calls again"] += 1
                time.sleep(0.2)

    # ---- those who kill ----

    def kill_server(self):
        self.wait_until(lambda: self.sluiced.server() is not None, "there is a server")
        try:
            os.kill(self.sluiced.server(), signal.SIGKILL)
        except (ProcessLookupError, TypeError):
            pass  # the one before has just been seen to be dead

    def kill_something(self, generator):
        time.sleep(generator.random() * 0.5)
        if self.daemon_dies and generator.random() < 0.5:
            self.sluiced.end(generator.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGTERM)))
            time.sleep(generator.choice((0, 0.2)))
            self.sluiced.start()
            return
        for _ in range(generator.choice((1, 1, 2))):
            self.kill_server()
        self.forget_pages()

    def test_kills(self):
        pod = self.pod()
        watchers = {}
        for number in (0, 1):
            reference = self.reference(f"family-{number}")
            self.cri.pull(reference)
            watchers[number] = self.cri.start(pod, f"watches-{number}", reference, PROGRAM,
                                              "watch", TREE)
        passing = threading.Thread(target=self.come_and_go, args=(pod,), daemon=True)
        passing.start()
        kills = 0
        try:
            for _, generator in rounds.of(type(self).__name__, self.usual):
                self.kill_something(generator)
                kills += 1
                self.assertIsNone(self.problem)
        finally:
            self.over.set()
            passing.join(200)
        self.assertFalse(passing.is_alive(), "nothing hangs")
        self.assertIsNone(self.problem)
        for number, container in watchers.items():
            self.assertTrue(self.cri.output(container).startswith(family_sums(number)))
            status = self.cri.stop(container)
            text = self.cri.output(container)
            self.assertEqual(0, status.exit_code, text)
            self.assertRegex(text.removeprefix(family_sums(number)), r"^\d+ times\n$")
        print(f"    {kills} times killed, {self.counts}", flush=True)
        self.wait_until(self.is_reached, "containerd has connected again")
        self.cri.remove_pod(pod)
        self.remove_images()
        self.assert_nothing_left()


class KillsFuse(Kills):
    """By the other front door."""

    configuration = Kills.configuration + 'front = "fuse"\n'
    usual = 5


class KillsOfTheDaemon(Kills):
    """sluiced itself, too."""

    daemon_dies = True


class KillsNewer(Kills):
    """With containerd 2.x."""

    newer = True
    usual = 4


class KillsOfTheDaemonNewer(KillsOfTheDaemon):
    """With containerd 2.x, sluiced itself, too."""

    newer = True
    usual = 4
