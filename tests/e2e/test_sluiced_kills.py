"""sluiced and its server are killed while containers read, start and go."""

import collections
import os
import random
import signal
import threading
import time

import grpc

from tools import rounds, science_image
from tools.container_images import PROGRAM, TREE, family_sums
from tools.registry import push
from tools.sluiced_node import SluicedNode

_LONG = bool(rounds.SOAK_SECONDS)
_KILLS_LEAST = 200  # of the long form


class Kills(SluicedNode):
    """Two containers read all there is of theirs all the time, and others of a third image come and
    go with it; in the long form also those of a real image, which import torch and compute."""

    configuration = '[lazy]\nfill = "off"\n'
    daemon_dies, usual = False, 10

    @classmethod
    def start_daemons(cls, proxies=None):
        cls.push_family(3)
        if _LONG:
            image = science_image.make()
            push(image.layout, image.layout.find(image.tag), cls.registry.name, image.tag, "latest")
            cls.index(f"{cls.registry.name}/{image.tag}:latest")
        super().start_daemons(proxies)

    def setUp(self):
        super().setUp()
        self.over = threading.Event()
        self.problem = None  # of those that come and go
        self.doing = {}  # which step each of them is at
        self.counts = collections.Counter()

    def forget_pages(self):
        """So that the kernel asks the server again."""
        for point in self.lazy_mounts():
            for directory, _, names in os.walk(point + TREE):
                for name in names:
                    descriptor = os.open(os.path.join(directory, name), os.O_RDONLY)
                    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
                    os.close(descriptor)

    # ---- those that come and go ----

    def come_and_go(self, pod, image, command, is_right):
        try:
            while not self.over.is_set():
                self.one_comes_and_goes(pod, image, command, is_right)
                self.counts[f"containers of {image}"] += 1
        except Exception as problem:  # pylint: disable=broad-except
            self.problem = problem

    def one_comes_and_goes(self, pod, image, command, is_right):
        reference = self.reference(image)

        def step(name, call):
            self.doing[image] = name
            return self.insistently(call)

        def start():  # one that could not be started is not started again, but another one
            self.doing[image] = "create"
            made = self.cri.create(pod, f"{image}-{random.random()}", reference, *command)
            self.doing[image] = "start"
            self.cri.start_created(made)
            return made

        step("pull", lambda: self.cri.pull(reference))
        container = self.insistently(start)
        self.doing[image] = "read"
        self.wait_until(lambda: is_right(container), f"a container of {image} is right",
                        seconds=300)
        step("remove", lambda: self.cri.remove(container))
        step("remove image", lambda: self.cri.remove_image(reference))

    def has_read_its_tree(self, container):
        return self.cri.output(container) == family_sums(2)

    def has_computed(self, container):
        status = self.cri.status(container)
        if status.finished_at == 0:
            return False
        self.assertEqual((0, f"ready\n{science_image.ANSWER}\n"),
                         (status.exit_code, self.cri.output(container)))
        return True

    def passing(self, pod):
        """Threads, not started."""
        what = [("family-2", (PROGRAM, "hold", TREE), self.has_read_its_tree)]
        if _LONG:
            what.append(("science", ("/usr/bin/python3", "-c", science_image.PROGRAM),
                         self.has_computed))
        return [threading.Thread(target=self.come_and_go, args=(pod, *each), daemon=True)
                for each in what]

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

    def kill(self, find):
        self.wait_until(lambda: find() is not None, "there is one to kill")
        try:
            os.kill(find(), signal.SIGKILL)
        except (ProcessLookupError, TypeError):
            pass  # the one before has just been seen to be dead

    def kill_server(self):
        self.kill(self.sluiced.server)

    def aim(self, generator):
        """In the long form often at the beginning of a step."""
        step = generator.choice(("pull", "create", "start", "remove", "remove image"))
        deadline = time.monotonic() + 5
        if not _LONG or generator.random() < 0.5:
            time.sleep(generator.random() * 0.5)
            return
        while self.doing.get("family-2") != step and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(generator.random() * generator.choice((0.005, 0.05)))

    def kill_something(self, generator):
        self.aim(generator)
        for image, step in self.doing.items():
            self.counts[f"{step} of {image}"] += 1
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
        passing = self.passing(pod)
        for thread in passing:
            thread.start()
        kills = 0
        try:
            for _, generator in rounds.of(type(self).__name__, self.usual, _KILLS_LEAST):
                self.kill_something(generator)
                kills += 1
                self.assertIsNone(self.problem)
        finally:
            self.over.set()
            for thread in passing:
                thread.join(200)
        self.assertFalse(any(thread.is_alive() for thread in passing), "nothing hangs")
        self.assertIsNone(self.problem)
        for number, container in watchers.items():
            self.assertTrue(self.cri.output(container).startswith(family_sums(number)))
            status = self.cri.stop(container)
            text = self.cri.output(container)
            self.assertEqual(0, status.exit_code, text)
            self.assertRegex(text.removeprefix(family_sums(number)), r"^\d+ times\n$")
        print(f"    {kills} times killed: {dict(sorted(self.counts.items()))}", flush=True)
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


class KillsOfTheHolder(Kills):
    """The holder, alone or with a server: as long as sluiced lives, nothing is lost."""

    usual = 5

    def kill_something(self, generator):
        self.aim(generator)
        self.kill(self.sluiced.holder)
        time.sleep(generator.choice((0, 0, 0.001, 0.05)))
        if generator.random() < 0.5:
            self.kill_server()
        self.forget_pages()


class KillsNewer(Kills):
    """With containerd 2.x."""

    newer = True
    usual = 4


class KillsOfTheDaemonNewer(KillsOfTheDaemon):
    """With containerd 2.x, sluiced itself, too."""

    newer = True
    usual = 4
