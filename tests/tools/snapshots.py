"""containerd's snapshots service, of containerd or of a snapshotter's own socket: what each call
comes to, written down so that two services can be compared."""

import os
import re
import subprocess

import grpc

from tools.services import Definitions, Service

_API = "github.com/containerd/containerd/api/services/"
_DIRECTORY = re.compile(r"[^=:,]*/snapshots/([^/]+)/(fs|work)(?![^:])")
SERVICE = "containerd.services.snapshots.v1.Snapshots"
KINDS = {0: "unknown", 1: "view", 2: "active", 3: "committed"}


def service_at(channel, metadata=()):
    """The service, of whoever listens there."""
    return Service(channel, Definitions(_API + "snapshots/v1/snapshots.proto"), SERVICE, metadata)


class Side:
    """One of those that are compared. With `namespace` it is containerd, which adds its own
    bookkeeping; a lease there keeps what nobody refers to. `allowed`: [(pattern of a step, what
    comes of it at the first side, what here)] where it is right to differ."""

    def __init__(self, title, channel, snapshotter, namespace=None, allowed=()):
        self.title = title
        self.allowed = allowed
        self.snapshotter = snapshotter
        metadata = []
        if namespace:
            metadata = [("containerd-namespace", namespace)]
            leases = Service(channel, Definitions(_API + "leases/v1/leases.proto"),
                             "containerd.services.leases.v1.Leases", metadata)
            metadata.append(("containerd-lease", leases.call("Create", id=snapshotter).lease.id))
        self.service = service_at(channel, metadata)

    def call(self, method, **fields):
        return self.service.call(method, snapshotter=self.snapshotter, **fields)


class Script:
    """A sequence of calls to one side. Names get a prefix of their own, and lose it again in what
    is written down, as directories become numbers in the order in which they are seen; options of
    mounts have no order. In filters "{}" is the prefix."""

    def __init__(self, side, prefix):
        self.side = side
        self.prefix = prefix + "-"
        self.directories = {}
        self.times = {}  # of each snapshot, as last seen
        self.steps = []  # (what was asked, what came of it)
        self.messages = {}  # of errors, by the number of the step

    # ---- the calls ----

    def prepare(self, key, parent="", **labels):
        return self._create("Prepare", key, parent, labels)

    def view(self, key, parent="", **labels):
        return self._create("View", key, parent, labels)

    def _create(self, method, key, parent, labels):
        def call():
            return self.side.call(method, key=self.name(key), parent=self.name(parent),
                                  labels=labels).mounts

        return self._step(f"{method} {key} {parent} {labels or ''}", call, self._mounts)

    def mounts(self, key):
        return self._step(f"Mounts {key}", lambda: self.side.call(
            "Mounts", key=self.name(key)).mounts, self._mounts)

    def commit(self, name, key, **labels):
        return self._step(f"Commit {name} {key} {labels or ''}", lambda: self.side.call(
            "Commit", name=self.name(name), key=self.name(key), labels=labels))

    def remove(self, key):
        return self._step(f"Remove {key}",
                          lambda: self.side.call("Remove", key=self.name(key)))

    def stat(self, key):
        return self._step(f"Stat {key}", lambda: self.side.call(
            "Stat", key=self.name(key)).info, self._info)

    def update(self, name, *paths, parent="", **labels):
        return self._step(f"Update {name} {paths} {labels}", lambda: self.side.call(
            "Update", info={"name": self.name(name), "labels": labels, "parent": parent},
            update_mask={"paths": paths}).info, self._info)

    def list(self, *filters):
        """Only what the script has made; in no order."""
        def call():
            chosen = [text.replace("{}", self.prefix) for text in filters]
            return [info for answer in self.side.call("List", filters=chosen)
                    for info in answer.info]

        def own(infos):
            return sorted(self._short(info.name) for info in infos
                          if info.name.startswith(self.prefix))

        return self._step(f"List {filters}", call, own)

    def usage(self, key):
        return self._step(f"Usage {key}", lambda: self.side.call(
            "Usage", key=self.name(key)), lambda usage: (usage.size, usage.inodes))

    def cleanup(self):
        return self._step("Cleanup", lambda: self.side.call("Cleanup"))

    def note(self, what, outcome):
        """Something seen besides."""
        self.steps.append((what, outcome))

    # ---- what comes of them ----

    def name(self, short):
        return self.prefix + short if short else ""

    def _short(self, name):
        return name.removeprefix(self.prefix)

    def _step(self, what, call, describe=lambda _: "done"):
        """What the call returned, or None."""
        try:
            answer = call()
        except grpc.RpcError as error:
            self.messages[len(self.steps)] = error.details()
            self.steps.append((what, error.code().name))
            return None
        self.steps.append((what, describe(answer)))
        return answer

    def _mounts(self, mounts):
        return [(mount.type, self._places(mount.source), getattr(mount, "target", ""),
                 sorted(self._places(option) for option in mount.options)) for mount in mounts]

    def _places(self, text):
        def number(found):
            known = self.directories.setdefault(found[1], len(self.directories))
            return f"#{known}/{found[2]}"

        return _DIRECTORY.sub(number, text)

    def _info(self, info):
        now = (info.created_at.ToNanoseconds(), info.updated_at.ToNanoseconds())
        before = self.times.get(info.name, now)
        self.times[info.name] = now
        return {"name": self._short(info.name), "parent": self._short(info.parent),
                "kind": KINDS[info.kind], "labels": dict(info.labels),
                "never updated": now[0] == now[1], "created as before": now[0] == before[0],
                "updated since": now[1] > before[1]}


class Mounted:
    """with Mounted(mounts, directory): the snapshot's tree is there."""

    def __init__(self, mounts, directory):
        self.mounts = mounts
        self.directory = directory

    def __enter__(self):
        for mount in self.mounts:
            self._mount(mount)
        return self.directory

    def _mount(self, mount):
        if mount.type == "bind":
            options = ",".join(option for option in mount.options if option != "rbind")
            arguments, below = ["--rbind", "-o", options, mount.source], "/"
        else:
            arguments, below = self._overlay(mount.options)
        subprocess.run(["mount", *arguments, self.directory], check=True, cwd=below)

    @staticmethod
    def _overlay(options):
        """As containerd does it: many names fit into the page that mount(2) takes where they are
        relative."""
        text, below = ",".join(options), "/"
        if len(text) > 4000:
            lower = next(option for option in options if option.startswith("lowerdir="))
            below = os.path.commonpath(lower.removeprefix("lowerdir=").split(":"))
            text = text.replace(lower, lower.replace(below + "/", ""))
        return ["-t", "overlay", "-o", text, "overlay"], below

    def __exit__(self, *_):
        subprocess.run(["umount", self.directory], check=True)
