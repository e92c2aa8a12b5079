#include "deploytool/profile_run.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/log.h"
#include "deploytool/profile_place.h"
#include "index/profile.h"

/* The kernel's default. More would show as read what was only near to it. */
#define READ_TIMEOUT_SECONDS 60

struct stage {
    const struct profile_run_options *options;
    struct profile_place *place;
    const char *cache;
    pid_t server;
};

int profile_run_check(struct error **error)
{
    if (geteuid() == 0) return container_check(error);
    error_set(error, ERROR_DENIED, "only root can run a program in an image");
    return error_hint(error, "run it as root, or record on a node: sluice mount --record");
}

/* ---- the image ---- */

static int tell_ready(void *context)
{
    const int *descriptor = context;
    return write(*descriptor, "1", 1) == 1 ? 0 : -1;
}

/* In the child: serves until it is asked to end. */
static int serve(const struct stage *stage, int ready)
{
    const struct profile_run_options *options = stage->options;
    struct server_options server = {
        .node = { .cache = stage->cache,
                  .plain_http = options->plain_http,
                  .hosts_directory = options->hosts_directory,
                  .read_timeout_seconds = READ_TIMEOUT_SECONDS },
        .image = { .reference = options->reference,
                   .mountpoint = stage->place->lower,
                   .platform = options->platform,
                   .pinned_index = options->index,
                   .pinned_trust = TRUST_PINNED,
                   .least_trust = TRUST_REFERRER,
                   .front = FRONT_FUSE,
                   .no_profile = true,
                   .record = stage->place->record },
    };
    struct error *error = NULL;
    sigset_t signals = container_end_signals();
    sigprocmask(SIG_UNBLOCK, &signals, NULL);
    /* What is typed at the terminal is for the program. */
    setsid();
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (server_run(&server, tell_ready, &ready, &error) == 0) return EXIT_SUCCESS;
    log_error("%s", error_message(error));
    error_free(error);
    return EXIT_FAILURE;
}

/* A signal stays pending, for whoever has blocked it. */
static int wait_for_ready(int ready, struct error **error)
{
    char mark;
    sigset_t signals = container_end_signals();
    cleanup_close int asked = signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
    struct pollfd watched[] = { { .fd = ready, .events = POLLIN },
                                { .fd = asked, .events = POLLIN } };
    if (asked < 0) return error_set_errno(error, errno, "watch for signals");
    while (poll(watched, 2, -1) < 0)
        if (errno != EINTR) return error_set_errno(error, errno, "wait for the server");
    if (watched[1].revents) return error_set(error, ERROR_CANCELLED, "interrupted");
    if (read(ready, &mark, 1) != 1)
        return error_set(error, ERROR_SYSTEM, "the image was not mounted");
    return 0;
}

static int start_server(struct stage *stage, struct error **error)
{
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) < 0) return error_set_errno(error, errno, "make a pipe");
    stage->server = fork();
    if (stage->server == 0) {
        close(ends[0]);
        exit(serve(stage, ends[1]));
    }
    close(ends[1]);
    int result = stage->server < 0 ? error_set_errno(error, errno, "start the server")
                                   : wait_for_ready(ends[0], error);
    close(ends[0]);
    return result;
}

/* The server unmounts the image and writes the rest of the record. */
static int end_server(struct stage *stage, struct error **error)
{
    int status;
    pid_t server = stage->server;
    if (server <= 0) return 0;
    stage->server = 0;
    kill(server, SIGTERM);
    while (waitpid(server, &status, 0) < 0)
        if (errno != EINTR) return error_set_errno(error, errno, "wait for the server");
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return 0;
    return error_set(error, ERROR_SYSTEM, "the server of the image failed");
}

/* ---- what the program sees ---- */

static int mount_overlay(const struct profile_place *place, struct error **error)
{
    if (mount("tmpfs", place->upper, "tmpfs", MS_NODEV, "mode=0755") < 0)
        return error_set_errno(error, errno, "mount a tmpfs on '%s'", place->upper);
    static const char *const names[] = { "data", "work" };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        cleanup_free char *path = format_text("%s/%s", place->upper, names[i]);
        if (!path) return error_set_memory(error);
        if (directory_make(path, 0755, error) < 0) return -1;
    }
    /* Relative names hold no ',' or ':' that a path above could have. */
    cleanup_close int before = open(".", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (before < 0 || chdir(place->directory) < 0)
        return error_set_errno(error, errno, "chdir to '%s'", place->directory);
    int result = mount("overlay", "root", "overlay", MS_NODEV,
                       "lowerdir=lower,upperdir=upper/data,workdir=upper/work");
    if (result < 0) error_set_errno(error, errno, "mount an overlay on '%s'", place->root);
    if (fchdir(before) < 0 && result == 0)
        result = error_set_errno(error, errno, "chdir to where it was called");
    return result;
}

static int run_program(struct stage *stage, struct container_result *ret, struct error **error)
{
    const struct profile_run_options *options = stage->options;
    struct container_options container = { .root = stage->place->root,
                                           .directory = stage->place->runtime,
                                           .process = options->process,
                                           .own_network = options->own_network,
                                           .output_to_error = options->output_to_error,
                                           .timeout_seconds = options->timeout_seconds };
    if (mount_overlay(stage->place, error) < 0) return -1;
    return container_run(&container, ret, error);
}

static int stage_run(struct stage *stage, struct buffer *ret_record, struct container_result *ret,
                     struct error **error)
{
    if (start_server(stage, error) < 0) return -1;
    int result = run_program(stage, ret, error);
    profile_place_unmount(stage->place);
    if (result == 0) result = end_server(stage, error);
    return result < 0 ? -1 : file_read(stage->place->record, PROFILE_LENGTH_MAX, ret_record, error);
}

static int run(const struct profile_run_options *options, struct buffer *ret_record,
               struct container_result *ret, struct error **error)
{
    struct stage stage = { .options = options };
    if (profile_place_make(&stage.place, error) < 0) return -1;
    stage.cache = options->cache ? options->cache : stage.place->cache;
    int result = stage_run(&stage, ret_record, ret, error);
    end_server(&stage, NULL);
    profile_place_remove(stage.place);
    return result;
}

/* Whatever happens to this process, its mounts go with it. */
static int make_namespace(struct error **error)
{
    if (unshare(CLONE_NEWNS) < 0) return error_set_errno(error, errno, "make a mount namespace");
    if (mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) == 0) return 0;
    int number = errno;
    error_set_errno(error, number, "keep the mounts of a namespace to itself");
    if (number == EINVAL)
        error_hint(error, "'/' is no mount point here, which containers need; before a chroot into "
                          "DIR, run: mount --rbind DIR DIR");
    return -1;
}

int profile_run(const struct profile_run_options *options, struct buffer *ret_record,
                struct container_result *ret, struct error **error)
{
    sigset_t signals = container_end_signals(), before;
    *ret = (struct container_result){ 0 };
    if (make_namespace(error) < 0) return -1;
    /* One that comes before the program runs takes effect when all is cleared away. */
    sigprocmask(SIG_BLOCK, &signals, &before);
    int result = run(options, ret_record, ret, error);
    sigprocmask(SIG_SETMASK, &before, NULL);
    return result;
}
