"""runc, on a root file system that somebody else has made ready."""

import contextlib
import json
import os
import subprocess


class Bundle:
    """An overlay over `lower`, with its writable layer in `directory`, and what runc must know."""

    def __init__(self, directory, lower):
        self.directory = directory
        self.root = os.path.join(directory, "rootfs")
        upper, work = os.path.join(directory, "upper"), os.path.join(directory, "work")
        for each in (self.root, upper, work):
            os.mkdir(each)
        subprocess.run(["mount", "-t", "overlay", "overlay", "-o",
                        f"lowerdir={lower},upperdir={upper},workdir={work}", self.root], check=True)

    def close(self):
        subprocess.run(["umount", self.root], check=True)

    def arguments(self, command, group):
        """What to run so that runc runs the command in it."""
        made = subprocess.run(["runc", "spec", "--bundle", self.directory], check=False,
                              capture_output=True)
        path = os.path.join(self.directory, "config.json")
        if made.returncode and not os.path.exists(path):
            raise RuntimeError("runc spec: " + made.stderr.decode(errors="replace"))
        with open(path, encoding="utf-8") as file:
            spec = json.load(file)
        spec["process"] |= {"terminal": False, "args": command, "cwd": "/"}
        spec["root"] = {"path": self.root, "readonly": False}
        spec["linux"]["cgroupsPath"] = group.container
        with open(path, "w", encoding="utf-8") as file:
            json.dump(spec, file)
        return ["runc", "--root", os.path.join(self.directory, "state"), "run", "--bundle",
                self.directory, group.name]


def bundle(directory, lower):
    return contextlib.closing(Bundle(directory, lower))
