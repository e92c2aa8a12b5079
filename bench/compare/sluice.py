"""sluice: a mount, an overlay on it, runc."""

import contextlib
import functools
import os
import subprocess

from compare import runtime, workloads
from tools import workplace
from tools.registry import Client


@functools.cache
def _help(*command):
    return subprocess.run([workplace.SLUICE, *command, "--help"], stdout=subprocess.PIPE, text=True,
                          check=True).stdout


def variants():
    """Those that this sluice can do."""
    known = ["plain"]
    if "\n  profile " in _help():
        known.append("profiled")
    if "--fill" in _help("mount"):
        known.append("fill now")
    if "\n  convert " in _help():
        known.append("converted")
    return known


class Sluice:
    program = "sluice"
    made = set()  # repositories whose index is of this sluice, whichever variant made it

    def __init__(self, place, variant):
        self.place = place
        self.registry = place.registry
        self.variant = variant
        self.name = f"sluice, {variant}"
        self.directory = place.make_directory("sluice")

    def _sluice(self, *arguments, **options):
        environment = {**os.environ, "HOME": self.directory, "XDG_RUNTIME_DIR": self.directory}
        return subprocess.run([workplace.SLUICE, *arguments], env=environment, check=True,
                              stdin=subprocess.DEVNULL, **options)

    def _repository(self, image):
        return image if self.variant in ("plain", "fill now") else f"{image}-{self.variant}"

    def _exists(self, repository, tag):
        with contextlib.closing(Client(self.registry.name)) as client:
            return client.manifest(repository, tag) is not None

    def can(self, image):
        """Converting compresses anew, and the gigabytes of CUDA would take too long."""
        return self.variant != "converted" or image != "cuda"

    def prepare(self, workload):
        """Its index, in the registry."""
        repository = self._repository(workload.image)
        reference = f"{self.registry.name}/{repository}:latest"
        if repository in self.made:
            return
        self.made.add(repository)
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        if repository != workload.image:
            self.place.copy(workload.image, repository)
        self._sluice("index", "--force", reference, **quiet)
        if self.variant == "plain":
            return
        command = workloads.command(workload)
        if self.variant in ("profiled", "converted"):
            self._sluice("profile", reference, "--", *command, **quiet)
        if self.variant == "converted":
            converted = f"{self.registry.name}/{repository}:made"
            if not self._exists(repository, "made"):
                self._sluice("convert", reference, converted, **quiet)
            # Its manifest names the index, so that has to be said anew with the profile.
            self._sluice("profile", converted, "--annotate", "made", "--", *command, **quiet)

    def begin(self, directory, _):
        """Nothing runs before a mount; the cache is an empty one each time."""
        self.cache, self.point, self.bundle_directory = (
            os.path.join(directory, name) for name in ("cache", "mnt", "bundle"))
        for each in (self.point, self.bundle_directory):
            os.mkdir(each)

    def _options(self):
        if "--fill" not in _help("mount"):
            return []
        return ["--fill", "now" if self.variant == "fill now" else "off"]

    def pull(self, workload, port, group):
        tag = "made" if self.variant == "converted" else "latest"
        reference = f"127.0.0.1:{port}/{self._repository(workload.image)}:{tag}"
        self._sluice("mount", reference, self.point, "--cache", self.cache, *self._options(),
                     preexec_fn=group.join)

    def execute(self, workload, group, at_first):
        with runtime.bundle(self.bundle_directory, self.point) as bundle:
            arguments = bundle.arguments(workloads.command(workload), group)
            return workloads.run(workload, arguments, group, at_first)

    def check(self):
        """A mount that would not be lazy had failed."""

    def end(self):
        self._sluice("umount", self.point)
