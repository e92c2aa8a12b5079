"""What a directory tree is, as a value: for comparing a mount with what an unpacker makes."""

import dataclasses
import errno
import hashlib
import os
import stat
import tarfile


@dataclasses.dataclass
class Node:
    """What is compared of one name. Fields that do not apply stay None."""

    mode: int
    owner: tuple
    links: int
    time: int = None  # nanoseconds
    size: int = None
    device: int = None
    target: str = None
    same_as: str = None  # the first path of the same inode
    xattrs: dict = None
    content: str = None


def content_digest(path):
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _xattrs(path):
    try:
        names = os.listxattr(path, follow_symlinks=False)
    except OSError as error:
        # How a file system of a tree without any attribute may answer.
        if error.errno == errno.ENOTSUP:
            return {}
        raise
    return {name: os.getxattr(path, name, follow_symlinks=False) for name in names}


def _node(path, info, first_path, largest):
    node = Node(info.st_mode, (info.st_uid, info.st_gid), info.st_nlink)
    node.time = info.st_mtime_ns
    node.xattrs = _xattrs(path)
    if stat.S_ISREG(info.st_mode):
        node.size = info.st_size
        if info.st_size <= largest:
            node.content = content_digest(path)
    elif stat.S_ISLNK(info.st_mode):
        node.target = os.readlink(path)
        node.size = info.st_size
    elif stat.S_ISBLK(info.st_mode) or stat.S_ISCHR(info.st_mode):
        node.device = info.st_rdev
    if not stat.S_ISDIR(info.st_mode):
        node.same_as = first_path
    return node


def snapshot(root, contents=True, largest=1 << 62):
    """{path relative to root: Node}; the root itself is ".". Names that are not UTF-8 are
    surrogate-escaped. Files above `largest` bytes are not read."""
    nodes, first = {}, {}

    def visit(path, name):
        info = os.lstat(path)
        nodes[name] = _node(path, info, first.setdefault((info.st_dev, info.st_ino), name),
                            largest if contents else -1)
        if stat.S_ISDIR(info.st_mode):
            for entry in sorted(os.listdir(path)):
                visit(os.path.join(path, entry), os.path.join(name, entry) if name != "." else entry)

    visit(root, ".")
    return nodes


def directory_times(tar_paths):
    """{path: seconds} of the directories that layers, lowest first, leave behind.

    An unpacker changes a directory's time whenever it puts something into it, so the truth about
    these is what the tars say. Parents that no layer names have time 0.
    """
    times = {}

    def forget(path):
        for known in [known for known in times if known == path or known.startswith(path + "/")]:
            del times[known]

    for tar_path in tar_paths:
        of_this_layer = {}
        with tarfile.open(tar_path) as tar:
            for entry in tar:
                path = os.path.normpath(entry.name.lstrip("/"))
                directory, base = os.path.split(path)
                if base == ".wh..wh..opq":
                    kept = times.get(directory)
                    forget(directory)
                    if kept is not None:
                        times[directory] = kept
                elif base.startswith(".wh."):
                    forget(os.path.join(directory, base[len(".wh."):]))
                elif entry.isdir():
                    of_this_layer[path] = int(entry.mtime // 1)
                else:
                    forget(path)
        times.update(of_this_layer)
    return times


def differences(truth, seen, ignore=(), directory_times=False):
    """Lines that tell what `seen` has otherwise; fields named in `ignore` are not compared, nor,
    unless wanted, the times of directories: unpackers move those."""
    lines = [f"missing: {path}" for path in sorted(set(truth) - set(seen))]
    lines += [f"not in the image: {path}" for path in sorted(set(seen) - set(truth))]
    fields = [field.name for field in dataclasses.fields(Node) if field.name not in ignore]
    for path in sorted(set(truth) & set(seen)):
        for field in fields:
            expected, found = getattr(truth[path], field), getattr(seen[path], field)
            if field == "time" and stat.S_ISDIR(truth[path].mode) and not directory_times:
                continue
            if field == "xattrs":
                lines += _xattr_differences(path, expected, found)
            elif expected != found:
                lines.append(f"{path}: {field} is {found!r}, expected {expected!r}")
    return lines


def _xattr_differences(path, truth, seen):
    return [f"{path}: attribute {name} is {seen.get(name)!r:.60}, expected {truth.get(name)!r:.60}"
            for name in sorted(set(truth) | set(seen)) if truth.get(name) != seen.get(name)]


def directory_time_differences(tar_paths, seen):
    times = directory_times(tar_paths)
    lines = []
    for path, node in seen.items():
        if stat.S_ISDIR(node.mode) and node.time // 10**9 != times.get(path, 0):
            lines.append(f"{path}: time is {node.time // 10**9}, the layers say {times.get(path, 0)}")
    return lines
