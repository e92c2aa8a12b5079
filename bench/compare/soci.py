"""soci-snapshotter of Debian 13 with the containerd from there, in a root file system of its own.

Over plain HTTP on the loopback it gives up lazy loading and says so only in its log. So its
registry has TLS and a name, and each run looks for the FUSE mounts.
"""

import os
import subprocess

from compare import place as places
from compare.containerd import Daemon, succeed, wait_for_socket
from compare.cost import Group
from measure import note
from tools import workplace
from tools.registry import Client
from tools.testcase import mounts_under

SUITE = "trixie"
PACKAGES = "containerd,runc,soci-snapshotter,ca-certificates"
_INDEX = b"application/vnd.amazon.soci.index.v1+json"
_STATE = "/var/lib/soci-snapshotter-grpc"
_MORE = """
[proxy_plugins.soci]
type = "snapshot"
address = "/bench/soci.sock"
"""


def rootfs():
    def make(directory):
        note(f"making Debian ({SUITE}) with soci-snapshotter")
        tool = os.path.join(workplace.TOOLS, "debian-rootfs")
        subprocess.run([tool, os.path.join(directory, "rootfs"), SUITE, "--include=" + PACKAGES],
                       check=True)

    recipe = "\0".join((SUITE, PACKAGES, workplace.source_of("debian-rootfs")))
    return os.path.join(workplace.kept("bench-soci", recipe, make), "rootfs")


def _mount(*arguments):
    subprocess.run(["mount", *arguments], check=True)


class _Chroot:
    """A fresh copy of the root file system; `directory` is its /bench, and also its disk, because
    snapshots cannot lie on an overlay."""

    def __init__(self, directory, authority):
        self.root = os.path.join(directory, "chroot")
        upper, work, state = (os.path.join(directory, name) for name in ("upper", "work", "soci"))
        for each in (self.root, upper, work, state):
            os.mkdir(each)
        _mount("-t", "overlay", "overlay", "-o",
               f"lowerdir={rootfs()},upperdir={upper},workdir={work}", self.root)
        for each in ("proc", "sys", "dev"):
            _mount("--rbind", "/" + each, os.path.join(self.root, each))
        self._bind(directory, "/bench")
        self._bind(state, _STATE)
        self._append("/etc/hosts", f"127.0.0.1 {places.NAME}\n")
        with open(authority, encoding="ascii") as file:
            self._append("/etc/ssl/certs/ca-certificates.crt", file.read())

    def _bind(self, directory, inside):
        os.makedirs(self.root + inside, exist_ok=True)
        _mount("--bind", directory, self.root + inside)

    def _append(self, path, text):
        with open(self.root + path, "a", encoding="ascii") as file:
            file.write(text)

    @property
    def prefix(self):
        return ["chroot", self.root]


class Soci:
    name = "soci-snapshotter, unmodified image"
    program = "soci-snapshotter-grpc"

    def __init__(self, place):
        self.place = place
        self.registry, self.authority = place.secure_registry()

    # ---- the index, made before ----

    def prepare(self, workload):
        client = Client(self.place.registry.name)
        digest = self.place.layout.find(workload.image)["digest"]
        known = client.manifest(workload.image, digest.replace(":", "-"))
        client.close()
        if known and _INDEX in known[0]:
            return
        note(f"making soci's index of {workload.image}")
        directory = self.place.make_directory("soci-index")
        group = Group()
        try:
            chroot = _Chroot(directory, self.authority)
            daemon = Daemon(directory, group, chroot.prefix, "/bench")
            reference = f"{places.NAME}:{self.registry.port}/{workload.image}:latest"
            soci = [*chroot.prefix, "soci", "--address", daemon.address]
            succeed(daemon.ctr("images", "pull", reference), group)
            succeed([*soci, "create", reference], group)
            succeed([*soci, "push", "--quiet", reference], group)
        finally:
            group.close()
            places.remove(directory)

    # ---- a run ----

    def begin(self, directory, group):
        self.directory = directory
        self.chroot = _Chroot(directory, self.authority)
        log_path = os.path.join(directory, "soci.log")
        with open(log_path, "wb") as log:
            daemon = subprocess.Popen(
                [*self.chroot.prefix, self.program, "-address", "/bench/soci.sock",
                 "-root", _STATE], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                preexec_fn=group.join)
        wait_for_socket(os.path.join(directory, "soci.sock"), daemon, log_path)
        self.daemon = Daemon(directory, group, self.chroot.prefix, "/bench", _MORE)

    def pull(self, workload, port, group):
        self.reference = f"{places.NAME}:{port}/{workload.image}:latest"
        succeed([*self.chroot.prefix, "soci", "--address", self.daemon.address, "image", "rpull",
                 "--snapshotter", "soci", self.reference], group)

    def execute(self, workload, group, at_first):
        return self.daemon.run(workload, self.reference, "soci", group, at_first)

    def check(self):
        if not fuse_mounts(self.directory):
            raise RuntimeError("soci-snapshotter mounted nothing lazily: a full pull")

    def end(self):
        """The group's end is the daemons'."""


def fuse_mounts(directory):
    """Mount points of FUSE file systems below it."""
    below = set(mounts_under(directory))
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        lines = [line.split() for line in file]
    return [words[4] for words in lines
            if words[4] in below and words[words.index("-") + 1].startswith("fuse")]
