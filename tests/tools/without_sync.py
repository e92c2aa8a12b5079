"""Runs a program for which fsync(2) and its like do nothing: without_sync.py PROGRAM ARGUMENT...

What docker-registry keeps need not outlive this machine, and on a busy disk one fsync(2) may take a
minute, longer than who pushes to a registry waits for its answer.
"""

import ctypes
import os
import struct
import sys

# By uname(2): AUDIT_ARCH_*, and the numbers of fsync, fdatasync, sync_file_range, syncfs.
SYSTEM_CALLS = {"x86_64": (0xC000003E, (74, 75, 277, 306)),
                "aarch64": (0xC00000B7, (82, 83, 84, 267))}

PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, SECCOMP_MODE_FILTER = 22, 38, 2
LOAD_WORD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06  # bpf(4)
ALLOW, SUCCEED = 0x7FFF0000, 0x00050000  # SECCOMP_RET_ERRNO with no error


def instructions(architecture, numbers):
    """(code, steps if true, steps if false, value); struct seccomp_data begins with the number of
    the call and the architecture."""
    yield LOAD_WORD, 0, 0, 4
    yield JUMP_IF_EQUAL, 0, len(numbers) + 1, architecture
    yield LOAD_WORD, 0, 0, 0
    for position, number in enumerate(numbers):
        yield JUMP_IF_EQUAL, len(numbers) - position, 0, number
    yield RETURN, 0, 0, ALLOW
    yield RETURN, 0, 0, SUCCEED


def give_up_sync(architecture, numbers):
    libc = ctypes.CDLL(None, use_errno=True)
    text = b"".join(struct.pack("HBBI", *step) for step in instructions(architecture, numbers))
    kept = ctypes.create_string_buffer(text, len(text))
    program = ctypes.create_string_buffer(struct.pack("HP", len(text) // 8,
                                                      ctypes.addressof(kept)))
    for option, *arguments in ((PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
                               (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.addressof(program))):
        if libc.prctl(option, *map(ctypes.c_ulong, arguments)) < 0:
            sys.exit(f"without_sync: prctl: {os.strerror(ctypes.get_errno())}")


if __name__ == "__main__":
    if os.uname().machine in SYSTEM_CALLS:
        give_up_sync(*SYSTEM_CALLS[os.uname().machine])
    os.execvp(sys.argv[1], sys.argv[1:])
