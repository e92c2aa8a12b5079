"""What a node needs: what is installed, systemd's units, containerd's snippets, Kubernetes' manifest."""

import copy
import glob
import os
import re
import shutil
import subprocess
import tempfile
import unittest

import yaml
from kubernetes.client import models

from tools import container_images, workplace
from tools.containerd import Containerd
from tools.container_images import PROGRAM
from tools.sluiced_node import SluicedNode

_PACKAGING = os.path.join(workplace.PROJECT, "packaging")
_PROGRAMS = ("sluice", "sluiced", "sluice-holder")
_UNITS = ("sluiced.service", "sluice-holder.service")
_SOCKET = "/run/sluice/snapshotter.sock"


class Scratch(unittest.TestCase):
    """Each test has an empty directory."""

    maxDiff = None

    def setUp(self):
        made = tempfile.TemporaryDirectory(prefix="sluice-packaging-")
        self.addCleanup(made.cleanup)
        self.directory = made.name

    def path(self, *names):
        return os.path.join(self.directory, *names)


class Install(Scratch):
    """make install, into a directory that stands for a machine."""

    def install(self, prefix):
        # Of the programs only the names matter here, and another build may be under test.
        build = self.path("build")
        os.mkdir(build)
        for name in _PROGRAMS:
            shutil.copy("/bin/true", os.path.join(build, name))
        subprocess.run(["make", "--no-print-directory", "-C", workplace.PROJECT,
                        "install-files", f"BUILD={build}",
                        f"DESTDIR={self.directory}", f"PREFIX={prefix}"], check=True,
                       stdin=subprocess.DEVNULL, capture_output=True)

    def units(self, prefix):
        """What systemd says against the units, on a machine that has them and its own ones."""
        os.makedirs(self.path("usr/lib/systemd"), exist_ok=True)
        os.symlink("usr/lib", self.path("lib"))
        os.makedirs(self.path("bin"), exist_ok=True)
        shutil.copy("/bin/true", self.path("bin/sh"))
        system = self.path("usr/lib/systemd/system")
        os.makedirs(system, exist_ok=True)
        for unit in glob.glob("/lib/systemd/system/*.target"):
            shutil.copy(unit, system, follow_symlinks=False)
        for unit in _UNITS:
            self.assertTrue(os.path.exists(self.path(prefix[1:], "lib/systemd/system", unit)))
        done = subprocess.run(["systemd-analyze", "verify", "--man=no", f"--root={self.directory}",
                               *_UNITS], check=False, stdin=subprocess.DEVNULL, text=True,
                              capture_output=True)
        return done.returncode, done.stdout + done.stderr

    def test_units(self):
        """systemd knows each key, and the programs are where the units look for them."""
        for prefix in ("/usr/local", "/usr"):
            with self.subTest(prefix=prefix):
                self.setUp()
                self.install(prefix)
                self.assertEqual((0, ""), self.units(prefix))

    def test_units_without_their_programs(self):
        """The check above finds what it should find."""
        self.install("/usr/local")
        os.unlink(self.path("usr/local/bin/sluiced"))
        code, said = self.units("/usr/local")
        self.assertNotEqual(0, code)
        self.assertIn("/usr/local/bin/sluiced is not executable", said)

    def test_pages_and_snippets(self):
        self.install("/usr/local")
        for page in glob.glob(os.path.join(workplace.PROJECT, "docs/man/*")):
            section = page[-1]
            self.assertTrue(os.path.exists(self.path("usr/local/share/man", f"man{section}",
                                                     os.path.basename(page))))
        for name in ("containerd", "prometheus"):
            self.assertEqual(sorted(os.listdir(os.path.join(_PACKAGING, name))),
                             sorted(os.listdir(self.path("usr/local/share/sluice", name))))


class SnippetContainerd(Containerd):
    """Configured by the snippet: in its configuration where that is of version 2 (what a file says
    that is imported would replace all of CRI's section), else imported by it."""

    def _configure(self, pause, snapshotter, proxies):
        own = ("snapshotter =", "disable_snapshot_annotations", "platform =", "[[plugins.",
               '[plugins."io.containerd.grpc.v1.cri".containerd]')
        common = "".join(line + "\n" for line in super()._configure(
            pause, snapshotter, {}).splitlines() if not line.startswith(own))
        name = "sluice-1.x.toml" if self.version == 2 else "sluice-2.x.toml"
        with open(os.path.join(_PACKAGING, "containerd", name), encoding="utf-8") as file:
            snippet = file.read()
        if snippet.count(_SOCKET) != 1:
            raise AssertionError(f"{name} names the socket {snippet.count(_SOCKET)} times")
        snippet = snippet.replace(_SOCKET, proxies["sluice"])
        if self.version == 2:
            return common + snippet.replace("version = 2\n", "")
        imported = os.path.join(self.directory, "sluice.toml")
        with open(imported, "w", encoding="utf-8") as file:
            file.write(snippet)
        return f'imports = ["{imported}"]\n' + common


class Snippets(SluicedNode):
    """A pull by CRI finds out that the image is lazy: plugin, snapshotter and labels are right."""

    containerd_class = SnippetContainerd
    indexed = (3,)

    def test_lazy(self):
        image = container_images.chain()[3]
        reference = self.reference(image.tag)
        self.cri.pull(reference)
        self.assertEqual([reference], [each["name"] for each in self.sluiced_status()["images"]])
        self.assertEqual([], self.layers_in_store(image))
        pod = self.pod()
        self.assertEqual((0, "layer 3\n"),
                         self.cri.run(pod, "shows", reference, PROGRAM, "show", "/etc/top"))
        self.cri.remove_pod(pod)
        self.remove_images()
        self.assert_nothing_left()


class SnippetsNewer(Snippets):
    """containerd 2.x."""

    newer = True


_KINDS = {("v1", "Namespace"): "V1Namespace", ("apps/v1", "DaemonSet"): "V1DaemonSet"}
_PLAIN = {"str": str, "int": int, "bool": bool, "object": (str, int)}


class Manifest(unittest.TestCase):
    """Against Kubernetes' API, as its client for Python has it: which fields an object has, of which
    types, and which must be there."""

    def setUp(self):
        path = os.path.join(_PACKAGING, "kubernetes", "daemonset.yaml")
        with open(path, encoding="utf-8") as file:
            self.objects = list(yaml.safe_load_all(file))

    def check(self, kind, value, where):
        several = re.fullmatch(r"(list\[|dict\(str, )(\w+)[\])]", kind)
        if several:
            container = list if kind.startswith("list") else dict
            self.assertIsInstance(value, container, where)
            for key, each in enumerate(value) if container is list else value.items():
                self.check(several[2], each, f"{where}[{key}]")
        elif kind in _PLAIN:
            self.assertIsInstance(value, _PLAIN[kind], where)
            self.assertEqual(kind == "bool", isinstance(value, bool), where)
        else:
            model = getattr(models, kind)
            attributes = {name: attribute for attribute, name in model.attribute_map.items()}
            self.assertIsInstance(value, dict, where)
            self.assertLessEqual(set(value), set(attributes), f"{where} has no such field")
            for name, each in value.items():
                self.check(model.openapi_types[attributes[name]], each, f"{where}.{name}")
            model(**{attributes[name]: each for name, each in value.items()})

    def test_fields(self):
        for each in self.objects:
            self.check(_KINDS[each["apiVersion"], each["kind"]], each, each["kind"])

    def test_fields_that_are_wrong(self):
        """The check above finds what it should find."""
        def pod(of):
            return of["spec"]["template"]["spec"]

        for spoil in (lambda of: pod(of).update(initContainer=[]),
                      lambda of: pod(of)["containers"][0].update(command="sleep"),
                      lambda of: pod(of)["containers"][0].pop("name"),
                      lambda of: pod(of).update(hostPID="true"),
                      lambda of: pod(of)["nodeSelector"].update(install=True),
                      lambda of: of["spec"].pop("selector")):
            daemonset = copy.deepcopy(self.objects[1])
            spoil(daemonset)
            with self.assertRaises((AssertionError, ValueError)):
                self.check("V1DaemonSet", daemonset, "DaemonSet")

    def test_what_belongs_together(self):
        namespace, daemonset = self.objects
        self.assertEqual(namespace["metadata"]["name"], daemonset["metadata"]["namespace"])
        spec = daemonset["spec"]
        template = spec["template"]
        for item in spec["selector"]["matchLabels"].items():
            self.assertIn(item, template["metadata"]["labels"].items())
        pod = template["spec"]
        volumes = {volume["name"] for volume in pod["volumes"]}
        containers = pod["initContainers"] + pod["containers"]
        self.assertEqual(len(containers), len({each["name"] for each in containers}))
        for container in containers:
            for mount in container.get("volumeMounts", []):
                self.assertIn(mount["name"], volumes)

    def test_programs_are_in_the_image(self):
        """What the init container runs, and what that copies."""
        with open(os.path.join(_PACKAGING, "kubernetes", "Containerfile"),
                  encoding="utf-8") as file:
            copied = [line.split()[1:] for line in file if line.startswith("COPY")]
        command = self.objects[1]["spec"]["template"]["spec"]["initContainers"][0]["command"]
        self.assertIn(["packaging/kubernetes/install-on-host", *command], copied)
        self.assertIn([*(f"build/{name}" for name in _PROGRAMS), "/usr/local/bin/"], copied)
        for sources in copied:
            for source in sources[:-1]:
                if not source.startswith("build/"):
                    self.assertTrue(os.path.exists(os.path.join(workplace.PROJECT, source)))


class InstallOnHost(Scratch):
    """What the DaemonSet's init container does to a host."""

    def setUp(self):
        super().setUp()
        for name in ("host/etc/containerd", "host/run", "files/bin", "files/lib/sluice", "path"):
            os.makedirs(self.path(name))
        for name in _PROGRAMS:
            self.write("files/bin/" + name, name)
        for name in ("systemd", "containerd"):
            shutil.copytree(os.path.join(_PACKAGING, name), self.path("files/lib/sluice", name))
        os.symlink(os.path.join(workplace.PROJECT, "tests/fakes/nsenter"),
                   self.path("path/nsenter"))

    def write(self, name, text):
        with open(self.path(name), "w", encoding="utf-8") as file:
            file.write(text)

    def read(self, name):
        with open(self.path(name), encoding="utf-8") as file:
            return file.read()

    def run_it(self, expect=0, **environment):
        """The commands that it ran on the host, and what it said."""
        done = subprocess.run(
            [os.path.join(_PACKAGING, "kubernetes", "install-on-host")], check=False, text=True,
            stdin=subprocess.DEVNULL, capture_output=True,
            env={"PATH": self.path("path") + ":" + os.environ["PATH"],
                 "SLUICE_HOST": self.path("host"), "SLUICE_FILES": self.path("files"),
                 "SLUICE_CONFIGURATION": self.path("config.toml"),
                 **environment})
        self.assertEqual(expect, done.returncode, done.stderr)
        commands = self.read("host/commands").splitlines()
        os.unlink(self.path("host/commands"))
        return commands, done.stderr

    def test_first_time(self):
        os.makedirs(self.path("host/var/lib/containerd"))
        commands, _ = self.run_it()
        self.assertEqual("/var/lib/sluice", os.readlink(self.path(
            "host/var/lib/containerd/io.containerd.snapshotter.v1.sluice")))
        for name in _PROGRAMS:
            self.assertEqual(name, self.read("host/usr/local/bin/" + name))
            self.assertTrue(os.access(self.path("host/usr/local/bin", name), os.X_OK))
        for unit in _UNITS:
            self.assertTrue(os.path.exists(self.path("host/etc/systemd/system", unit)))
        self.assertEqual(sorted(_PROGRAMS), sorted(os.listdir(self.path("host/usr/local/bin"))))
        self.assertEqual([*(f"/usr/local/bin/{name}.new --version" for name in _PROGRAMS),
                          "systemctl daemon-reload",
                          "systemctl is-active --quiet sluice-holder.service",
                          "systemctl enable --now sluice-holder.service",
                          "systemctl enable sluiced.service",
                          "systemctl restart sluiced.service"], commands)

    def test_upgrade(self):
        """A holder that runs is never restarted, nor a file written into that a process runs."""
        self.run_it()
        before = self.path("host/usr/local/bin/sluiced")
        with open(before, encoding="utf-8") as running:
            self.write("files/bin/sluiced", "newer")
            commands, _ = self.run_it(FAKE_ACTIVE="1")
            self.assertEqual("sluiced", running.read())
        self.assertEqual("newer", self.read("host/usr/local/bin/sluiced"))
        self.assertIn("systemctl reload sluice-holder.service", commands)
        self.assertFalse([each for each in commands if "holder" in each and (
            "restart" in each or "stop" in each or "--now" in each)])

    def test_once_more(self):
        """A pod that is started again disturbs nothing; one that was cut off is made up for."""
        self.run_it()
        commands, _ = self.run_it(FAKE_ACTIVE="1")
        self.assertFalse([each for each in commands if "restart" in each or "reload " in each])
        self.assertEqual(["systemctl restart sluiced.service"],
                         [each for each in self.run_it()[0] if "restart" in each])
        self.write("host/run/sluice-install", "")
        commands, _ = self.run_it(FAKE_ACTIVE="1")
        self.assertIn("systemctl reload sluice-holder.service", commands)
        self.assertIn("systemctl restart sluiced.service", commands)

    def test_configuration(self):
        """What sluiced cannot use does not get there."""
        self.write("config.toml", "right")
        self.run_it()
        self.assertEqual("right", self.read("host/etc/sluice/config.toml"))
        self.write("config.toml", "wrong")
        self.write("files/bin/sluiced", "newer")
        commands, said = self.run_it(expect=1, FAKE_ACTIVE="1")
        self.assertIn("the ConfigMap", said)
        self.assertFalse([each for each in commands if "systemctl" in each])
        self.assertEqual("right", self.read("host/etc/sluice/config.toml"))
        self.assertEqual("sluiced", self.read("host/usr/local/bin/sluiced"))
        self.assertEqual(["config.toml"], os.listdir(self.path("host/etc/sluice")))
        self.write("config.toml", "other")
        self.assertIn("systemctl restart sluiced.service", self.run_it(FAKE_ACTIVE="1")[0])
        os.unlink(self.path("config.toml"))
        self.run_it(FAKE_ACTIVE="1")
        self.assertEqual("other", self.read("host/etc/sluice/config.toml"))

    def test_programs_that_do_not_run_there(self):
        """Those that do are kept, and so is the configuration."""
        self.run_it()
        self.write("files/bin/sluiced", "newer")
        commands, said = self.run_it(expect=1, FAKE_UNFIT="1", SLUICE_CONFIGURE_CONTAINERD="1",
                                     FAKE_CONTAINERD="2.1.9")
        self.assertIn("does not run on this host", said)
        self.assertEqual(1, said.count("\n"))
        self.assertFalse([each for each in commands if "systemctl" in each])
        self.assertEqual("sluiced", self.read("host/usr/local/bin/sluiced"))
        self.assertEqual(sorted(_PROGRAMS), sorted(os.listdir(self.path("host/usr/local/bin"))))
        self.assertFalse(os.path.exists(self.path("host/etc/containerd/conf.d")))

    def test_containerd(self):
        self.write("host/etc/containerd/config.toml",
                   'imports = ["/etc/containerd/conf.d/*.toml"]\n')
        for version, snippet in (("1.6.20~ds1", "sluice-1.x.toml"), ("v1.7.24", "sluice-1.x.toml"),
                                 ("v2.1.9", "sluice-2.x.toml"), ("2.1.9+x", "sluice-2.x.toml")):
            settings = {"SLUICE_CONFIGURE_CONTAINERD": "1", "FAKE_CONTAINERD": version}
            shutil.rmtree(self.path("host/etc/containerd/conf.d"), ignore_errors=True)
            commands, _ = self.run_it(**settings)
            self.assertEqual("systemctl restart containerd.service", commands[-1])
            self.assertEqual(self.read("files/lib/sluice/containerd/" + snippet),
                             self.read("host/etc/containerd/conf.d/sluice.toml"))
            commands, _ = self.run_it(**settings)
            self.assertNotIn("systemctl restart containerd.service", commands)

    def test_containerd_that_must_be_configured_by_hand(self):
        """Nothing is changed then."""
        imports = 'imports = ["/etc/containerd/conf.d/*.toml"]\n'
        cri = '[plugins."io.containerd.grpc.v1.cri"]\nsandbox_image = "mine"\n'
        for version, configuration, reason in (
                ("1.6.20", imports + cri, "configures CRI"), ("1.6.20", "", "lacks: imports"),
                ("2.1.9", "", "lacks: imports"), ("", imports, "no containerd")):
            self.write("host/etc/containerd/config.toml", configuration)
            commands, said = self.run_it(expect=1, SLUICE_CONFIGURE_CONTAINERD="1",
                                         FAKE_CONTAINERD=version)
            self.assertIn(reason, said)
            self.assertEqual(1, said.count("\n"))
            self.assertFalse([each for each in commands if "systemctl" in each])
            self.assertEqual([], os.listdir(self.path("host/usr/local/bin")))
            self.assertFalse(os.path.exists(self.path("host/etc/systemd")))
            self.assertFalse(os.path.exists(self.path("host/etc/containerd/conf.d/sluice.toml")))
