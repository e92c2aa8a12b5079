"""Podman with a storage of its own, and with or without an additional layer store."""

import contextlib
import glob
import json
import os
import shutil
import subprocess
import tempfile

from tools import workplace

# The file that nodes get, and what of it is of another place here.
_STORAGE = os.path.join(workplace.PROJECT, "packaging", "containers", "storage.conf")
_STORE = '"/var/lib/sluice/layers:ref"'
_ENGINE = """\
[engine]
tmp_dir = "{short}/tmp"
cgroup_manager = "cgroupfs"
events_logger = "none"
runtime = "runc"
[network]
network_config_dir = "{directory}/networks"
"""
# Where tests run there may be no bridge and no right to raise limits.
_AS_ALLOWED_HERE = ("--network=host", "--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024")


class Podman:
    """`layer_store`: the directory of one, or None."""

    def __init__(self, directory, environment, layer_store=None):
        self.directory = directory
        # Names of sockets are short; else Podman waits 20 seconds for each container's end.
        self.short = tempfile.mkdtemp(prefix="sluice-podman-", dir="/tmp")
        with open(_STORAGE, encoding="utf-8") as file:
            storage = file.read()
        for place, here in (("/run/containers/storage", f"{self.short}/run"),
                            ("/var/lib/containers/storage", f"{directory}/storage"),
                            (_STORE, f'"{layer_store}:ref"' if layer_store else "")):
            assert place in storage, place
            storage = storage.replace(place, here)
        engine = _ENGINE.format(directory=directory, short=self.short)
        for name, text in (("storage.conf", storage), ("containers.conf", engine)):
            with open(os.path.join(directory, name), "w", encoding="utf-8") as file:
                file.write(text)
        self.environment = {**environment,
                            "CONTAINERS_STORAGE_CONF": os.path.join(directory, "storage.conf"),
                            "CONTAINERS_CONF": os.path.join(directory, "containers.conf")}

    def __call__(self, *arguments, expect=0):
        done = subprocess.run(["podman", *arguments], env=self.environment, text=True, timeout=240,
                              stdin=subprocess.DEVNULL, capture_output=True, check=False)
        if done.returncode != expect:
            raise AssertionError(f"podman {' '.join(arguments)}: {done.returncode}\n"
                                 f"{done.stdout}{done.stderr}")
        return done

    def pull(self, reference):
        """What it says of it."""
        return self("pull", "--tls-verify=false", reference).stderr

    def run(self, reference, *command):
        """What the program prints."""
        return self("run", "--rm", *_AS_ALLOWED_HERE, reference, *command).stdout

    def start(self, reference, *command):
        """The container's ID."""
        return self("run", "--detach", *_AS_ALLOWED_HERE, reference, *command).stdout.strip()

    @contextlib.contextmanager
    def mounted(self, reference):
        """The image's tree, as containers see it."""
        point = self("image", "mount", reference).stdout.strip()
        try:
            yield point
        finally:
            self("image", "unmount", reference)

    def lazy_layers(self):
        """How many of its layers are in the layer store."""
        return len(glob.glob(os.path.join(self.directory, "storage/overlay/*/additionallayer")))

    def close(self):
        try:
            self("rm", "--all", "--force", "--time=0")
            self("rmi", "--all", "--force")
        finally:
            storage = os.path.join(self.directory, "storage", "overlay")
            if os.path.ismount(storage):  # Podman's own, over itself
                subprocess.run(["umount", storage], check=True)
            shutil.rmtree(self.short, ignore_errors=True)
