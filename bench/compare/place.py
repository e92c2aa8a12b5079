"""The registry of the benchmark, the links to it, and its images."""

import contextlib
import http.client
import os
import shutil
import subprocess
import tempfile

from compare import images
from compare.link import Link
from measure import note
from tools import workplace
from tools.certificates import Authority
from tools.registry import Registry, push
from tools.testcase import mounts_under

NAME = "registry.bench"  # by which containerd and soci know it: not a name of the loopback


class Place:
    """A directory of this run; the registry's storage is kept beside the images."""

    def __init__(self, speed, names):
        self.speed = speed
        self.layout = images.make(names)
        self.directory = workplace.fresh_directory("bench-peers")
        storage = os.path.join(images.directory(), "registry")
        self.registry = Registry(self.make_directory("registry"), storage=storage, syncs=True)
        self.stack = contextlib.ExitStack()
        self.stack.callback(shutil.rmtree, self.directory, ignore_errors=True)
        self.stack.callback(self.registry.stop)
        for name in names:
            note(f"pushing {name}")
            push(self.layout, self.layout.find(name), self.registry.name, name, "latest")

    def close(self):
        self.stack.close()

    def make_directory(self, name):
        return tempfile.mkdtemp(prefix=name + "-", dir=self.directory)

    def copy(self, name, repository):
        """The same image under another name, whose index may say something else."""
        manifest = self.layout.json(self.layout.find(name)["digest"])
        connection = http.client.HTTPConnection(self.registry.name, timeout=60)
        with contextlib.closing(connection):
            for blob in [manifest["config"], *manifest["layers"]]:
                connection.request("POST", f"/v2/{repository}/blobs/uploads/?mount="
                                   f"{blob['digest']}&from={name}", headers={"Content-Length": "0"})
                connection.getresponse().read()
        push(self.layout, self.layout.find(name), self.registry.name, repository, "latest")

    def secure_registry(self):
        """The same storage behind TLS; (registry, certificate of its authority)."""
        authority = Authority(self.make_directory("tls"), names=[NAME])
        certificate, key = authority.issue("registry")
        registry = Registry(self.make_directory("secure"), storage=self.registry.storage,
                            tls=(certificate, key), syncs=True)
        self.stack.callback(registry.stop)
        return registry, authority.certificate

    def link(self, registry=None):
        """A link of its own for each run, so that its counters are the run's."""
        return contextlib.closing(Link((registry or self.registry).port, self.speed))

    @staticmethod
    def requests(registry):
        """How many the registry has answered."""
        with open(registry.log_path, "rb") as log:
            return sum(b'msg="response completed' in line for line in log)



def remove(directory):
    """With whatever is still mounted below."""
    for point in mounts_under(directory):
        subprocess.run(["umount", "-l", point], check=False)
    if not mounts_under(directory):
        shutil.rmtree(directory)
