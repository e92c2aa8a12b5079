"""Debian's newest suite in a directory of its own: containerd 2.x, and the definitions of CRI."""

import os
import shutil
import subprocess

from tools import workplace

SUITE = "sid"
PACKAGES = "containerd,runc"
_CRI = "golang-github-kubernetes-cri-api-dev"
# Unpacked, not installed: it depends on Go's world, of which the definitions need nothing.
_DEFINITIONS = f"""--customize-hook=chroot "$1" sh -euc '
    cd /tmp && apt-get -q download {_CRI} && dpkg-deb -x {_CRI}_*.deb / && rm {_CRI}_*.deb'"""
# A suite that does not move any more (on a mirror of a past day) has an old date.
_OPTIONS = (f"--include={PACKAGES}", '--aptopt=Acquire::Check-Valid-Until "false"', _DEFINITIONS)


def rootfs():
    def make(directory):
        tool = os.path.join(workplace.TOOLS, "debian-rootfs")
        subprocess.run([tool, os.path.join(directory, "rootfs"), SUITE, *_OPTIONS], check=True)

    recipe = "\0".join((SUITE, *_OPTIONS, workplace.source_of("debian-rootfs")))
    return os.path.join(workplace.kept("newer-debian", recipe, make), "rootfs")


def cri_definitions():
    """The directory that holds k8s.io/cri-api."""
    return os.path.join(rootfs(), "usr/share/gocode/src")


# In a mount namespace of its own: runc enters containers by the root of theirs, which pivot_root
# makes of a root file system only where that is the root of the namespace before.
_BEGIN = """
shared=$1 lower=$2 upper=$3 work=$4 root=$5
mount -t overlay overlay -o "lowerdir=$lower,upperdir=$upper,workdir=$work" "$root"
for each in proc sys dev tmp; do mount --rbind "/$each" "$root/$each"; done
echo '127.0.0.1 localhost' > "$root/etc/hosts"
mkdir -p "$root$shared" "$root/before"
mount --rbind "$shared" "$root$shared"
cd "$root"
pivot_root . before
umount --lazy before
echo ready
exec cat
"""


class NewerDebian:
    """A fresh copy of it, where `prefix` runs commands. `shared` has the same name there, and what
    is mounted below that is mounted there, too; what is mounted there is seen nowhere else."""

    def __init__(self, shared):
        self.shared = shared
        self.directory = workplace.fresh_directory("newer-debian")
        places = [os.path.join(self.directory, name) for name in ("upper", "work", "root")]
        for each in places:
            os.mkdir(each)
        subprocess.run(["mount", "--bind", shared, shared], check=True)
        self.process = None
        try:
            # With that namespace alone, not with what is below it here.
            subprocess.run(["mount", "--make-private", "--make-shared", shared], check=True)
            self.process = subprocess.Popen(
                ["unshare", "--mount", "--propagation", "slave", "sh", "-euc", _BEGIN, "sh", shared,
                 rootfs(), *places], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            if self.process.stdout.readline() != "ready\n":
                raise RuntimeError("no namespace for the newer Debian")
        except BaseException:
            self.close()
            raise

    @property
    def prefix(self):
        return ["nsenter", f"--mount=/proc/{self.process.pid}/ns/mnt"]

    @property
    def root(self):
        return f"/proc/{self.process.pid}/root"

    def close(self):
        """After all that runs in it."""
        if self.process:
            self.process.stdin.close()
            self.process.wait()
            self.process.stdout.close()
        subprocess.run(["umount", "--recursive", "--lazy", self.shared], check=False)
        shutil.rmtree(self.directory)
