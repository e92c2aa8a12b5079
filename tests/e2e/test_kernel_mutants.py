"""The validator's verdict against the kernel: what it accepts, the kernel shows as our reader does.

Images are made at random and then changed as long as the validator accepts the change
(tests/fuzz/mutate_metadata.c). SLUICE_MUTANTS says how many, SLUICE_MUTANTS_SEED which.
"""

import errno
import os
import re
import shutil
import stat
import subprocess
import unittest

from tools import erofs_mount, workplace

IMAGES = int(os.environ.get("SLUICE_MUTANTS", "1000"))
SEED = int(os.environ.get("SLUICE_MUTANTS_SEED", "1"))
PROGRAM = os.path.join(workplace.PROJECT, os.environ.get("BUILD", "build"), "tests",
                       "mutate_metadata")
BATCH = 500
DEVICE_LENGTH = 1 << 40  # SCRIPT_STREAM_LENGTH
WRITTEN = 4 << 20  # of a device that is more than a hole
READ = 8192  # at either end of a file
NOBODY = 0xffffffff
SELINUX = b"security.selinux"

# Attributes that the kernel understands, with the values that layer_script.h gives them. What is
# something else by now it refuses to show, or shows as it understands it.
ACL = bytes.fromhex("02000000 01000600ffffffff 04000400ffffffff 20000400ffffffff")
INTERPRETED = {b"system.posix_acl_access": ACL, b"system.posix_acl_default": ACL,
               b"security.capability": bytes.fromhex("01000002") + bytes(16)}


class KernelLog:
    """What the kernel has to complain about from now on, as far as we may read it."""

    def __init__(self):
        try:
            self.descriptor = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
        except PermissionError:
            print("       the kernel's log cannot be read here")
            self.descriptor = os.open("/dev/null", os.O_RDONLY)
            return
        os.lseek(self.descriptor, 0, os.SEEK_END)

    def close(self):
        os.close(self.descriptor)

    def complaints(self):
        found = []
        while True:
            try:
                record = os.read(self.descriptor, 8192).decode(errors="replace")
            except BlockingIOError:
                return found
            except BrokenPipeError:  # some were overwritten
                continue
            if not record:
                return found
            level = int(record.split(",", 1)[0]) & 7
            text = record.split(";", 1)[1].splitlines()[0]
            if level <= 4 and re.search("erofs|bug:|warning:|oops|hung", text, re.IGNORECASE):
                found.append(text)


def number_extents(text):
    return [tuple(map(int, part.split(":"))) for part in text.split(",") if part]


class Expected:
    """A line of what our reader says."""

    def __init__(self, line):
        (path, mode, links, uid, gid, size, seconds, nanoseconds, device, nid, xattrs,
         rest) = line.rstrip("\n").split(" ")
        self.path = bytes.fromhex(path)
        self.mode = int(mode, 8)
        # The number that means "nobody" to the kernel is shown as its overflow user.
        owner = [65534 if int(number) == NOBODY else int(number) for number in (uid, gid)]
        device = int(device)
        number = os.makedev(device >> 8 & 0xfff, device & 0xff | device >> 12 & 0xfff00)
        is_device = stat.S_ISCHR(self.mode) or stat.S_ISBLK(self.mode)
        self.fields = {
            "mode": self.mode, "links": int(links), "owner": owner, "size": int(size),
            "time": int(seconds) * 10**9 + int(nanoseconds), "inode": int(nid),
            "device": number if is_device else 0,
        }
        self.xattrs = {}
        for part in filter(None, xattrs.split(",")):
            name, value = part.split("=")
            self.xattrs[bytes.fromhex(name)] = bytes.fromhex(value)
        self.target = bytes.fromhex(rest) if stat.S_ISLNK(self.mode) else None
        self.extents = number_extents(rest) if stat.S_ISREG(self.mode) else []

    def has_strange_acl(self):
        return any(name.startswith(b"system.posix_acl") and value != ACL
                   for name, value in self.xattrs.items())

    def can_be_read(self, name):
        """Linux gives user attributes of files and directories only, and no links have ACLs."""
        if name.startswith(b"user."):
            return stat.S_ISREG(self.mode) or stat.S_ISDIR(self.mode)
        return not (name.startswith(b"system.") and stat.S_ISLNK(self.mode))


def seen_fields(path):
    info = os.lstat(path)
    return {"mode": info.st_mode, "links": info.st_nlink, "owner": [info.st_uid, info.st_gid],
            "size": info.st_size, "time": info.st_mtime_ns, "inode": info.st_ino,
            "device": info.st_rdev if stat.S_ISCHR(info.st_mode) or stat.S_ISBLK(info.st_mode)
            else 0}


def why_not():
    """Why this kernel does not mount EROFS from a file, or None: that is since Linux 6.12."""
    release = tuple(map(int, re.match(r"(\d+)\.(\d+)", os.uname().release).groups()))
    with open("/proc/filesystems", encoding="ascii") as file:
        known = "\terofs\n" in file.read()
    if not known or release < (6, 12):
        return "the kernel does not mount EROFS from a file"
    return None


class KernelMutants(unittest.TestCase):
    needs_mount = True

    def setUp(self):
        if why_not():
            self.skipTest(why_not())
        self.directory = workplace.fresh_directory("KernelMutants")
        self.addCleanup(shutil.rmtree, self.directory)
        self.point = os.path.join(self.directory, "mnt")
        os.mkdir(self.point)
        self.devices = [self.make_device(number) for number in range(4)]
        self.log = KernelLog()
        self.addCleanup(self.log.close)
        self.names = self.bytes_read = self.strange_values = self.sparse = 0

    def make_device(self, number):
        """Blocks that tell where they are, then a hole."""
        path = os.path.join(self.directory, f"device-{number}")
        with open(path, "wb") as file:
            for block in range(WRITTEN // 512):
                file.write(b"%16d" % (number << 32 | block) * 32)
            file.truncate(DEVICE_LENGTH)
        descriptor = os.open(path, os.O_RDONLY)
        self.addCleanup(os.close, descriptor)
        return path, descriptor

    # ---- one file ----

    def of_device(self, expected, offset, length):
        """Bytes of the file as the devices have them."""
        found = b""
        start = 0
        for device, place, extent in expected.extents:
            first = max(offset, start) - start
            last = min(offset + length, start + extent) - start
            if first < last:
                found += (os.pread(self.devices[device - 1][1], last - first, place + first)
                          if device else bytes(last - first))
            start += extent
        return found

    def compare_content(self, path, expected):
        size = expected.fields["size"]
        descriptor = os.open(path, os.O_RDONLY)
        try:
            for offset in {0, max(0, size - READ)}:
                length = min(READ, size - offset)
                seen = os.pread(descriptor, length, offset)
                self.assertEqual(seen, self.of_device(expected, offset, length), path)
                self.bytes_read += length
        finally:
            os.close(descriptor)

    def compare_xattrs(self, path, expected):
        names = {os.fsencode(name) for name in os.listxattr(path, follow_symlinks=False)}
        # Belongs to SELinux, where the kernel has that.
        self.assertEqual(names - {SELINUX}, set(expected.xattrs) - {SELINUX}, path)
        for name in filter(expected.can_be_read, names - {SELINUX}):
            wanted = expected.xattrs[name]
            if name in INTERPRETED and wanted != INTERPRETED[name]:
                self.strange_values += 1
                continue
            self.assertEqual(os.getxattr(path, name, follow_symlinks=False), wanted, (path, name))

    def compare(self, expected):
        path = os.fsencode(self.point) + expected.path
        self.assertEqual(seen_fields(path), expected.fields, path)
        if expected.target is not None:
            self.assertEqual(os.readlink(path), expected.target)
        self.compare_xattrs(path, expected)
        if stat.S_ISREG(expected.mode):
            self.compare_content(path, expected)
        if stat.S_ISDIR(expected.mode):
            return {expected.path + b"/" + name for name in os.listdir(path)}
        return set()

    # ---- one image ----

    def make_sparse_device(self, path):
        """Pieces of layers, as the sparse map says; only the start of a layer is no hole."""
        with open(path + ".sparse", encoding="ascii") as file:
            length, *pieces = [list(map(int, line.split())) for line in file]
        with open(path + ".device", "wb") as file:
            file.truncate(length[0])
            for place, count, layer, start in pieces:
                count = max(0, min(count, WRITTEN - start))
                os.pwrite(file.fileno(), os.pread(self.devices[layer][1], count, start), place)
        return path + ".device"

    def compare_all(self, listing):
        """Lists of access rights that the kernel does not understand (or that lack an entry) make
        what they are on, and below, unreachable for it; our FUSE server hands them out as they
        are."""
        seen, listed, unreachable = set(), set(), []
        for expected in listing:
            if any(expected.path.startswith(prefix) for prefix in unreachable):
                continue
            listed.add(expected.path)
            try:
                seen |= self.compare(expected)
            except OSError as error:
                if (not expected.has_strange_acl() or
                        error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.EIO)):
                    raise
                unreachable.append(expected.path + b"/")
            self.names += 1
        self.assertEqual(seen | {b""}, listed)

    def check_image(self, path):
        with open(path + ".list", encoding="ascii") as file:
            listing = [Expected(line) for line in file]
        with open(path + ".erofs", "rb") as file:
            file.seek(1024 + 86)
            count = int.from_bytes(file.read(2), "little")
        devices = [device for device, _ in self.devices]
        if os.path.exists(path + ".sparse"):
            self.sparse += 1
            devices[count - 1:] = [self.make_sparse_device(path)]
        erofs_mount.mount(path + ".erofs", devices[:count], self.point)
        try:
            self.compare_all(listing)
        finally:
            erofs_mount.unmount(self.point)
        self.assertEqual(self.log.complaints(), [])

    def test_kernel_shows_what_is_accepted(self):
        tried = accepted = 0
        for first in range(0, IMAGES, BATCH):
            count = min(BATCH, IMAGES - first)
            images = os.path.join(self.directory, "images")
            os.mkdir(images)
            done = subprocess.run([PROGRAM, str(SEED + first), str(count), images], text=True,
                                  check=True, stdout=subprocess.PIPE)
            counts = [int(number) for number in done.stdout.split()]
            tried, accepted = tried + counts[0], accepted + counts[1]
            for number in range(count):
                with self.subTest(seed=SEED + first, image=number):
                    self.check_image(os.path.join(images, str(number)))
            shutil.rmtree(images)
        print(f"       {IMAGES:,} images mounted ({self.sparse:,} with sparse files), {accepted:,} "
              f"of {tried:,} changes accepted; {self.names:,} names, {self.bytes_read:,} bytes, "
              f"{self.strange_values:,} values that the kernel does not understand")
        self.assertGreater(accepted, IMAGES)
