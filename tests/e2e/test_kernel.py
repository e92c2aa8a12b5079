"""The index's metadata is an EROFS image that the kernel and erofs-utils take."""

import os
import shutil
import struct
import subprocess
import tempfile

from e2e.test_every_image import everything_image
from tools import erofs_mount, images, model, tree, workplace
from tools.layout import Layout
from tools.testcase import EndToEnd, need_kernel_front

METADATA = "application/vnd.sluice.metadata.v1.erofs+zstd"


def _chroot_with_erofs_utils(directory):
    root = os.path.join(directory, "root")
    subprocess.run([os.path.join(workplace.TOOLS, "debian-rootfs"), root, "trixie",
                    "--include=erofs-utils"], check=True)


def erofs_utils_root():
    """Debian 12's erofs-utils is older than 512-byte blocks; a chroot of Debian 13 has 1.8."""
    recipe = "trixie erofs-utils " + workplace.source_of("debian-rootfs")
    return os.path.join(workplace.kept("erofs-utils", recipe, _chroot_with_erofs_utils), "root")


def make_sparse_device(metadata, tars, path):
    """The device that the sparse map behind the EROFS image tells of (docs/formats.md), as a file;
    False: there is none."""
    with open(metadata, "rb") as file:
        file.seek(1024 + 36)
        blocks, = struct.unpack("<I", file.read(4))
        file.seek(1024 + 86)
        devices, = struct.unpack("<H", file.read(2))
        if devices == len(tars):
            return False
        file.seek(1152 + 128 * len(tars))
        tag, length = struct.unpack("<64sI", file.read(68))
        assert tag == b"sparse".ljust(64, b"\0"), tag
        file.seek(blocks * 512)
        records = list(struct.iter_unpack("<QQQII", file.read()))
    with open(path, "wb") as device:
        device.truncate(length * 512)
        for offset, count, source, layer, _ in records:
            with open(tars[layer], "rb") as tar:
                os.pwrite(device.fileno(), os.pread(tar.fileno(), count, source), offset)
    return True


class KernelTest(EndToEnd):
    """Metadata from a layout that `sluice index --output` wrote; devices are the plain tars, and a
    file that is made of the sparse map."""

    def read_index(self, layout, tag, tars):
        reference = self.push(layout, tag, tag)
        output = os.path.join(self.directory, self._testMethodName)
        self.sluice("index", reference, "--output", output)
        self.metadata = os.path.join(self.directory, self._testMethodName + ".erofs")
        self.extract_metadata(Layout(output))
        self.devices = list(tars)
        sparse = os.path.join(self.directory, self._testMethodName + ".sparse")
        if make_sparse_device(self.metadata, tars, sparse):
            self.devices.append(sparse)

    def extract_metadata(self, layout):
        parts = layout.json(layout.manifests()[0]["digest"])["layers"]
        metadata = [part for part in parts if part["mediaType"] == METADATA]
        self.assertEqual(len(metadata), 1)
        subprocess.run(["zstd", "-q", "-d", "-f", layout.blob_path(metadata[0]["digest"]), "-o",
                        self.metadata], check=True)

    def mount_by_kernel(self):
        point = self.make_directory("mnt")
        need_kernel_front(self)
        erofs_mount.mount(self.metadata, self.devices, point)
        self.addCleanup(erofs_mount.unmount, point)
        return point

    def put_into_chroot(self):
        """The metadata and the devices where erofs-utils 1.8 sees them; as paths in the chroot."""
        root = erofs_utils_root()
        directory = tempfile.mkdtemp(prefix="sluice-", dir=os.path.join(root, "tmp"))
        self.addCleanup(shutil.rmtree, directory)
        names = []
        for number, path in enumerate((self.metadata, *self.devices)):
            names.append(os.path.join(directory, str(number)))
            os.link(path, names[-1])
        metadata, *devices = ["/" + os.path.relpath(name, root) for name in names]
        return metadata, ["--device=" + device for device in devices]

    def run_in_chroot(self, *command):
        return subprocess.run(["chroot", erofs_utils_root(), *command], text=True, check=False,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


class KernelMount(KernelTest):
    """A tree of an ordinary image."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.image = images.debian()

    def setUp(self):
        self.read_index(self.image.layout, self.image.tag, self.image.tars)

    def test_kernel_shows_the_same_tree(self):
        truth = tree.snapshot(images.unpacked(self.image))
        # umoci drops an attribute without a value, which the tar has.
        truth["special/attributes"].xattrs["user.empty"] = b""
        seen = tree.snapshot(self.mount_by_kernel())
        # A kernel without SELinux does not list its attribute.
        seen["special/labelled"].xattrs.pop("security.selinux", None)
        lines = tree.differences(truth, seen)
        self.assertEqual(lines[:20], [], f"{len(lines)} differences")
        self.assertEqual(tree.directory_time_differences(self.image.tars, seen)[:20], [])

    def test_fsck_of_erofs_utils_agrees(self):
        image, devices = self.put_into_chroot()
        check = ("fsck.erofs", "--extract", *devices, image)
        done = self.run_in_chroot(*check)
        self.assertEqual((done.returncode, done.stdout), (0, ""))
        # It does look: a root directory that is none is found.
        with open(self.metadata, "r+b") as file:
            file.seek(1024 + 14)
            file.write(b"\xff\xff")
        self.assertNotEqual(self.run_in_chroot(*check).returncode, 0)

    def test_dump_of_erofs_utils_agrees(self):
        image, devices = self.put_into_chroot()
        truth = tree.snapshot(images.unpacked(self.image), contents=False)
        done = self.run_in_chroot("dump.erofs", "-s", *devices, image)
        self.assertEqual(done.returncode, 0, done.stdout)
        inodes = len({node.same_as or path for path, node in truth.items()})
        self.assertRegex(done.stdout, rf"(?m)^Filesystem inode count: +{inodes}$")
        self.assertRegex(done.stdout, r"(?m)^Filesystem blocksize: +512$")
        done = self.run_in_chroot("dump.erofs", "--path=/special/owner", *devices, image)
        self.assertRegex(done.stdout, r"Uid: 123456 +Gid: 3000000 +Access: 0640/rw-r-----")


class KernelMountOfEverything(KernelTest):
    """All that tars and layers can say, sparse files too."""

    def setUp(self):
        layout, self.tars = everything_image()
        self.read_index(layout, "tar", self.tars)

    def test_kernel_shows_what_the_model_says(self):
        truth = model.Tree(self.tars)
        self.assertEqual(len(self.devices), len(self.tars) + 1)
        lines = [line for line in truth.differences(self.mount_by_kernel())
                 if "security.selinux" not in line]  # a kernel without SELinux does not list it
        self.assertEqual(lines[:20], [], f"{len(lines)} differences")

    def test_fsck_of_erofs_utils_agrees(self):
        image, devices = self.put_into_chroot()
        done = self.run_in_chroot("fsck.erofs", *devices, image)
        self.assertEqual(done.returncode, 0, done.stdout)
