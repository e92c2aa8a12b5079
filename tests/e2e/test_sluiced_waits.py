"""Calls and reads that wait for a registry or a server which does not answer: the others are
answered, and sluiced can be stopped, or killed."""

import concurrent.futures
import contextlib
import os
import signal
import socket
import subprocess
import threading

import grpc

from tools import small_disk
from tools.container_images import PROGRAM, TREE
from tools.services import connect
from tools.sluiced import Sluiced
from tools.sluiced_node import SluicedNode
from tools.snapshots import Mounted, service_at
from tools.testcase import EndToEnd, suspend

_CRI = "containerd.io/snapshot/cri."


class SilentRegistry:
    """Accepts, and says nothing."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=1000)
        self.name = "127.0.0.1:%d" % self.listener.getsockname()[1]
        self.connections = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                self.connections.append(self.listener.accept()[0])

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for connection in self.connections:
            connection.close()


class Silence(EndToEnd):
    budget = "60s"

    def setUp(self):
        super().setUp()
        self.silent = SilentRegistry()
        self.addCleanup(self.silent.close)
        directory = os.path.join(self.directory, self._testMethodName)
        os.mkdir(directory)
        self.sluiced = Sluiced(directory, more=f'[lazy]\nbudget = "{self.budget}"\n',
                               environment=self.environment)
        self.addCleanup(self.sluiced.stop)
        channel = connect(self.sluiced.address)
        self.addCleanup(channel.close)
        self.service = service_at(channel)

    def prepare(self, number):
        """The status of a call for the first layer of an image of its own."""
        digest = f"sha256:{number:064}"
        try:
            self.service.call("Prepare", key=f"layer-{number}", labels={
                "containerd.io/snapshot.ref": digest,
                _CRI + "image-ref": f"{self.silent.name}/image-{number}:latest",
                _CRI + "manifest-digest": digest, _CRI + "layer-digest": digest})
            return grpc.StatusCode.OK
        except grpc.RpcError as error:
            return error.code()

    def wait_for_connections(self):
        self.wait_until(lambda: self.silent.connections, "the registry was asked")


class Waits(Silence):
    def test_others_are_answered(self):
        """As many as a node has of pulls at once do not keep a container from its start."""
        with concurrent.futures.ThreadPoolExecutor(200) as pool:
            waiting = [pool.submit(self.prepare, number) for number in range(200)]
            self.wait_for_connections()
            self.service.call("Prepare", key="container", deadline=30)
            self.service.call("Mounts", key="container", deadline=30)
            self.assertFalse(any(call.done() for call in waiting))
            self.sluiced.stop()
            self.assertEqual({grpc.StatusCode.UNAVAILABLE}, {call.result() for call in waiting})

    def check_stop(self, silence=lambda: None):
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(self.prepare, 1)
            self.wait_for_connections()
            silence()
            self.sluiced.process.send_signal(signal.SIGTERM)
            self.assertEqual(0, self.sluiced.process.wait(30))  # a decision has a minute
            # Not that the image is an ordinary one.
            self.assertEqual(grpc.StatusCode.UNAVAILABLE, waiting.result())

    def test_stop(self):
        self.check_stop()

    def test_stop_with_a_server_that_hangs(self):
        self.check_stop(lambda: suspend(self.sluiced.server()))


class Budget(Silence):
    budget = "1s"

    def test_budget_is_over(self):
        """The image is an ordinary one, and that is told."""
        self.assertEqual(grpc.StatusCode.OK, self.prepare(1))
        self.assertIn("no decision within 1000 ms", self.sluiced.log())
        self.service.call("Mounts", key="layer-1")


class Reads(SluicedNode):
    """sluiced reads from its own mounts, too."""

    configuration = '[lazy]\nfront = "fuse"\nfill = "off"\n[server]\nwatchdog = "0s"\n'

    @classmethod
    def start_daemons(cls, proxies=None):
        cls.push_family(1)
        super().start_daemons(proxies)

    def test_stop_while_the_server_dies(self):
        """The next server answers what a call of containerd has asked of the last one."""
        reference = self.reference("family-0")
        self.cri.pull(reference)
        pod = self.pod()
        server = self.sluiced.server()
        suspend(server)
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(self.cri.create, pod, "waits", reference, PROGRAM, "pause")
            self.wait_until(self.sluiced_waits, "sluiced reads from its mount")
            self.sluiced.process.send_signal(signal.SIGTERM)
            self.wait_until(lambda: "ending" in self.sluiced.log(), "it is about to end")
            os.kill(server, signal.SIGKILL)
            self.assertEqual(0, self.sluiced.process.wait(30))
            self.sluiced.start()
            waiting.exception()  # it was made, or the next call makes it
        self.wait_until(self.is_reached, "containerd has connected again")
        container = self.cri.start(pod, "later", reference, PROGRAM, "pause")
        self.cri.remove(container)
        self.cri.remove_pod(pod)
        self.remove_images()
        self.assert_nothing_left()

    def sluiced_waits(self):
        return any("fuse_" in stack_of(task)
                   for task in os.listdir(f"/proc/{self.sluiced.process.pid}/task"))


class CopyUps(SluicedNode):
    """While overlayfs copies a directory of an image up it asks the image's server for attributes,
    and the kernel makes whoever renames between directories of that disk wait: a disk of its own
    here, for the sake of others."""

    configuration = '[lazy]\nfront = "fuse"\nfill = "off"\n[server]\nwatchdog = "0s"\n'

    @classmethod
    def start_daemons(cls, proxies=None):
        cls.push_family(1)
        root = os.path.join(cls.directory, "sluiced", "root")
        os.makedirs(root)
        cls.addClassCleanup(small_disk.mount(root, "20m"))
        super().start_daemons(proxies)

    def prepare_container(self, service):
        """The mounts of a snapshot on the image that was pulled."""
        infos = [info for answer in service.call("List") for info in answer.info]
        parent, = {info.name for info in infos} - {info.parent for info in infos}
        return service.call("Prepare", key="container", parent=parent).mounts

    def give_up(self, change):
        """Nothing else ends it, nor whoever waits for it."""
        if change.poll() is None:
            for point in self.lazy_mounts():
                subprocess.run(["umount", "-f", point], check=False)

    def test_killed_while_one_waits(self):
        self.cri.pull(self.reference("family-0"))
        channel = connect(self.sluiced.address)
        self.addCleanup(channel.close)
        service = service_at(channel)
        with Mounted(self.prepare_container(service), self.make_directory("tree")) as tree:
            directory = tree + TREE
            os.stat(directory)
            server = self.sluiced.server()
            suspend(server)
            change = subprocess.Popen(["chmod", "0700", directory])
            self.addCleanup(self.give_up, change)
            self.wait_until(lambda: "ovl_copy_up" in stack_of(change.pid), "it is copied up")
            service.call("Prepare", key="other", deadline=60)
            service.call("Remove", key="other", deadline=60)
            os.kill(server, signal.SIGKILL)
            self.sluiced.end(signal.SIGKILL)
            self.assertIsNone(change.poll())
            self.sluiced.start()
            self.assertEqual(0, change.wait(60))
            self.assertEqual(0o700, os.stat(directory).st_mode & 0o777)
        self.wait_until(self.is_reached, "containerd has connected again")
        with contextlib.closing(connect(self.sluiced.address)) as channel:
            try:
                service_at(channel).call("Remove", key="container")
            except grpc.RpcError as error:
                # containerd, which has not asked for it, may have collected it already.
                self.assertEqual(grpc.StatusCode.NOT_FOUND, error.code())
        self.remove_images()
        self.assert_nothing_left()


def stack_of(task):
    with open(f"/proc/{task}/stack", encoding="ascii") as file:
        return file.read()
