"""Bad input: one line, the right exit code, nothing left mounted or half-written, no secrets."""

import contextlib
import fcntl
import glob
import os
import signal
import socket
import subprocess
import time

from tools import images, workplace
from tools.layout import Layout
from tools.registry import Registry, htpasswd_auth, write_docker_config
from tools.testcase import EndToEnd, brokers_under, mounts_under, servers_under

PASSWORD = "correct-horse-battery-staple"


def files_under(directory):
    return sorted(os.path.relpath(os.path.join(parent, name), directory)
                  for parent, _, names in os.walk(directory) for name in names)


@contextlib.contextmanager
def open_directory(path):
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def opened_by(pid):
    """What a process has open; empty when it has ended."""
    found = set()
    with contextlib.suppress(OSError):
        for name in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(FileNotFoundError):
                found.add(os.readlink(f"/proc/{pid}/fd/{name}"))
    return found


class Errors(EndToEnd):
    """Against a registry that has one indexed image."""

    def setUp(self):
        image = images.small()
        self.image_reference = self.push(image.layout, image.tag, "small")
        self.addCleanup(self.assert_nothing_left)

    def assert_nothing_left(self):
        self.assertEqual(mounts_under(self.directory), [])
        self.assertEqual(servers_under(self.directory), [])

    def fails_to_mount(self, reference, *options, **expected):
        point = os.path.join(self.directory, self._testMethodName + "-mnt")
        os.makedirs(point, exist_ok=True)
        return self.fails("mount", reference, point, "--cache", self.cache, *options, **expected)


class Usage(Errors):
    """Exit code 2, and a word about what would be right."""

    needs_mount = False

    def test_no_arguments(self):
        self.assertIn("usage", self.sluice(expect=2).stderr.lower())

    def test_unknown_command(self):
        self.assertIn("frobnicate", self.sluice("frobnicate", expect=2).stderr)

    def test_unknown_option_of_each_command(self):
        for command in ("index", "inspect", "mount", "umount", "status"):
            with self.subTest(command):
                done = self.sluice(command, "--frobnicate", "x", "y", expect=2)
                self.assertIn("--frobnicate", done.stderr)
                self.assertIn("sluice " + command, done.stderr.splitlines()[0])
        self.assertIn("--frobnicate", self.sluice("--frobnicate", "status", expect=2).stderr)
        self.assertIn("-vx", self.sluice("-vx", "status", expect=2).stderr)

    def test_missing_and_superfluous_arguments(self):
        for words in (["index"], ["inspect"], ["mount"], ["mount", "image"], ["umount"],
                      ["index", "a", "b"], ["mount", "a", "b", "c"], ["status", "a", "b"]):
            with self.subTest(words):
                self.assertTrue(self.sluice(*words, expect=2).stderr)

    def test_values_that_are_none(self):
        for words in (["index", "a", "--threads", "many"], ["index", "a", "--threads", "0"],
                      ["index", "a", "--platform"], ["mount", "a", "b", "--index", "sha256:12"]):
            with self.subTest(words):
                self.assertTrue(self.sluice(*words, expect=2).stderr)

    def test_help_and_version(self):
        self.assertIn("mount", self.sluice("--help").stdout)
        with open(os.path.join(workplace.PROJECT, "packaging/version"), encoding="ascii") as file:
            self.assertIn(file.read().strip(), self.sluice("--version").stdout)
        for command in ("index", "inspect", "mount", "umount", "status"):
            with self.subTest(command):
                self.assertIn("sluice " + command, self.sluice(command, "--help").stdout)


class BadReferences(Errors):
    """Names that mean nothing, or nothing there."""

    needs_mount = False

    def everywhere(self, reference, says, *options, code=1):
        for command in ("index", "inspect"):
            with self.subTest(command):
                self.fails(command, reference, *options, says=says, code=code)
        with self.subTest("mount"):
            self.fails_to_mount(reference, *options, says=says, code=code)

    def test_not_a_reference(self):
        for reference in ("UPPER/case", "a b", "127.0.0.1:5000/x:", "x@sha256:12", "", "/x"):
            with self.subTest(reference):
                for words in (["index", reference], ["inspect", reference]):
                    done = subprocess.run([workplace.SLUICE, *words], capture_output=True,
                                          text=True, check=False, env=self.environment)
                    self.assertIn(done.returncode, (1, 2))
                    self.assertEqual(len(done.stderr.strip().splitlines()), 1, done.stderr)

    def test_no_such_image(self):
        self.everywhere(self.reference("nothing"), ("nothing", "not found"))

    def test_no_such_tag(self):
        self.everywhere(self.reference("small", "no-tag"), ("no-tag", "not found"))

    def test_no_such_registry(self):
        with socket.socket() as nobody:
            nobody.bind(("127.0.0.1", 0))
            name = "127.0.0.1:%d" % nobody.getsockname()[1]
            self.everywhere(name + "/image", (name, "refused"))

    def test_bad_platform(self):
        self.everywhere(self.image_reference, ("linux-amd64",), "--platform", "linux-amd64",
                        code=2)

    def test_no_index(self):
        for command in (["inspect", self.image_reference],):
            self.fails(*command, says=(f"sluice index {self.image_reference}",))
        self.fails_to_mount(self.image_reference, says=(f"sluice index {self.image_reference}",))

    def test_corrupted_metadata(self):
        image = images.variants()["tar"]
        reference = self.push(image.layout, image.tag, "corrupted")
        output = os.path.join(self.directory, "corrupted-layout")
        self.sluice("index", reference)
        self.sluice("index", reference, "--output", output)
        blobs = os.path.join(output, "blobs/sha256")
        damaged = 0
        for name in os.listdir(blobs):
            path = self.registry.blob_file("sha256:" + name)
            with open(path, "r+b") as file:
                data = bytearray(file.read())
                if len(data) > 4 and data[:4] == b"\x28\xb5\x2f\xfd":  # zstd: a part of the index
                    data[len(data) // 2] ^= 0x10
                    file.seek(0)
                    file.write(data)
                    damaged += 1
        self.assertGreater(damaged, 0)
        self.fails_to_mount(reference, says=("sha256:", "digest"))


class BadPlaces(Errors):
    """Directories that cannot be mounted on, unmounted or written to."""

    def setUp(self):
        super().setUp()
        self.sluice("index", self.image_reference)

    def mount_fails(self, point, *says):
        self.fails("mount", self.image_reference, point, "--cache", self.cache, says=says)

    def test_no_such_directory(self):
        self.mount_fails(os.path.join(self.directory, "not-there"), "not-there", "no such file")

    def test_file_instead_of_a_directory(self):
        path = os.path.join(self.directory, "a-file")
        with open(path, "w", encoding="ascii") as file:
            file.write("x")
        self.mount_fails(path, "a-file", "directory")

    def test_mounted_already(self):
        point = self.mount(self.image_reference)
        self.mount_fails(point, point, "already")
        self.assertEqual(self.status(point)["reference"], self.image_reference)
        self.unmount(point)

    def test_mount_that_lost_its_server(self):
        point = self.make_directory("dead")
        self.addCleanup(self.unmount_if_mounted, point)
        self.sluice("mount", self.image_reference, point, "--cache", self.cache)
        # Nothing has looked at it, so the kernel knows nothing to answer with.
        os.kill(self.status(point)["pid"], signal.SIGKILL)
        self.wait_until(lambda: not servers_under(point), "the server is gone")
        self.fails("status", point, says=("has died", f"sluice umount '{point}'"))
        self.mount_fails(point, point, "has died", f"sluice umount '{point}'")
        self.sluice("umount", point)
        self.assertEqual(os.listdir(point), [])
        self.sluice("mount", self.image_reference, point, "--cache", self.cache)

    def test_umount_of_what_is_no_mount(self):
        point = self.make_directory("plain")
        self.fails("umount", point, says=(point,))
        self.fails("umount", point + "/not-there", says=("not-there",))

    def test_umount_leaves_foreign_mounts_alone(self):
        point = self.make_directory("tmpfs")
        subprocess.run(["mount", "-t", "tmpfs", "foreign", point], check=True)
        try:
            self.fails("umount", point, says=(point, "sluice"))
            self.assertTrue(os.path.ismount(point))
        finally:
            subprocess.run(["umount", point], check=True)

    def test_status_of_what_is_no_mount(self):
        self.fails("status", self.make_directory("plain"), says=("plain",))

    def test_unwritable_cache(self):
        path = os.path.join(self.directory, "cache-is-a-file")
        with open(path, "w", encoding="ascii") as file:
            file.write("x")
        for cache in (path, path + "/below", "/proc/no-cache"):
            with self.subTest(cache):
                self.fails("mount", self.image_reference, self.make_directory(str(len(cache))),
                           "--cache", cache, says=(cache,))

    def test_cache_that_others_can_write_to(self):
        cache = self.make_directory("open")
        os.chmod(cache, 0o777)
        self.fails("mount", self.image_reference, self.make_directory("mnt"), "--cache", cache,
                   says=(cache,))

    def test_wrong_index_digest(self):
        self.fails_to_mount(self.image_reference, "--index", "sha256:" + "0" * 64,
                            says=("sha256:0000", "not found"))

    def test_registry_storage_damaged_in_a_layer(self):
        """A chunk that is not what the index says is EIO, never other bytes."""
        image = images.variants()["tar"]
        reference = self.push(image.layout, image.tag, "damaged-layer")
        self.sluice("index", reference)
        manifest = image.layout.json(image.layout.find(image.tag)["digest"])
        with open(self.registry.blob_file(manifest["layers"][0]["digest"]), "r+b") as file:
            file.seek(4096)
            file.write(b"\xff" * 64)
        point = self.mount(reference, cache=os.path.join(self.directory, "cache-damaged"))
        with self.assertRaises(OSError) as caught, \
                open(os.path.join(point, "lower/0000"), "rb") as file:
            file.read()
        self.assertEqual(caught.exception.strerror, "Input/output error")
        with open(os.path.join(point, "upper/text"), "rb") as file:
            self.assertEqual(len(file.read()), 5 << 20)
        self.unmount(point)


class Killed(Errors):
    """SIGKILL at any moment leaves nothing that is half-written."""

    def test_killed_index_run(self):
        image, _ = images.python_images()
        reference = self.push(image.layout, image.tag, "python")
        digest = image.layout.find(image.tag)["digest"]
        tag = digest.replace(":", "-")
        client = self.client()
        for delay in (0.05, 0.2, 0.5, 1.0):
            process = subprocess.Popen([workplace.SLUICE, "index", reference],
                                       env=self.environment, stdin=subprocess.DEVNULL,
                                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            time.sleep(delay)
            process.kill()
            process.wait()
            # The registry may still be at work on what it was sent.
            point = os.path.join(self.directory, f"killed-{delay}")
            os.mkdir(point)
            done = self.sluice("mount", reference, point, "--cache", self.cache, expect=None)
            if done.returncode == 0:
                self.unmount(point)
                break  # it was quick: the index is complete, as the mount below proves
            self.assertIn("sluice index", done.stderr)
        self.sluice("index", reference)
        point = self.mount(reference)
        self.assertTrue(os.path.exists(os.path.join(point, "usr/bin/python3")))
        self.unmount(point)

    def test_killed_output_run(self):
        image, _ = images.python_images()
        reference = self.push(image.layout, image.tag, "python")
        output = os.path.join(self.directory, "killed-output")
        process = subprocess.Popen([workplace.SLUICE, "index", reference, "--output", output],
                                   env=self.environment, stdin=subprocess.DEVNULL,
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(0.5)
        process.kill()
        process.wait()
        self.sluice("index", reference, "--output", output)
        self.sluice("index", reference, "--output", output + "-whole")
        self.assertEqual(sorted(os.listdir(output + "/blobs/sha256")),
                         sorted(os.listdir(output + "-whole/blobs/sha256")))

    def test_killed_while_it_writes_output(self):
        """In the layout's first file, and in its first part: the next run clears up."""
        whole = os.path.join(self.directory, "layout-whole")
        self.sluice("index", self.image_reference, "--output", whole)
        for size, unfinished in ((10, "oci-layout.*"), (100, "blobs/sha256/*.sluice-*")):
            with self.subTest(unfinished):
                output = os.path.join(self.directory, f"layout-{size}")
                done = subprocess.run(
                    ["prlimit", f"--fsize={size}", "--core=0", workplace.SLUICE, "index",
                     self.image_reference, "--output", output],
                    env=self.environment, stdin=subprocess.DEVNULL, capture_output=True,
                    check=False)
                self.assertEqual(done.returncode, -signal.SIGXFSZ, done.stderr)
                self.assertEqual(len(glob.glob(os.path.join(output, unfinished))), 1)
                self.sluice("index", self.image_reference, "--output", output)
                self.assertEqual(files_under(output), files_under(whole))

    def test_what_another_is_writing_is_left(self):
        output = self.make_directory("layout")
        temporary = os.path.join(output, "oci-layout.sluice-aaaaaa")
        open(temporary, "wb").close()
        with open_directory(output) as other:
            fcntl.flock(other, fcntl.LOCK_EX)
            process = subprocess.Popen([workplace.SLUICE, "index", self.image_reference,
                                        "--output", output],
                                       env=self.environment, stdin=subprocess.DEVNULL,
                                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            self.addCleanup(process.wait)
            self.addCleanup(process.kill)
            self.wait_until(lambda: output in opened_by(process.pid), "it has come to writing")
            self.assertEqual(files_under(output), [os.path.basename(temporary)])
        self.assertEqual(process.wait(timeout=240), 0)
        self.assertFalse(os.path.exists(temporary))
        self.assertEqual(len(Layout(output).manifests()), 1)

    def test_killed_mount_command(self):
        self.sluice("index", self.image_reference)
        point = self.make_directory("mnt")
        for delay in (0.0, 0.005, 0.01, 0.02, 0.05):
            process = subprocess.Popen(
                [workplace.SLUICE, "mount", "--foreground", self.image_reference, point, "--cache",
                 self.cache], env=self.environment, stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            time.sleep(delay)
            process.kill()
            process.wait()
            # It may be about to mount, for a server that is gone.
            self.wait_until(lambda: not brokers_under(point), "the broker has ended")
            if point in mounts_under(self.directory):
                self.sluice("umount", point)
            self.assertEqual(mounts_under(self.directory), [])
        # Whatever the killed ones left behind is no obstacle.
        point = self.mount(self.image_reference, name="mnt")
        self.unmount(point)

    def test_signals_unmount(self):
        self.sluice("index", self.image_reference)
        point = self.make_directory("mnt")
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            with self.subTest(number.name):
                process = subprocess.Popen(
                    [workplace.SLUICE, "mount", "-f", self.image_reference, point, "--cache",
                     self.cache], env=self.environment, stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
                self.wait_until(lambda: os.path.ismount(point), "mounted in the foreground")
                process.send_signal(number)
                self.assertEqual(process.wait(timeout=120), 0, process.stderr.read())
                process.stderr.close()
                self.assertFalse(os.path.ismount(point))


class Credentials(Errors):
    """A registry that wants a password."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        directory = os.path.join(cls.directory, "private")
        os.mkdir(directory)
        cls.private = Registry(directory, htpasswd_auth(directory, "alice", PASSWORD))
        cls.addClassCleanup(cls.private.stop)

    def setUp(self):
        super().setUp()
        image = images.small()
        self.private_reference = self.push(image.layout, image.tag, "small", registry=self.private,
                                           credentials=("alice", PASSWORD))

    def docker_config(self, password):
        path = write_docker_config(self.directory, self.private.name, "alice", password)
        return {"DOCKER_CONFIG": path}

    def test_no_credentials(self):
        for command in ("index", "inspect"):
            self.fails(command, self.private_reference,
                       says=(self.private.name, "credentials", "login"))

    def test_wrong_credentials_are_not_shown(self):
        wrong = "wrong-" + PASSWORD
        environment = self.docker_config(wrong)
        for options in ([], ["-v"]):
            done = self.sluice(*options, "index", self.private_reference, expect=1,
                               environment=environment)
            self.assertIn("alice", done.stderr)
            self.assert_no_secret(done.stdout + done.stderr, wrong)

    def assert_no_secret(self, text, password):
        import base64  # pylint: disable=import-outside-toplevel
        self.assertNotIn(password, text)
        self.assertNotIn(base64.b64encode(f"alice:{password}".encode()).decode(), text)

    def test_right_credentials_are_not_shown(self):
        environment = self.docker_config(PASSWORD)
        done = self.sluice("-v", "index", self.private_reference, environment=environment)
        self.assert_no_secret(done.stdout + done.stderr, PASSWORD)
        point = self.mount(self.private_reference, "-v", environment=environment)
        self.assert_no_secret(self.mount_output.stdout + self.mount_output.stderr, PASSWORD)
        status = self.sluice("status", point, "--json").stdout
        with open(os.path.join(point, "lower/text"), "rb") as file:
            self.assertEqual(len(file.read()), 5 << 20)
        self.assert_no_secret(status, PASSWORD)
        self.unmount(point)
        for directory, _, names in os.walk(self.cache):
            for name in names:
                with open(os.path.join(directory, name), "rb") as file:
                    self.assert_no_secret(file.read().decode("latin-1"), PASSWORD)

