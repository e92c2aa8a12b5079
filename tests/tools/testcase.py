"""What every end-to-end test has: a place, a registry, the command, and a clean exit."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import time
import unittest

from tools import workplace
from tools.registry import Client, Registry, push


def why_no_mounts():
    """Why this machine cannot mount, or None."""
    if os.geteuid() != 0:
        return "not root"
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR))
    except OSError as error:
        return f"/dev/fuse: {error.strerror}"
    return None


def need_kernel_front(test):
    """Skips a test where the kernel cannot mount EROFS from a file: before Linux 6.12."""
    with open("/proc/filesystems", encoding="ascii") as file:
        known = "\terofs\n" in file.read()
    release = tuple(map(int, os.uname().release.split(".")[:2]))
    if not known or release < (6, 12):
        test.skipTest("the kernel does not mount EROFS from a file")


def need_mounted_root(test):
    """Skips a test in a chroot. Where the root directory is no mount point, a mount namespace cannot
    be made private; and who enters that of a container has, before pivot_root, another root."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as table:
        if not any(line.split(" ")[4] == "/" for line in table):
            test.skipTest("/ is no mount point")
    root = subprocess.run(["nsenter", "--mount=/proc/self/ns/mnt", "stat", "-c", "%d %i", "/"],
                          check=True, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    here = os.stat("/")
    if root.stdout.split() != [str(here.st_dev), str(here.st_ino)]:
        test.skipTest("/ is not the root of its mount namespace")


def fields_of(value):
    """The names of all fields of something that came as JSON."""
    if isinstance(value, list):
        return set().union(*map(fields_of, value))
    if isinstance(value, dict):
        return set(value).union(*map(fields_of, value.values()))
    return set()


def mounts_under(directory):
    """Mount points below a directory, the newest first."""
    found = []
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), line.split()[4])
            if point == directory or point.startswith(directory + "/"):
                found.append(point)
    return found[::-1]


def _processes_naming(directory):
    """(pid, words of the command line) of processes whose command line names this directory."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                words = file.read().decode(errors="replace").split("\0")
        except OSError:
            continue
        if any(directory in word for word in words):
            yield int(pid), words


def servers_under(directory):
    """Processes of the sluice command that work in this directory, as (pid, command line)."""
    return [(pid, " ".join(words)) for pid, words in _processes_naming(directory)
            if os.path.basename(words[0]) == "sluice"]


def brokers_under(directory):
    """Pids of the brokers of mounts in this directory."""
    return [pid for pid, words in _processes_naming(directory) if words[0] == "sluice-broker"]


def _is_stopped(pid):
    for thread in os.listdir(f"/proc/{pid}/task"):
        try:
            with open(f"/proc/{pid}/task/{thread}/stat", encoding="utf-8") as file:
                state = file.read().rpartition(") ")[2][:1]
        except OSError:  # it has ended meanwhile
            continue
        if state != "T":
            return False
    return True


def suspend(pid):
    """Stops a process. On a busy machine its threads go on for a while after the signal."""
    os.kill(pid, signal.SIGSTOP)
    deadline = time.monotonic() + 60
    while not _is_stopped(pid):
        if time.monotonic() > deadline:
            raise AssertionError(f"process {pid} does not stop")
        time.sleep(0.005)


class EndToEnd(unittest.TestCase):
    """Each class has a directory, a cache, and a registry of its own."""

    maxDiff = None
    # By which front door mount() mounts: a class of its own for the other one is a subclass.
    front = os.environ.get("SLUICE_FRONT", "auto")
    needs_mount = True  # else the class runs where nothing can be mounted, too

    @classmethod
    def setUpClass(cls):
        cls.directory = workplace.fresh_directory(cls.__name__)
        cls.addClassCleanup(cls.leave_nothing)
        cls.cache = os.path.join(cls.directory, "cache")
        cls.registry = Registry(os.path.join(cls.directory, "registry"))
        cls.addClassCleanup(cls.registry.stop)
        home = os.path.join(cls.directory, "home")
        os.mkdir(home)
        runtime = os.path.join(cls.directory, "runtime")
        os.mkdir(runtime, 0o700)
        cls.environment = {"HOME": home, "PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8",
                           "XDG_RUNTIME_DIR": runtime}
        for name in ("ASAN_OPTIONS", "UBSAN_OPTIONS", "TSAN_OPTIONS"):
            if name in os.environ:
                cls.environment[name] = os.environ[name]

    @classmethod
    def leave_nothing(cls):
        """Ends what a failed test left behind, then removes the directory."""
        for pid, _ in servers_under(cls.directory):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for point in mounts_under(cls.directory):
            subprocess.run(["umount", "-l", point], check=False, stderr=subprocess.DEVNULL)
        if not mounts_under(cls.directory):
            shutil.rmtree(cls.directory, ignore_errors=True)

    # ---- the command ----

    def sluice(self, *arguments, expect=0, timeout=240, environment=None):
        """Runs the command; its exit code must be `expect`, or 0 or 1 where that is None."""
        done = subprocess.run([workplace.SLUICE, *map(str, arguments)], text=True,
                              errors="backslashreplace",
                              stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout,
                              check=False, env={**self.environment, **(environment or {})})
        self.assertIn(done.returncode, (0, 1) if expect is None else (expect,),
                      f"sluice {' '.join(map(str, arguments))}\n{done.stdout}{done.stderr}")
        return done

    def fails(self, *arguments, says=(), code=1, **options):
        """The command must fail with one line that holds all the words of `says`."""
        done = self.sluice(*arguments, expect=code, **options)
        # Progress and warnings may come before.
        lines = [line for line in done.stderr.splitlines()
                 if re.match(r"sluice( \w+)?: (?!warning: )", line)]
        self.assertEqual(len(lines), 1, f"one line expected, got: {done.stderr}")
        self.assertEqual(done.stderr.splitlines()[-1], lines[0])
        for word in says:
            self.assertIn(word.lower(), lines[0].lower())
        return lines[0]

    def make_directory(self, name):
        path = os.path.join(self.directory, f"{self._testMethodName}-{name}")
        os.mkdir(path)
        return path

    def mount(self, reference, *options, cache=None, name="mnt", **run_options):
        """Mounts and returns the directory; unmounted when the test ends."""
        point = os.path.join(self.directory, f"{self._testMethodName}-{name}")
        os.makedirs(point, exist_ok=True)
        self.addCleanup(self.unmount_if_mounted, point)
        self.mount_output = self.sluice("mount", reference, point, "--cache", cache or self.cache,
                                        "--front", self.front, *options, **run_options)
        self.assertTrue(os.path.ismount(point), "mounted after `sluice mount` returned")
        return point

    def unmount(self, point, *options):
        self.sluice("umount", point, *options)
        self.assertFalse(os.path.ismount(point), "not mounted after `sluice umount` returned")
        self.wait_until(lambda: not servers_under(point), "the server has ended")

    def unmount_if_mounted(self, point):
        if mounts_under(point):
            self.unmount(point)

    def status(self, point):
        return json.loads(self.sluice("status", point, "--json").stdout)

    def wait_until(self, condition, what, seconds=60):
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                self.fail(f"not reached in {seconds} s: {what}")
            time.sleep(0.02)

    # ---- images ----

    def reference(self, repository, tag="latest", registry=None):
        return f"{(registry or self.registry).name}/{repository}:{tag}"

    def push(self, layout, layout_tag, repository, tag="latest", registry=None, credentials=None):
        """Puts an image of a layout into a registry; returns its reference."""
        registry = registry or self.registry
        push(layout, layout.find(layout_tag), registry.name, repository, tag, credentials)
        return self.reference(repository, tag, registry)

    def client(self, registry=None, credentials=None):
        client = Client((registry or self.registry).name, credentials)
        self.addCleanup(client.close)
        return client
