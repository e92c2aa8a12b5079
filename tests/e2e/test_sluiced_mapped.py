"""Containers in user namespaces on lazy images: owners are mapped by mounts, and nothing is copied."""

import glob
import os
import signal
import subprocess

from tools import images
from tools.container_images import PROGRAM
from tools.registry import push
from tools.sluiced_node import SluicedNode
from tools.testcase import mounts_under

ROOT = (100000, 200000)  # what users and groups of the pods begin at
PYTHON = "/usr/bin/python3"
WORK = """
import json, os
files = ("/", "/usr/bin/python3", "/etc/shadow", "/root")
print([(os.stat(file).st_uid, os.stat(file).st_gid) for file in files])
open("/root/new", "w").write("x")
os.chown("/etc/passwd", 33, 34)
print(open("/proc/self/uid_map").read().split(), flush=True)
"""


class MappedUsers(SluicedNode):
    """What is lazy is shown by the kernel. (containerd leaves mapping to snapshotters from 2.0 on.)"""

    newer = True
    indexed = (1, 3)
    configuration = '[lazy]\nfill = "off"\n'

    def pod(self, name="pod"):
        return self.cri.run_pod(f"{self._testMethodName}-{name}", mapped=ROOT)

    def mapped(self):
        return mounts_under(os.path.join(self.sluiced.root, "mapped"))

    def check_end(self):
        self.cri.remove_all_pods()
        self.remove_images()
        self.assert_nothing_left()

    def written(self, name):
        """Who has a file that a container wrote, outside of it."""
        (path,) = glob.glob(f"{self.sluiced.root}/snapshots/*/fs/{name}")
        info = os.stat(path)
        return info.st_uid, info.st_gid

    def test_python(self):
        """A real image, of which little comes."""
        image = images.python_images()[0]
        push(image.layout, image.layout.find(image.tag), self.registry.name, "python", "latest")
        reference = self.reference("python")
        self.index(reference)
        self.cri.pull(reference)
        container = self.cri.start(self.pod(), "python", reference, PYTHON, "-c",
                                   "import time; time.sleep(1000)")
        self.assertEqual((0, f"{[(0, 0), (0, 0), (0, 42), (0, 0)]}\n['0', '100000', '65536']\n"),
                         self.cri.execute(container, PYTHON, "-c", WORK))
        self.assertEqual(ROOT, self.written("root/new"))
        self.assertEqual((100033, 200034), self.written("etc/passwd"))
        blobs = sum(layer["size"] for layer in
                    image.layout.json(image.layout.find(image.tag)["digest"])["layers"])
        fetched = self.sluiced_status()["server"]["bytes_fetched"]
        print(f"    {fetched} bytes of {blobs} fetched", flush=True)
        self.assertLess(fetched, blobs / 2)
        self.check_end()

    def test_sluiced_ends_and_starts(self):
        """What runs goes on, and what was made before can be started."""
        reference = self.reference("chain-3")
        self.cri.pull(reference)
        pod = self.pod()
        runs = self.cri.start(pod, "runs", reference, PROGRAM, "pause")
        waits = self.cri.create(pod, "waits", reference, PROGRAM, "pause")
        before = self.mapped()
        self.assertEqual((0, "0:0\n"), self.cri.execute(runs, PROGRAM, "owner", "/"))
        self.sluiced.end(signal.SIGKILL)
        self.assertEqual((0, "0:0\n"), self.cri.execute(runs, PROGRAM, "owner", "/"))
        self.sluiced.start()
        self.wait_until(self.is_reached, "containerd has connected again")
        self.assertEqual(before, self.mapped())
        self.cri.start_created(waits)
        self.assertEqual((0, "0:0\n"), self.cri.execute(waits, PROGRAM, "owner", "/layer-2/07"))
        self.assertEqual((0, "7 of layer 2\n" * 500),
                         self.cri.execute(runs, PROGRAM, "show", "/layer-2/07"))
        self.check_end()

    def test_mounts_have_gone(self):
        """As with the machine: those of containers that are started later are made again."""
        pod = self.pod()
        containers = []
        for number in (1, 2):  # the second one has an ordinary layer above a lazy one
            reference = self.reference(f"chain-{number}")
            self.cri.pull(reference)
            containers.append(self.cri.create(pod, f"waits-{number}", reference, PROGRAM, "pause"))
        self.assertEqual(3, len(self.mapped()))
        self.sluiced.end()
        self.sluiced.end_holder()
        for point in reversed(mounts_under(self.sluiced.root)):
            subprocess.run(["umount", "--lazy", point], check=True)
        self.sluiced.start()
        self.wait_until(self.is_reached, "containerd has connected again")
        for container in containers:
            self.cri.start_created(container)
            for path in ("/etc/top", "/", "/layer-1/07"):
                self.assertEqual((0, "0:0\n"), self.cri.execute(container, PROGRAM, "owner", path))
            self.assertEqual((0, ""), self.cri.execute(container, PROGRAM, "write", "/new", "x"))
        self.check_end()


class MappedUsersFuse(MappedUsers):
    """By FUSE."""

    configuration = MappedUsers.configuration + 'front = "fuse"\n'
