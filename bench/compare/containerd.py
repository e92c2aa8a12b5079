"""containerd with overlayfs: the whole image is pulled and unpacked, then the container starts."""

import os
import subprocess
import time

from compare import workloads
from tools.containerd import configuration


class Daemon:
    """containerd with an empty store, in a group. `prefix`: what runs it elsewhere (chroot), where
    `directory` has the name `inside`."""

    def __init__(self, directory, group, prefix=(), inside=None, more=""):
        inside = inside or directory
        self.prefix = list(prefix)
        self.address = os.path.join(inside, "containerd.sock")
        with open(os.path.join(directory, "config.toml"), "w", encoding="utf-8") as file:
            file.write(configuration(inside, self.address) + more)
        self.log_path = os.path.join(directory, "containerd.log")
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(
                [*self.prefix, "containerd", "--config", os.path.join(inside, "config.toml")],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=group.join)
        self._wait(group)

    def _wait(self, group):
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and self.process.poll() is None:
            if not subprocess.run(self.ctr("version"), stdin=subprocess.DEVNULL, check=False,
                                  capture_output=True, preexec_fn=group.join).returncode:
                return
            time.sleep(0.1)
        with open(self.log_path, encoding="utf-8", errors="replace") as log:
            raise RuntimeError("containerd did not start: " + log.read()[-2000:])

    def ctr(self, *arguments):
        return [*self.prefix, "ctr", "--address", self.address, *arguments]

    def run(self, workload, reference, snapshotter, group, at_first):
        arguments = self.ctr("run", "--rm", "--cgroup", group.container, "--snapshotter",
                             snapshotter, reference, group.name, *workloads.command(workload))
        return workloads.run(workload, arguments, group, at_first)


def wait_for_socket(path, process, log_path):
    """Until a daemon listens, or has ended."""
    deadline = time.monotonic() + 30
    while not os.path.exists(path):
        if time.monotonic() > deadline or process.poll() is not None:
            with open(log_path, encoding="utf-8", errors="replace") as log:
                raise RuntimeError(f"{os.path.basename(log_path)}: {log.read()[-2000:]}")
        time.sleep(0.05)


def succeed(arguments, group, **options):
    done = subprocess.run(arguments, stdin=subprocess.DEVNULL, capture_output=True, check=False,
                          preexec_fn=group.join, **options)
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines() or ["nothing said"]
        raise RuntimeError(f"exit code {done.returncode} of {' '.join(arguments[:8])}: {said[-1]}")


class Containerd:
    name = "containerd, overlayfs"
    program = "containerd"
    snapshotter = "overlayfs"

    def __init__(self, place):
        self.place = place
        self.registry = place.registry
        self.daemon = None

    def prepare(self, _):
        """The image as it is in the registry will do."""

    def begin(self, directory, group):
        self.daemon = Daemon(directory, group)

    def pull(self, workload, port, group):
        self.reference = f"127.0.0.1:{port}/{workload.image}:latest"
        succeed(self.daemon.ctr("images", "pull", "--plain-http", "--snapshotter",
                                self.snapshotter, self.reference), group)

    def execute(self, workload, group, at_first):
        return self.daemon.run(workload, self.reference, self.snapshotter, group, at_first)

    def check(self):
        """Nothing is lazy here."""

    def end(self):
        """The group's end is the daemon's."""
