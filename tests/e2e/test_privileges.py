"""What the server of a mount gives up, and that all it needs privileges for still works."""

import contextlib
import os
import random
import re
import select
import signal
import socket
import stat
import subprocess

from tools import images, workplace
from tools.registry import Registry, htpasswd_auth
from tools.testcase import EndToEnd, brokers_under, mounts_under, servers_under

IN_FORCE = {"no-capabilities", "no-new-privileges", "system-calls", "files"}


def thread_states(pid):
    """Of each thread what /proc/PID/task/TID/status tells, as a dictionary."""
    for thread in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{thread}/status", encoding="utf-8") as file:
            yield dict(re.findall(r"^(\w+):\s*(.*)$", file.read(), re.MULTILINE))


class Privileges(EndToEnd):
    """The server of root's mount."""

    def setUp(self):
        image = images.small()
        self.image_reference = self.push(image.layout, image.tag, "small")
        self.sluice("index", self.image_reference)

    def test_no_thread_has_any(self):
        point = self.mount(self.image_reference)
        (pid, _), = servers_under(point)
        count = 0
        for state in thread_states(pid):
            for kind in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
                self.assertEqual(int(state[kind], 16), 0, (state["Name"], kind))
            self.assertEqual(state["NoNewPrivs"], "1", state["Name"])
            count += 1
        self.assertGreater(count, 4)
        told = set(self.status(point)["confinement"])
        self.assertLessEqual({"no-capabilities", "no-new-privileges"}, told)
        self.assertLessEqual(told, IN_FORCE)
        if "system-calls" in told:
            self.assertEqual({state["Seccomp"] for state in thread_states(pid)}, {"2"})
        self.assertIn("no-capabilities", self.sluice("status", point).stdout)
        self.assertEqual(len(brokers_under(point)), 1)

    def ends(self, point):
        self.wait_until(lambda: not servers_under(point), "the server has ended")
        self.wait_until(lambda: not brokers_under(point), "its broker has ended")

    def test_every_way_to_unmount(self):
        def terminate(point):
            (pid, _), = servers_under(point)
            os.kill(pid, signal.SIGTERM)

        def terminate_all(point):
            """As who stops a whole unit of processes does."""
            for pid in brokers_under(point) + [pid for pid, _ in servers_under(point)]:
                os.kill(pid, signal.SIGTERM)

        def umount(point):
            subprocess.run(["umount", point], check=True)

        ways = {"term": terminate, "term-all": terminate_all, "umount8": umount,
                "sluice": lambda point: self.sluice("umount", point)}
        for name, way in ways.items():
            with self.subTest(name):
                point = self.mount(self.image_reference, name=name)
                way(point)
                self.ends(point)
                self.assertFalse(os.path.ismount(point))

    def test_a_killed_server_takes_its_broker_along(self):
        point = self.mount(self.image_reference)
        (pid, _), = servers_under(point)
        os.kill(pid, signal.SIGKILL)
        self.ends(point)
        self.sluice("umount", point)

    def test_a_mount_outlives_its_broker(self):
        """Only unmounting from within is lost."""
        point = self.mount(self.image_reference)
        pid, = brokers_under(point)
        os.kill(pid, signal.SIGKILL)
        with open(os.path.join(point, "lower/text"), "rb") as file:
            self.assertEqual(len(file.read()), 5 << 20)
        self.sluice("umount", point)
        self.ends(point)

    def test_foreground(self):
        point = self.make_directory("mnt")
        self.addCleanup(self.unmount_if_mounted, point)
        with subprocess.Popen([workplace.SLUICE, "mount", "-f", self.image_reference, point,
                               "--cache", self.cache], env=self.environment,
                              stderr=subprocess.PIPE) as server:
            self.wait_until(lambda: os.path.ismount(point), "mounted")
            self.assertIn("no-capabilities", self.status(point)["confinement"])
            server.send_signal(signal.SIGINT)
            self.assertEqual(server.communicate(timeout=120)[1], b"")
            self.assertEqual(server.returncode, 0)
        self.ends(point)
        self.assertFalse(os.path.ismount(point))


class HelperAfterMount(EndToEnd):
    """A registry whose password changes while an image is mounted; a helper knows it."""

    def test_helper_is_asked_again(self):
        directory = self.make_directory("private")
        private = Registry(directory, htpasswd_auth(directory, "alice", "first"))
        self.addCleanup(private.stop)
        image = images.small()
        reference = self.push(image.layout, image.tag, "small", registry=private,
                              credentials=("alice", "first"))
        programs = self.make_directory("programs")
        helper = os.path.join(programs, "docker-credential-tests")
        asked, password = os.path.join(programs, "asked"), os.path.join(programs, "password")

        def write(path, text):
            with open(path, "w", encoding="utf-8") as file:
                file.write(text)

        # It writes files of its own, as helpers do that keep tokens.
        write(helper, "#!/bin/sh\n"
                      f"[ \"$1\" = get ] && cat >> '{asked}' && echo >> '{asked}'\n"
                      "printf '{\"Username\":\"alice\",\"Secret\":\"%s\"}' "
                      f"\"$(cat '{password}')\"\n")
        os.chmod(helper, os.stat(helper).st_mode | stat.S_IXUSR)
        write(password, "first")
        write(os.path.join(programs, "config.json"), '{"credsStore": "tests"}')
        environment = {"PATH": f"{programs}:{os.environ['PATH']}", "DOCKER_CONFIG": programs}
        self.sluice("index", reference, environment=environment)
        point = self.mount(reference, environment=environment)
        before = os.path.getsize(asked)
        private.stop()
        private.auth = htpasswd_auth(directory, "alice", "second")
        write(password, "second")
        private.start()
        with open(os.path.join(point, "lower/text"), "rb") as file:
            self.assertEqual(len(file.read()), 5 << 20)
        self.assertGreater(os.path.getsize(asked), before)
        self.assertEqual(self.status(point)["errors"], 0)
        self.unmount(point)
        self.wait_until(lambda: not brokers_under(point), "the broker has ended")


class BrokerRequests(EndToEnd):
    """A server that somebody has got hold of says what it likes to its broker."""

    def setUp(self):
        self.point = self.make_directory("mnt")
        self.addCleanup(subprocess.run, ["umount", "-l", self.point], check=False,
                        stderr=subprocess.DEVNULL)
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.addCleanup(self.socket.close)
        # A helper that never answers.
        programs = self.make_directory("programs")
        helper = os.path.join(programs, "docker-credential-tests")
        with open(helper, "w", encoding="utf-8") as file:
            file.write("#!/bin/sh\nexec sleep 1000\n")
        os.chmod(helper, 0o755)
        with open(os.path.join(programs, "config.json"), "w", encoding="utf-8") as file:
            file.write('{"credsStore": "tests"}')
        environment = {**self.environment, "DOCKER_CONFIG": programs,
                       "PATH": f"{programs}:{os.environ['PATH']}"}
        # The shell puts the socket where a broker looks for it.
        script = f"exec 3<&{theirs.fileno()}; exec -a sluice-broker '{workplace.SLUICE}' \"$@\""
        self.broker = subprocess.Popen(["bash", "-c", script, "-", self.point, "nosuid", "nodev"],
                                       pass_fds=[theirs.fileno()], env=environment,
                                       stderr=subprocess.PIPE)
        self.addCleanup(self.broker.stderr.close)
        self.addCleanup(self.broker.wait)
        self.addCleanup(self.broker.kill)
        theirs.close()

    def send(self, request):
        """The socket on which the answer comes."""
        ours, theirs = socket.socketpair()
        self.addCleanup(ours.close)
        socket.send_fds(self.socket, [request], [theirs.fileno()])
        theirs.close()
        ours.settimeout(30)
        return ours

    def ask(self, verb, text=b""):
        """(status, text, number of descriptors) of the answer; status None without one."""
        return self.answer_to(self.send(verb + b"0 " + text))

    def answer_to(self, answer):
        first, descriptors, _, _ = socket.recv_fds(answer, 1, 4)
        for descriptor in descriptors:
            self.addCleanup(os.close, descriptor)
        text = b""
        while first:
            more = answer.recv(65536)
            if not more:
                break
            text += more
        return first[0] if first else None, text, len(descriptors)

    def ends(self):
        self.socket.close()
        self.assertEqual(self.broker.wait(timeout=120), 0, self.broker.stderr.read())

    def test_nonsense(self):
        generator = random.Random(7)
        for _ in range(300):
            length = generator.choice((1, 2, 100, 4096, 20000))
            request = generator.randbytes(length)
            self.assertEqual(self.answer_to(self.send(request)), (None, b"", 0))
        for request in (b"m", b"mimage", b"m image", b"m0", b"m0image", b"?0 image"):
            self.assertEqual(self.answer_to(self.send(request)), (None, b"", 0))
        self.socket.send(b"m0 without a socket for the answer")
        self.assertFalse(os.path.ismount(self.point))
        self.assertEqual(self.ask(b"u")[0], 0, "it is still there; nothing was mounted")
        self.ends()

    def test_one_mount_and_no_other(self):
        self.assertEqual(self.ask(b"m", b"image,suid,dev\\,allow_other")[0::2], (0, 1))
        self.assertEqual(mounts_under(self.directory), [self.point])
        with open("/proc/self/mountinfo", encoding="utf-8") as file:
            line, = (line for line in file if self.point in line)
        self.assertIn("nosuid,nodev", line)
        status, text, count = self.ask(b"m", b"another")
        self.assertEqual((count, b"before" in text), (0, True))
        self.assertNotEqual(status, 0)
        self.assertEqual(self.ask(b"u")[0], 0)
        self.assertEqual(mounts_under(self.directory), [])
        self.assertNotEqual(self.ask(b"m", b"again")[0], 0)
        self.ends()

    def mount_by_kernel(self, *items):
        """(status, text) for what the kernel is to mount: bytes, and descriptors or None."""
        answer = self.send(b"k0 image")
        for item, descriptor in items:
            with contextlib.suppress(BrokenPipeError):
                socket.send_fds(answer, [item], [] if descriptor is None else [descriptor])
        answer.shutdown(socket.SHUT_WR)
        status = answer.recv(1)
        text = b""
        while more := answer.recv(65536):
            text += more
        return status[0], text

    def test_kernel_mounts_plain_files_only(self):
        """The broker opens them once more: it must not read what the server cannot."""
        secret = os.path.join(self.directory, "secret")
        with open(secret, "wb") as file:
            file.write(bytes(8192))
        flags = {"path": os.O_PATH, "for writing": os.O_WRONLY}
        opened = {name: os.open(secret, how) for name, how in flags.items()}
        opened["directory"] = os.open(self.directory, os.O_RDONLY)
        opened["device"] = os.open("/dev/null", os.O_RDONLY)
        plain = os.open(secret, os.O_RDONLY)
        for descriptor in (*opened.values(), plain):
            self.addCleanup(os.close, descriptor)
        for name, descriptor in opened.items():
            for items in (((b"f", descriptor),), ((b"f", plain), (b"f", descriptor))):
                with self.subTest(name, items=len(items)):
                    status, text = self.mount_by_kernel(*items, (b".", None))
                    self.assertEqual((status != 0, b"no plain file" in text), (True, True), text)
        for items in ((), ((b".", None),), ((b"f", None),), ((b"f", plain),), ((b"d", plain),),
                      ((b"f", plain), (b"?", None)), ((b"f", plain), (b".", plain))):
            with self.subTest(items=items[:3]):
                status, text = self.mount_by_kernel(*items)
                self.assertEqual((status != 0, b"not complete" in text), (True, True), text)
        # More than there can be are not even read.
        with contextlib.suppress(ConnectionResetError):
            status, _ = self.mount_by_kernel((b"f", plain), *[(b"d", None)] * 600)
            self.assertNotEqual(status, 0)
        status, _ = self.mount_by_kernel((b"f", plain), (b".", None))
        self.assertNotEqual(status, 0, "it is no EROFS image")
        status, _ = self.mount_by_kernel((b"f", plain), (b"d", None), (b".", None))
        self.assertNotEqual(status, 0, "there is no device mount")
        self.assertEqual(mounts_under(self.directory), [])
        self.assertEqual(self.ask(b"u")[0], 0, "it is still there")
        self.ends()

    def test_registries_that_are_none(self):
        for name in (b"", b"../../etc/shadow", b"a\tb", b"$(id)", b"-h", b"x" * 4000, b"\xff"):
            with self.subTest(name):
                status, text, count = self.ask(b"c", name + b" team/image")
                self.assertEqual((status != 0, b"not the name" in text, count), (True, True, 0))
        self.ends()

    def test_many_searches(self):
        """Who has closed the socket for the answer has the search ended, helper and all."""
        answers = [self.send(b"c0 registry.example team/image") for _ in range(40)]
        refused = 0
        for answer in answers[::-1]:
            readable, _, _ = select.select([answer], [], [], 5 if refused == 0 else 0)
            refused += bool(readable)
        self.assertEqual(refused, 40 - 16)
        self.assertEqual(self.ask(b"u")[0], 0, "nobody waits for them")
        for answer in answers:
            answer.close()
        self.ends()
