#include "node/child_process.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"

#define SOCKETS_MAX 4u

/* Copies that stand in the way of no socket's place in the child. */
struct copies {
    int sockets[SOCKETS_MAX];
    size_t count;
};

static void copies_close(struct copies *copies)
{
    while (copies->count > 0)
        close(copies->sockets[--copies->count]);
}

static int make_copies(const struct child_process *child, struct copies *ret)
{
    for (size_t i = 0; i < child->socket_count && i < SOCKETS_MAX; i++) {
        int copy = fcntl(child->sockets[i], F_DUPFD_CLOEXEC, CHILD_FIRST_SOCKET + (int)SOCKETS_MAX);
        if (copy < 0) return errno;
        ret->sockets[ret->count++] = copy;
    }
    return 0;
}

static int add_actions(posix_spawn_file_actions_t *actions, const struct child_process *child,
                       const struct copies *copies)
{
    int number = 0, place = CHILD_FIRST_SOCKET;
    for (int i = 0; i < CHILD_FIRST_SOCKET && !number; i++)
        if (i != STDERR_FILENO || !child->keeps_errors)
            number = posix_spawn_file_actions_addopen(actions, i, "/dev/null", O_RDWR, 0);
    for (size_t i = 0; i < copies->count && !number; i++)
        number = posix_spawn_file_actions_adddup2(actions, copies->sockets[i], place++);
    return number ? number : posix_spawn_file_actions_addclosefrom_np(actions, place);
}

/* A thread that takes no signals starts a process that does. */
static int spawn(pid_t *ret, const char *program, const posix_spawn_file_actions_t *actions,
                 char *const *arguments)
{
    posix_spawnattr_t attributes;
    sigset_t none;
    sigemptyset(&none);
    int number = posix_spawnattr_init(&attributes);
    if (number) return number;
    number = posix_spawnattr_setsigmask(&attributes, &none);
    if (!number) number = posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
    if (!number) number = posix_spawn(ret, program, actions, &attributes, arguments, environ);
    posix_spawnattr_destroy(&attributes);
    return number;
}

int child_process_start(pid_t *ret, const struct child_process *child, struct error **error)
{
    posix_spawn_file_actions_t actions;
    struct copies copies = { .count = 0 };
    const char *program = child->program ? child->program : "/proc/self/exe";
    int number = posix_spawn_file_actions_init(&actions);
    if (number) return error_set_errno(error, number, "start %s", child->arguments[0]);
    number = make_copies(child, &copies);
    if (!number) number = add_actions(&actions, child, &copies);
    if (!number) number = spawn(ret, program, &actions, child->arguments);
    posix_spawn_file_actions_destroy(&actions);
    copies_close(&copies);
    if (!number) return 0;
    error_set_errno(error, number, "start %s", child->arguments[0]);
    if (number == ENOENT) error_hint(error, "sluice needs /proc and /dev/null");
    return -1;
}

bool child_process_take_socket(int descriptor)
{
    struct stat status;
    return fstat(descriptor, &status) == 0 && S_ISSOCK(status.st_mode) &&
           fcntl(descriptor, F_SETFD, FD_CLOEXEC) == 0;
}

void child_process_show_name(const char *name)
{
    prctl(PR_SET_NAME, name);
}
