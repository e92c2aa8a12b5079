"""Mounts an EROFS image that is a file, with its devices, by the kernel itself.

By fsopen(2) and its kin: mount(8) would set up a loop device, and mount(2) cuts its options at
4 KiB.
"""

import ctypes
import os

_LIBC = ctypes.CDLL(None, use_errno=True)
_MOVE_MOUNT, _FSOPEN, _FSCONFIG, _FSMOUNT = 429, 430, 431, 432
_FSCONFIG_SET_FLAG, _FSCONFIG_SET_STRING, _FSCONFIG_CMD_CREATE = 0, 1, 6
_FSOPEN_CLOEXEC = _FSMOUNT_CLOEXEC = 1
_MOVE_MOUNT_F_EMPTY_PATH = 4
_MOUNT_ATTR_RDONLY = 1
_AT_FDCWD = -100


def _syscall(what, number, *arguments):
    result = _LIBC.syscall(ctypes.c_long(number), *arguments)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return result


def mount(image, devices, directory):
    """`devices`: files, in the order of the image's device table."""
    context = _syscall("fsopen", _FSOPEN, b"erofs", ctypes.c_uint(_FSOPEN_CLOEXEC))
    try:
        settings = [("source", image)] + [("device", device) for device in devices]
        for key, value in settings:
            _syscall(f"fsconfig {key}={value}", _FSCONFIG, ctypes.c_int(context),
                     ctypes.c_uint(_FSCONFIG_SET_STRING), key.encode(), os.fsencode(value),
                     ctypes.c_int(0))
        _syscall("fsconfig ro", _FSCONFIG, ctypes.c_int(context),
                 ctypes.c_uint(_FSCONFIG_SET_FLAG), b"ro", None, ctypes.c_int(0))
        try:
            _syscall("create the EROFS superblock", _FSCONFIG, ctypes.c_int(context),
                     ctypes.c_uint(_FSCONFIG_CMD_CREATE), None, None, ctypes.c_int(0))
        except OSError as error:
            raise OSError(error.errno, f"{error.strerror} {_messages(context)}") from error
        made = _syscall("fsmount", _FSMOUNT, ctypes.c_int(context),
                        ctypes.c_uint(_FSMOUNT_CLOEXEC), ctypes.c_uint(_MOUNT_ATTR_RDONLY))
    finally:
        os.close(context)
    try:
        _syscall("move_mount", _MOVE_MOUNT, ctypes.c_int(made), b"", ctypes.c_int(_AT_FDCWD),
                 os.fsencode(directory), ctypes.c_uint(_MOVE_MOUNT_F_EMPTY_PATH))
    finally:
        os.close(made)


def _messages(context):
    """The kernel's own words about what it refused."""
    lines = []
    while True:
        try:
            lines.append(os.read(context, 4096).decode(errors="replace").strip())
        except OSError:
            return "; ".join(lines)


def unmount(directory):
    if _LIBC.umount2(os.fsencode(directory), 0):
        code = ctypes.get_errno()
        raise OSError(code, f"umount {directory}: {os.strerror(code)}")
