"""What was measured, exactly."""

import subprocess

from compare import soci


def _packages(names, root="/"):
    made = subprocess.run(["dpkg-query", "--admindir", root + "/var/lib/dpkg", "-W", "-f",
                           "${Package} ${Version}\n", *names], stdout=subprocess.PIPE, text=True,
                          check=False)
    return dict(line.split() for line in made.stdout.splitlines() if len(line.split()) == 2)


def versions(with_soci):
    known = _packages(["containerd", "runc", "docker-registry", "fio"])
    if with_soci:
        known |= {f"{name} ({soci.SUITE})": version for name, version in _packages(
            ["containerd", "soci-snapshotter", "runc"], soci.rootfs()).items()}
    return known


def filesystem(directory):
    return subprocess.run(["findmnt", "-no", "FSTYPE", "-T", directory], stdout=subprocess.PIPE,
                          text=True, check=True).stdout.strip()
