"""An ordinary user mounts by fusermount3, for nobody but himself."""

import json
import os
import shutil
import signal
import subprocess
import tempfile

from tools import images, workplace
from tools.testcase import EndToEnd, mounts_under, servers_under

USER = 65534


class Unprivileged(EndToEnd):
    """The command runs as a user who owns nothing but his home and his runtime directory."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        # What udev would have set; a machine without it keeps the device to root.
        mode = os.stat("/dev/fuse").st_mode & 0o777
        if mode != 0o666:
            os.chmod("/dev/fuse", 0o666)
            cls.addClassCleanup(os.chmod, "/dev/fuse", mode)
        # fusermount3 wants to read it; a system that was never booted has none.
        if not os.path.lexists("/etc/mtab"):
            os.symlink("/proc/self/mounts", "/etc/mtab")
            cls.addClassCleanup(os.unlink, "/etc/mtab")
        # WORK is root's alone, and the command may lie where only root can go.
        cls.place = tempfile.mkdtemp(prefix="sluice-user-", dir="/var/tmp")
        cls.addClassCleanup(shutil.rmtree, cls.place)
        cls.addClassCleanup(cls.end_servers)
        os.chown(cls.place, USER, USER)
        cls.program = os.path.join(cls.place, "sluice")
        shutil.copy(workplace.SLUICE, cls.program)
        for name in ("home", "runtime", "mnt"):
            path = os.path.join(cls.place, name)
            os.mkdir(path, 0o700)
            os.chown(path, USER, USER)
        cls.environment |= {"HOME": os.path.join(cls.place, "home"),
                            "XDG_RUNTIME_DIR": os.path.join(cls.place, "runtime")}
        cls.point = os.path.join(cls.place, "mnt")

    @classmethod
    def end_servers(cls):
        for pid, _ in servers_under(cls.place):
            os.kill(pid, signal.SIGKILL)

    def run_program(self, *command):
        return subprocess.run(command, user=USER, group=USER, extra_groups=[], text=True,
                              env=self.environment, capture_output=True, check=False,
                              stdin=subprocess.DEVNULL)

    def expect(self, code, *arguments):
        done = self.run_program(self.program, *arguments)
        self.assertEqual(done.returncode, code, done.stdout + done.stderr)
        return done

    def index_small(self):
        image = images.small()
        reference = self.push(image.layout, image.tag, "small")
        self.expect(0, "index", reference)
        return reference

    def mount_small(self):
        self.expect(0, "mount", self.index_small(), self.point)
        self.addCleanup(subprocess.run, ["umount", "-l", self.point], check=False,
                        stderr=subprocess.DEVNULL)

    def test_index_mount_read_umount(self):
        self.mount_small()
        path = os.path.join(self.point, "lower/text")
        done = self.run_program("wc", "-c", path)
        self.assertEqual(done.stdout.split()[:1], [str(5 << 20)], done.stderr)
        # Not even root, as is usual with FUSE: it could be led astray.
        with self.assertRaises(PermissionError):
            os.lstat(path)
        status = json.loads(self.expect(0, "status", self.point, "--json").stdout)
        self.assertEqual((status["mountpoint"], status["front"]), (self.point, "fuse"))
        self.assertIn("CAP_SYS_ADMIN", status["front_reason"])
        self.assertTrue(os.path.isdir(os.path.join(self.place, "home/.cache/sluice")))
        self.expect(0, "umount", self.point)
        self.assertEqual(mounts_under(self.point), [])
        self.wait_until(lambda: not servers_under(self.place), "the server has ended")

    def test_ended_by_a_signal(self):
        """The server may run no program any more; fusermount3 must be run all the same."""
        self.mount_small()
        self.assertIn("no-new-privileges", self.expect(0, "status", self.point).stdout)
        (pid, _), = servers_under(self.place)
        os.kill(pid, signal.SIGTERM)
        self.wait_until(lambda: not servers_under(self.place), "the server has ended")
        self.assertEqual(mounts_under(self.point), [])

    def test_suid_is_for_root(self):
        done = self.expect(1, "mount", self.index_small(), self.point, "--suid")
        self.assertIn("root", done.stderr)
        self.assertFalse(os.path.ismount(self.point))
