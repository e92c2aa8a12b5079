"""What is asked of containerd's snapshots service, and two ways to ask compared: in part after the
ideas of containerd's own suite for snapshotters."""

import concurrent.futures
import os
import re
import subprocess

from tools import tree
from tools.containerd import Containerd
from tools.services import connect
from tools.snapshots import Mounted, Script
from tools.testcase import EndToEnd


class Conformance(EndToEnd):
    """Runs a script of calls against every side, and compares what came of them."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.point = os.path.join(cls.directory, "point")
        os.mkdir(cls.point)

    @classmethod
    def containerd(cls, name, **options):
        """A containerd of its own; a channel to it."""
        directory = os.path.join(cls.directory, name)
        os.mkdir(directory)
        containerd = Containerd(directory, **options)
        cls.addClassCleanup(containerd.stop)
        channel = connect(containerd.address)
        cls.addClassCleanup(channel.close)
        return channel

    def sides(self):
        """[Side]; the first one is right."""
        raise NotImplementedError

    def compare(self, run):
        prefix = self._testMethodName.removeprefix("test_")
        right, *others = [Script(side, prefix) for side in self.sides()]
        run(right)
        for other in others:
            run(other)
            self.assertEqual([what for what, _ in right.steps], [what for what, _ in other.steps])
            wrong = [self.describe(right, other, number) for number in range(len(right.steps))
                     if not self.is_right(right, other, number)]
            self.assertEqual(0, len(wrong), "\n" + "\n".join(wrong))

    @staticmethod
    def is_right(right, other, number):
        what, outcome = other.steps[number]
        return outcome == right.steps[number][1] or any(
            re.fullmatch(pattern, what.strip()) and [right.steps[number][1], outcome] == outcomes
            for pattern, *outcomes in other.side.allowed)

    @staticmethod
    def describe(right, other, number):
        def said(script):
            return f"{script.steps[number][1]} {script.messages.get(number, '')}"[:1000]

        return (f"{other.steps[number][0].strip()[:200]}\n  {other.side.title}: {said(other)}\n"
                f"  {right.side.title}: {said(right)}")


class Scripts:
    """What is compared."""

    def test_life_of_snapshots(self):
        def run(script):
            script.prepare("a")
            script.stat("a")
            script.mounts("a")
            script.commit("A", "a")
            script.stat("a")
            script.stat("A")
            script.prepare("b", "A")
            script.stat("b")
            script.commit("B", "b")
            script.stat("B")
            script.prepare("c", "B")
            script.mounts("c")
            script.view("on one", "A")
            script.view("on two", "B")
            script.view("on none")
            for key in ("on one", "on two", "on none"):
                script.mounts(key)
                script.stat(key)
            script.list()
            for key in ("A", "B"):
                script.remove(key)  # has children
            for key in ("c", "on two", "on one", "on none", "B", "A"):
                script.remove(key)
                script.stat(key)
            script.remove("A")
            script.list()

        self.compare(run)

    def test_names_come_again(self):
        def run(script):
            script.prepare("base")
            script.commit("committed", "base")
            script.prepare("again", "committed")
            script.remove("again")
            script.view("again", "committed")
            script.remove("again")
            script.prepare("again")
            script.remove("committed")
            script.commit("committed", "again")
            script.stat("committed")

        self.compare(run)

    def test_errors(self):
        def run(script):
            script.prepare("a")
            script.commit("A", "a")
            script.prepare("b", "A")
            script.view("v", "A")
            for key in ("b", "v", "A"):
                script.prepare(key, "A")  # the name is taken
                script.view(key, "A")
                script.view(key)
            for parent in ("missing", "b", "v"):
                script.prepare("c", parent)
                script.view("c", parent)
            for key in ("missing", "A"):
                script.mounts(key)
                script.commit("C", key)
            script.commit("A", "b")
            script.commit("v", "b")
            script.commit("b", "b")
            script.commit("C", "v")
            for key in ("missing", ""):
                script.stat(key)
                script.usage(key)
                script.remove(key)
                script.mounts(key)
                script.update(key, "labels", x="y")
            script.list()
            for key in ("b", "v", "A"):
                script.stat(key)

        self.compare(run)

    def test_labels(self):
        def run(script):
            inherited = {"containerd.io/snapshot/one": "1", "containerd.io/snapshot/two": "2"}
            script.prepare("a", "", plain="yes", **inherited)
            script.stat("a")
            script.commit("A", "a", other="label")
            script.stat("A")
            script.prepare("b", "A", **inherited)
            script.commit("B", "b")
            script.stat("B")
            script.view("v", "B", empty="", of_view="x" * 3000)
            script.stat("v")
            for name in ("A", "v"):
                script.update(name, l1="v1", l2="v2", l3="v3")
                script.stat(name)
                script.update(name, "labels.l1", "labels.l2", l1="updated", l4="v4")
                script.update(name, "labels.l5", "labels.l3", l3="more")
                script.update(name, "labels.dotted.name", **{"dotted.name": "dotted"})
                script.update(name, "labels", l4="v4")
                script.stat(name)
                script.update(name)
                script.stat(name)
                script.update(name, parent="nobody", l1="1")
                script.stat(name)

        self.compare(run)

    def test_fields_that_do_not_change(self):
        def run(script):
            script.prepare("a", "", l1="v1")
            for path in ("parent", "name", "kind", "created_at", "Labels", "", "label"):
                script.update("a", path, parent="b", l1="v2")
                script.stat("a")
            script.update("a", "labels.l1", "parent", parent="b", l1="v2")
            script.update("missing", "parent")
            script.update("missing")
            script.stat("a")

        self.compare(run)

    def test_filters(self):
        own = r"name~=^.*{}"
        chosen = [
            ("kind==active",), ("kind==view",), ("kind==committed",), ("kind!=active",),
            ("kind==nothing",), ("kind",), ("name=={}p", "name=={}a-np-wl"),
            ("name=={}a-wl,labels.l",), ("parent=={}p",), ('parent!=""',), ('parent==""',),
            ("parent",), ("labels.l",), ("labels.l==2",), ("labels.l!=2",), ('labels."l"==2',),
            ('labels."odd.name/x"==1',), ('labels."odd.name/x"',), ("labels.missing",),
            ("labels.missing!=1",), ("labels.missing==",), ("labels",), (own + "a",),
            (own + "[pv]$",), ("labels.l~=^[12]$",), ("labels.l~=[13]", "kind==active,parent=={}p"),
            ("kind==active,labels.l==2,parent==",), ('name=="{}p"',), ("",), ("", "kind==view"),
            ("unknown==1",), ("unknown",), ("kind==active", "unknown==1"),
            # what is not a filter
            ("kind=active",), ("kind==",), ("==active",), ("kind==active,",), (",",), ("kind~=(",),
            ('name=="open',), ("name==a b",), ("labels.",), (".l",), ("name===x",), ("name~x",),
            ("kind==active", "kind=active"), ("9==x",), ("labels.l==2,,kind==view",), ("l!",),
            # bytes and quotes
            ('labels.text=="a \\"b\\" c"',), (r'labels.text=="\x61 \"b\" c"',),
            (r'labels.text~="^a .b. c$"',), ("labels.text=='a'",), ('labels.text==a,kind==view',),
            ("labels.utf==ü",), (r'labels.utf=="\u00fc"',), ("labels.utf~=^.$",),
            ("labels.text~=/^a/",), ("labels.text~=|^a|",), ("labels.text==|a|",),
        ]

        def run(script):
            script.prepare("a-np")
            script.prepare("p-tmp")
            script.commit("p", "p-tmp")
            script.prepare("a", "p")
            script.view("v", "p")
            script.prepare("p-wl-tmp")
            script.commit("p-wl", "p-wl-tmp", l="1")
            script.prepare("a-wl", "p-wl", l="2", **{"odd.name/x": "1"})
            script.view("v-wl", "p-wl", l="3", text='a "b" c', utf="ü")
            script.prepare("a-np-wl", "", l="2")
            for filters in chosen:
                script.list(*filters)

        self.compare(run)

    def test_usage(self):
        def run(script):
            made = script.prepare("a")
            script.usage("a")
            self.fill(made, {"large": 300_000, "small": 5, "sub/one": 4096, "sub/two": 1})
            script.usage("a")
            script.commit("A", "a")
            script.usage("A")
            made = script.prepare("b", "A")
            self.fill(made, {"sub/three": 100_000, "small": 6})
            script.usage("b")
            script.commit("B", "b")
            script.usage("B")
            script.view("v", "B")
            script.usage("v")
            script.view("v1", "A")
            script.usage("v1")
            script.usage("A")

        self.compare(run)

    def fill(self, mounts, files):
        """Also a hard link, a symlink and a sparse file, which usage counts as the disk does."""
        with Mounted(mounts, self.point) as root:
            for name, length in files.items():
                path = os.path.join(root, name)
                os.makedirs(os.path.dirname(path), exist_ok=True)
                with open(path, "wb") as file:
                    file.write(b"x" * length)
            first = os.path.join(root, next(iter(files)))
            os.link(first, first + "-again")
            os.symlink("nowhere", first + "-link")
            with open(first + "-sparse", "wb") as file:
                file.truncate(10_000_000)
            os.sync()  # blocks are counted as they are given

    def test_trees(self):
        """What is written in one snapshot, and hidden and replaced in those above."""
        def run(script):
            made = script.prepare("a")
            with Mounted(made, self.point) as root:
                self.write(root, ("kept", "replaced", "removed", "gone/inside", "moved/file"))
                os.chown(os.path.join(root, "kept"), 1, 2)
            script.commit("A", "a")
            made = script.prepare("b", "A")
            with Mounted(made, self.point) as root:
                script.note("over one", self.look(root))
                self.write(root, ("replaced", "new"), b"second\n")
                os.unlink(os.path.join(root, "removed"))
                subprocess.run(["rm", "-r", os.path.join(root, "gone")], check=True)
                os.link(os.path.join(root, "moved/file"), os.path.join(root, "there"))
                os.chmod(root, 0o750)
                os.chown(root, 5, 6)
            script.commit("B", "b")
            made = script.prepare("c", "B")
            with Mounted(made, self.point) as root:
                script.note("over two", self.look(root))
                self.write(root, ("gone/again",), b"third\n")
                os.makedirs(os.path.join(root, "removed"))
            for name in ("A", "B"):
                with Mounted(script.view("view of " + name, name), self.point) as root:
                    script.note("view", self.look(root))
                    with self.assertRaises(OSError):
                        self.write(root, ("more",))
            with Mounted(script.mounts("c"), self.point) as root:
                script.note("again", self.look(root))

        self.compare(run)

    @staticmethod
    def write(root, names, content=b"first\n"):
        for name in names:
            path = os.path.join(root, name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "wb") as file:
                file.write(content)

    @staticmethod
    def look(root):
        seen = tree.snapshot(root)
        return {path: (oct(node.mode), node.owner, node.content)
                for path, node in seen.items()}

    def test_128_layers(self):
        def run(script):
            parent = ""
            for number in range(128):
                made = script.prepare(f"p{number}", parent)
                if number in (0, 1, 63, 126, 127):
                    with Mounted(made, self.point) as root:
                        script.note("tree", self.look(root))
                        self.write(root, ("top", f"of-{number}"), b"%d" % number)
                parent = f"c{number}"
                script.commit(parent, f"p{number}")
            with Mounted(script.view("all", parent), self.point) as root:
                script.note("all", self.look(root))
            script.list("kind==committed")

        self.compare(run)

    def test_odd_names(self):
        names = ("with space", "with/slash", "../../up", "ü", 'quo"te', "new\nline", "x" * 3000,
                 "sha256:" + "0" * 64, "%s%n", "-", ".", "..")

        def run(script):
            for name in names:
                script.prepare(name)
                script.stat(name)
                script.commit("of " + name, name)
                script.prepare(name, "of " + name)
                script.mounts(name)
            script.list()
            for name in names:
                script.remove(name)
                script.remove("of " + name)
            script.list()

        self.compare(run)

    def test_one_of_many_at_once(self):
        def run(script):
            script.prepare("base")
            script.commit("BASE", "base")
            with concurrent.futures.ThreadPoolExecutor(16) as pool:
                for what, call in (
                        ("same key", lambda n: script.prepare("same", "BASE")),
                        ("own keys", lambda n: script.prepare(f"own{n}", "BASE")),
                        ("same name", lambda n: script.commit("SAME", f"own{n}")),
                        ("remove", lambda n: script.remove("same"))):
                    before = len(script.steps)
                    list(pool.map(call, range(16)))
                    together = script.steps[before:]
                    del script.steps[before:]
                    script.note(what, sorted(outcome if isinstance(outcome, str) else "done"
                                             for _, outcome in together))
            for number in range(16):
                script.remove(f"own{number}")  # of which one was committed
            del script.steps[-16:]
            script.list()

        self.compare(run)

    def test_cleanup(self):
        def run(script):
            script.prepare("a")
            script.commit("A", "a")
            script.remove("A")
            script.cleanup()
            script.prepare("b")
            script.cleanup()
            script.stat("b")

        self.compare(run)


class RemapScripts:
    """What containerd asks for pods in user namespaces, from 1.7 on."""

    def test_mapped_users(self):
        def labels(uids="0:100000:65536", gids="0:200000:65536"):
            return {"containerd.io/snapshot/uidmapping": uids,
                    "containerd.io/snapshot/gidmapping": gids}

        def run(script):
            made = script.prepare("a")
            with Mounted(made, self.point) as root:
                self.write(root, ("file",))
            script.commit("A", "a")
            script.prepare("b", "A", **labels())
            script.mounts("b")
            script.view("v", "A", **labels())
            script.prepare("no parent", "", **labels())
            script.view("no parent of view", "", **labels())
            script.note("owner", self.owner(script, "b"))
            script.note("owner", self.owner(script, "no parent"))
            script.prepare("c", "A", **labels("0:100000:1000,1000:300000:64536"))
            script.note("owner", self.owner(script, "c"))
            script.commit("B", "b", **labels())
            script.prepare("d", "B")
            script.note("owner", self.owner(script, "d"))
            script.prepare("half", "A", **{"containerd.io/snapshot/uidmapping": "0:100000:65536"})
            for number, wrong in enumerate(("", "0", "0:1", "a:b:c", "0:-1:5", "0:0:0", "1:2:3",
                                            "0:99999999999:1", "0:1:2,")):
                script.prepare(f"wrong {number}", "A", **labels(wrong))
                script.prepare(f"wrong group {number}", "A", **labels(gids=wrong))

        self.compare(run)

    @staticmethod
    def owner(script, key):
        """Of the directory that a snapshot writes to."""
        for mount in script.side.call("Mounts", key=script.name(key)).mounts:
            upper = [option.removeprefix("upperdir=") for option in mount.options
                     if option.startswith("upperdir=")]
            info = os.stat(upper[0] if upper else mount.source)
            return (info.st_uid, info.st_gid)
        return None
