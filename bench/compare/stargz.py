"""stargz-snapshotter, where somebody has it: Debian has ctr-remote, but not the daemon.

$STARGZ_BIN names the directory of both. It reads converted images only; `profiled` ones have been
optimized for the very command.
"""

import json
import os
import subprocess

from compare import workloads
from compare.containerd import Daemon, succeed, wait_for_socket
from compare.cost import Group
from compare.place import remove
from compare.soci import fuse_mounts
from tools.registry import Client

_PROGRAM = "containerd-stargz-grpc"
_MORE = """
[proxy_plugins.stargz]
type = "snapshot"
address = "{socket}"
"""


def binaries():
    """Their directory, or None."""
    directory = os.environ.get("STARGZ_BIN", "")
    found = all(os.access(os.path.join(directory, name), os.X_OK)
                for name in (_PROGRAM, "ctr-remote"))
    return directory if directory and found else None


class Stargz:
    program = _PROGRAM

    def __init__(self, place, variant):
        self.place = place
        self.registry = place.registry
        self.variant = variant
        self.name = f"stargz-snapshotter, {variant} image"

    def _repository(self, image):
        return f"{image}-stargz-{self.variant}"

    def _images(self, daemon, *arguments):
        return [os.path.join(binaries(), "ctr-remote"), "--address", daemon.address, "images",
                *arguments]

    # ---- the image, made before ----

    def prepare(self, workload):
        client = Client(self.registry.name)
        known = client.manifest(self._repository(workload.image), "latest")
        client.close()
        if known:
            return
        source, made = (f"{self.registry.name}/{repository}:latest"
                        for repository in (workload.image, self._repository(workload.image)))
        directory = self.place.make_directory("stargz-image")
        group = Group()
        try:
            daemon = Daemon(directory, group)
            succeed(daemon.ctr("images", "pull", "--plain-http", source), group)
            if self.variant == "profiled":
                command = workloads.command(workload)
                convert = ("optimize", "--oci", "--entrypoint", json.dumps(command[:1]), "--args",
                           json.dumps(command[1:]))
            else:
                convert = ("convert", "--oci", "--estargz")
            succeed(self._images(daemon, *convert, source, made), group)
            succeed(daemon.ctr("images", "push", "--plain-http", made), group)
        finally:
            group.close()
            remove(directory)

    # ---- a run ----

    def begin(self, directory, group):
        self.directory = directory
        socket = os.path.join(directory, "stargz.sock")
        configuration = os.path.join(directory, "stargz.toml")
        with open(configuration, "w", encoding="ascii"):
            pass  # its defaults: a registry on the loopback is asked over HTTP
        log_path = os.path.join(directory, "stargz.log")
        with open(log_path, "wb") as log:
            daemon = subprocess.Popen(
                [os.path.join(binaries(), _PROGRAM), "--address", socket, "--config", configuration,
                 "--root", os.path.join(directory, "stargz")],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=group.join)
        wait_for_socket(socket, daemon, log_path)
        self.daemon = Daemon(directory, group, more=_MORE.format(socket=socket))

    def pull(self, workload, port, group):
        self.reference = f"127.0.0.1:{port}/{self._repository(workload.image)}:latest"
        succeed(self._images(self.daemon, "rpull", "--plain-http", self.reference), group)

    def execute(self, workload, group, at_first):
        return self.daemon.run(workload, self.reference, "stargz", group, at_first)

    def check(self):
        if not fuse_mounts(self.directory):
            raise RuntimeError("stargz-snapshotter mounted nothing lazily: it made a full pull")

    def end(self):
        """The group's end is the daemons'."""
