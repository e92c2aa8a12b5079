"""The units under systemd, which is process 1 of namespaces of its own."""

import os
import shutil
import signal
import socket
import subprocess
import threading
import time
import unittest

from tools import workplace
from tools.testcase import EndToEnd, need_mounted_root

_CGROUPS = ("/sys/fs/cgroup/unified", "/sys/fs/cgroup")


def _rootfs():
    """Debian with systemd, and what the programs need."""
    with open(os.path.join(workplace.PROJECT, "packaging", "packages.txt"),
              encoding="utf-8") as file:
        run = file.read().partition("[run]")[2].partition("[")[0].split("\n#")[0].split()
    option = "--include=" + ",".join(["systemd", "systemd-sysv", *run])

    def make(directory):
        tool = os.path.join(workplace.TOOLS, "debian-rootfs")
        subprocess.run([tool, os.path.join(directory, "rootfs"), "", option], check=True)

    recipe = option + workplace.source_of("debian-rootfs")
    return os.path.join(workplace.kept("systemd", recipe, make), "rootfs")


class Caller(threading.Thread):
    """Connects to a socket again and again."""

    def __init__(self, path):
        super().__init__(daemon=True)
        self.path, self.calls, self.refused = path, 0, None
        self.over = threading.Event()

    def run(self):
        while not self.over.is_set() and not self.refused:
            with socket.socket(socket.AF_UNIX) as each:
                try:
                    each.connect(self.path)
                    self.calls += 1
                except OSError as refused:
                    self.refused = refused
            time.sleep(0.001)

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.join()


class Units(EndToEnd):
    """They start, and what ends is started again."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        need_mounted_root(cls())
        hierarchy = next((path for path in _CGROUPS
                          if os.path.exists(path + "/cgroup.controllers")), None)
        if not hierarchy:
            raise unittest.SkipTest("no cgroups of the second version")
        root = os.path.join(cls.directory, "rootfs")
        subprocess.run(["cp", "-a", "--reflink=auto", _rootfs(), root], check=True)
        subprocess.run(["make", "--no-print-directory", "-C", workplace.PROJECT, "install-files",
                        f"BUILD={os.path.dirname(workplace.SLUICE)}", f"DESTDIR={root}"],
                       check=True, stdin=subprocess.DEVNULL, capture_output=True)
        cls.cgroup = os.path.join(hierarchy, f"sluice-systemd-{os.getpid()}")
        os.mkdir(cls.cgroup)
        cls.addClassCleanup(cls.end)
        cls.outer = subprocess.Popen(
            [os.path.join(workplace.TOOLS, "inside_systemd.sh"), root, cls.cgroup],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        cls.wait_for_systemd()

    @classmethod
    def end(cls):
        """With process 1 all of its namespace ends."""
        cls.outer.kill()
        cls.outer.wait()
        deadline = time.monotonic() + 20
        for path, _, _ in list(os.walk(cls.cgroup, topdown=False)):
            while time.monotonic() < deadline:
                try:
                    os.rmdir(path)
                    break
                except OSError:
                    time.sleep(0.05)
        shutil.rmtree(os.path.join(cls.directory, "rootfs"), ignore_errors=True)

    @classmethod
    def inside(cls, *command):
        with open(f"/proc/{cls.outer.pid}/task/{cls.outer.pid}/children", encoding="ascii") as file:
            child = file.read().split()
        if not child:
            return subprocess.CompletedProcess(command, 1, "", "no process 1")
        return subprocess.run(["nsenter", "--target", child[0], "--mount", "--pid", "--uts",
                               "--ipc", "env", "PATH=/usr/local/bin:/usr/sbin:/usr/bin:/bin",
                               *command], check=False, stdin=subprocess.DEVNULL, text=True,
                              capture_output=True, timeout=240)

    @classmethod
    def wait_for_systemd(cls):
        deadline = time.monotonic() + 240
        while time.monotonic() < deadline:
            said = cls.inside("systemctl", "is-system-running").stdout.strip()
            if said in ("running", "degraded"):
                return
            time.sleep(0.1)
        raise RuntimeError(f"systemd does not run: {said}")

    def systemctl(self, *words):
        done = self.inside("systemctl", *words)
        self.assertEqual(0, done.returncode, done.stderr)
        return done.stdout

    def process_of(self, unit):
        """The pid of a unit that is active, or None."""
        shown = dict(line.split("=", 1) for line in self.systemctl(
            "show", "--property=ActiveState,MainPID", unit).splitlines())
        return shown["MainPID"] if shown["ActiveState"] == "active" else None

    def socket_of_containerd(self):
        with open(f"/proc/{self.outer.pid}/task/{self.outer.pid}/children", encoding="ascii") as file:
            return f"/proc/{file.read().split()[0]}/root/run/sluice/snapshotter.sock"

    def test_units(self):
        # As one does who tries sluiced by hand first.
        self.assertEqual(0, self.inside(
            "sh", "-c", "sluice-holder --background 2> /dev/null").returncode)
        self.systemctl("enable", "--now", "sluice-holder", "sluiced")
        holder, daemon = self.process_of("sluice-holder"), self.process_of("sluiced")
        self.assertTrue(holder and daemon)
        self.assertIn("daemon", self.inside("sluice", "status").stdout)
        self.assertIn("sluiced-server", self.inside(
            "sh", "-c", f"cat /proc/{daemon}/task/*/children | xargs -n 1 sh -c 'cat /proc/$0/comm'"
        ).stdout.split(), "people see what it is")
        self.assertIn("HOME=/root", self.inside("cat", f"/proc/{daemon}/environ").stdout.split("\0"),
                      "credentials of root's are found")

        with Caller(self.socket_of_containerd()) as caller:
            self.systemctl("restart", "sluiced")
            self.assertNotEqual(daemon, self.process_of("sluiced"))
            calls = caller.calls
            self.wait_until(lambda: caller.calls > calls + 10 or caller.refused, "it is called")
        self.assertIsNone(caller.refused, "who connects is never refused")
        self.assertEqual(holder, self.process_of("sluice-holder"), "it stays")

        # Replaced by the binary that is there: the unit follows.
        for _ in range(2):
            self.systemctl("reload", "sluice-holder")
            self.wait_until(lambda: self.process_of("sluice-holder") not in (None, holder),
                            "the next holder is the unit's process")
            holder = self.process_of("sluice-holder")
        self.assertNotEqual(0, self.inside("systemctl", "stop", "sluice-holder").returncode)
        self.assertEqual(holder, self.process_of("sluice-holder"), "nobody stops it by mistake")

        for unit in ("sluiced", "sluice-holder"):
            before = self.process_of(unit)
            self.systemctl("kill", "--kill-who=main", f"--signal={signal.SIGKILL.value}", unit)
            self.wait_until(lambda: self.process_of(unit) not in (None, before), "it is back")

        self.systemctl("stop", "sluiced")
        self.assertIsNone(self.process_of("sluiced"))
        self.assertFalse(os.path.exists(self.cgroup + "/system.slice/sluiced.service"),
                         "its server has ended, too")
        self.assertTrue(self.process_of("sluice-holder"))

    def test_wrong_configuration(self):
        """It is tried again, at leisure, until somebody has mended it."""
        self.inside("sh", "-c", "mkdir -p /etc/sluice && echo wrong > /etc/sluice/config.toml")
        self.systemctl("start", "--no-block", "sluice-holder", "sluiced")

        def pauses():
            return self.systemctl("show", "--property=SubState", "sluiced").strip() == \
                "SubState=stop-post"

        self.wait_until(pauses, "it pauses before the next start")
        self.inside("rm", "/etc/sluice/config.toml")
        self.wait_until(lambda: self.process_of("sluiced"), "it has started")
        self.systemctl("stop", "sluiced")
