#include "snapshotter/user_namespace-internal.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "snapshotter/id_mapping-internal.h"

/* System calls only: of a process with threads this is a copy that has one of them. It must not
 * outlive who made it, because it has a copy of every descriptor, too. */
static _Noreturn void wait_for_the_end(pid_t parent)
{
    syscall(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    while (syscall(SYS_getppid) == parent)
        syscall(SYS_ppoll, NULL, 0, NULL, NULL, 0);
    syscall(SYS_exit_group, 0);
    __builtin_unreachable();
}

static void end(pid_t process)
{
    kill(process, SIGKILL);
    while (waitpid(process, NULL, 0) < 0 && errno == EINTR)
        continue;
}

/* The kernel takes a mapping in one write. */
static int write_map(pid_t process, const char *name, const char *mapping, struct error **error)
{
    cleanup_free char *lines = id_mapping_lines(mapping, error);
    if (!lines) return -1;
    cleanup_free char *path = format_text("/proc/%d/%s", (int)process, name);
    if (!path) return error_set_memory(error);
    cleanup_close int file = open(path, O_WRONLY | O_CLOEXEC);
    if (file < 0) return error_set_errno(error, errno, "open '%s'", path);
    size_t length = strlen(lines);
    ssize_t written = write(file, lines, length);
    if (written == (ssize_t)length) return 0;
    if (written >= 0 || errno == EINVAL)
        return error_set(error, ERROR_INVALID, "the kernel does not take '%s' as a mapping of ids",
                         mapping);
    return error_set_errno(error, errno, "write '%s'", path);
}

static int open_of(pid_t process, const char *users, const char *groups, int *ret,
                   struct error **error)
{
    if (write_map(process, "uid_map", users, error) < 0 ||
        write_map(process, "gid_map", groups, error) < 0)
        return -1;
    cleanup_free char *path = format_text("/proc/%d/ns/user", (int)process);
    if (!path) return error_set_memory(error);
    *ret = open(path, O_RDONLY | O_CLOEXEC);
    if (*ret < 0) return error_set_errno(error, errno, "open '%s'", path);
    return 0;
}

int user_namespace_open(const char *users, const char *groups, int *ret, struct error **error)
{
    pid_t self = getpid();
    /* A namespace is made by a process in it, and stays for the descriptor's sake. */
    pid_t process = (pid_t)syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, NULL, NULL, NULL, NULL);
    if (process == 0) wait_for_the_end(self);
    if (process < 0) return error_set_errno(error, errno, "make a user namespace");
    int result = open_of(process, users, groups, ret, error);
    end(process);
    return result;
}
