"""containerd with an empty store: what an ordinary pull makes of an image."""

import os
import subprocess
import tempfile
import time

CONFIGURATION = """\
version = 2
root = "{directory}/root"
state = "{directory}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.aufs",
                    "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
                    "io.containerd.snapshotter.v1.zfs"]
[grpc]
address = "{address}"
[plugins."io.containerd.internal.v1.opt"]
path = "{directory}/opt"
"""


class Containerd:
    """Starts at once; stop() ends it."""

    def __init__(self, directory):
        # Names of sockets are short.
        self.sockets = tempfile.TemporaryDirectory(prefix="sluice-containerd-", dir="/tmp")
        self.address = os.path.join(self.sockets.name, "socket")
        configuration = os.path.join(directory, "config.toml")
        with open(configuration, "w", encoding="utf-8") as file:
            file.write(CONFIGURATION.format(directory=directory, address=self.address))
        self.log_path = os.path.join(directory, "log")
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(["containerd", "--config", configuration],
                                            stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            self._wait()
        except BaseException:
            self.stop()
            raise

    def _wait(self):
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and self.process.poll() is None:
            if self._ctr("version", check=False).returncode == 0:
                return
            time.sleep(0.1)
        with open(self.log_path, encoding="utf-8", errors="replace") as log:
            raise RuntimeError("containerd did not start: " + log.read()[-2000:])

    def _ctr(self, *arguments, check=True):
        return subprocess.run(["ctr", "--address", self.address, *arguments], check=check,
                              stdin=subprocess.DEVNULL, capture_output=True, timeout=240)

    def pull(self, reference):
        """Everything is fetched from a loopback registry and unpacked."""
        self._ctr("images", "pull", "--plain-http", "--snapshotter", "overlayfs", reference)

    def mount(self, reference, directory):
        """The image's file tree, read-only."""
        self._ctr("images", "mount", "--snapshotter", "overlayfs", reference, directory)

    def unmount(self, directory):
        self._ctr("images", "unmount", directory)

    def stop(self):
        self.process.kill()
        self.process.wait()
        self.sockets.cleanup()
