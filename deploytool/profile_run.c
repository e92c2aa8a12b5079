#include "deploytool/profile_run.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/log.h"
#include "index/profile.h"

/* The kernel's default. More would show as read what was only near to it. */
#define READ_TIMEOUT_SECONDS 60

/*
 * Below a directory of its own:
 *   cache/    unless another was given
 *   lower/    the image
 *   upper/    a tmpfs: what the program writes, and what the runtime needs
 *   root/     both, as an overlay
 *   record    what was read
 */
struct stage {
    const struct profile_run_options *options;
    char *directory;
    char *lower, *upper, *root, *record, *cache;
    pid_t server;
};

int profile_run_check(struct error **error)
{
    if (geteuid() == 0) return container_check(error);
    error_set(error, ERROR_DENIED, "only root can run a program in an image");
    return error_hint(error, "run it as root, or record on a node: sluice mount --record");
}

/* ---- the place ---- */

static int remove_one(const char *path, const struct stat *found, int type, struct FTW *place)
{
    (void)found;
    (void)type;
    (void)place;
    return remove(path);
}

static int make_place(struct stage *stage, struct error **error)
{
    const char *above = getenv("TMPDIR");
    if (!above || above[0] != '/') above = "/var/tmp";
    stage->directory = format_text("%s/sluice-profile-XXXXXX", above);
    if (!stage->directory) return error_set_memory(error);
    if (!mkdtemp(stage->directory)) {
        error_set_errno(error, errno, "make a directory below '%s'", above);
        free(stage->directory);
        stage->directory = NULL;
        return -1;
    }
    stage->lower = format_text("%s/lower", stage->directory);
    stage->upper = format_text("%s/upper", stage->directory);
    stage->root = format_text("%s/root", stage->directory);
    stage->record = format_text("%s/record", stage->directory);
    stage->cache = stage->options->cache ? strdup(stage->options->cache)
                                         : format_text("%s/cache", stage->directory);
    if (!stage->lower || !stage->upper || !stage->root || !stage->record || !stage->cache)
        return error_set_memory(error);
    if (directory_make(stage->lower, 0755, error) < 0 ||
        directory_make(stage->upper, 0755, error) < 0)
        return -1;
    return directory_make(stage->root, 0755, error);
}

static void remove_place(struct stage *stage)
{
    if (stage->directory &&
        nftw(stage->directory, remove_one, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT) != 0)
        log_warning("'%s' was not removed: %s", stage->directory, strerror(errno));
    free(stage->directory);
    free(stage->lower);
    free(stage->upper);
    free(stage->root);
    free(stage->record);
    free(stage->cache);
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
    struct server_options server = { .reference = options->reference,
                                     .mountpoint = stage->lower,
                                     .cache = stage->cache,
                                     .platform = options->platform,
                                     .plain_http = options->plain_http,
                                     .hosts_directory = options->hosts_directory,
                                     .pinned_index = options->index,
                                     .least_trust = TRUST_REFERRER,
                                     .read_timeout_seconds = READ_TIMEOUT_SECONDS,
                                     .front = FRONT_FUSE,
                                     .no_profile = true,
                                     .record = stage->record };
    struct error *error = NULL;
    /* What is typed at the terminal is for the program. */
    setsid();
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (server_run(&server, tell_ready, &ready, &error) == 0) return EXIT_SUCCESS;
    log_error("%s", error_message(error));
    error_free(error);
    return EXIT_FAILURE;
}

static int start_server(struct stage *stage, struct error **error)
{
    int ends[2];
    char mark;
    if (pipe2(ends, O_CLOEXEC) < 0) return error_set_errno(error, errno, "make a pipe");
    stage->server = fork();
    if (stage->server == 0) {
        close(ends[0]);
        exit(serve(stage, ends[1]));
    }
    close(ends[1]);
    ssize_t count = -1;
    if (stage->server < 0)
        error_set_errno(error, errno, "start the server");
    else
        while ((count = read(ends[0], &mark, 1)) < 0 && errno == EINTR)
            continue;
    close(ends[0]);
    if (stage->server > 0 && count != 1)
        error_set(error, ERROR_SYSTEM, "the image was not mounted");
    return count == 1 ? 0 : -1;
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

static int mount_overlay(const struct stage *stage, struct error **error)
{
    if (mount("tmpfs", stage->upper, "tmpfs", MS_NODEV, "mode=0755") < 0)
        return error_set_errno(error, errno, "mount a tmpfs on '%s'", stage->upper);
    static const char *const names[] = { "data", "work", "runtime" };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        cleanup_free char *path = format_text("%s/%s", stage->upper, names[i]);
        if (!path) return error_set_memory(error);
        if (directory_make(path, 0755, error) < 0) return -1;
    }
    /* Relative names hold no ',' or ':' that a path above could have. */
    cleanup_close int before = open(".", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (before < 0 || chdir(stage->directory) < 0)
        return error_set_errno(error, errno, "chdir to '%s'", stage->directory);
    int result = mount("overlay", "root", "overlay", MS_NODEV,
                       "lowerdir=lower,upperdir=upper/data,workdir=upper/work");
    if (result < 0) error_set_errno(error, errno, "mount an overlay on '%s'", stage->root);
    if (fchdir(before) < 0 && result == 0)
        result = error_set_errno(error, errno, "chdir to where it was called");
    return result;
}

static int run_program(struct stage *stage, struct container_result *ret, struct error **error)
{
    const struct profile_run_options *options = stage->options;
    cleanup_free char *runtime = format_text("%s/runtime", stage->upper);
    if (!runtime) return error_set_memory(error);
    struct container_options container = { .root = stage->root,
                                           .directory = runtime,
                                           .process = options->process,
                                           .own_network = options->own_network,
                                           .output_to_error = options->output_to_error,
                                           .timeout_seconds = options->timeout_seconds };
    if (mount_overlay(stage, error) < 0) return -1;
    return container_run(&container, ret, error);
}

/* Of this name space only. */
static void unmount_overlay(const struct stage *stage)
{
    umount2(stage->root, MNT_DETACH);
    umount2(stage->upper, MNT_DETACH);
}

static int stage_run(struct stage *stage, struct buffer *ret_record, struct container_result *ret,
                     struct error **error)
{
    /* Whatever happens to this process, its mounts go with it. */
    if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) < 0)
        return error_set_errno(error, errno, "make a mount namespace");
    if (start_server(stage, error) < 0) return -1;
    int result = run_program(stage, ret, error);
    unmount_overlay(stage);
    if (result == 0) result = end_server(stage, error);
    return result < 0 ? -1 : file_read(stage->record, PROFILE_LENGTH_MAX, ret_record, error);
}

int profile_run(const struct profile_run_options *options, struct buffer *ret_record,
                struct container_result *ret, struct error **error)
{
    struct stage stage = { .options = options };
    *ret = (struct container_result){ 0 };
    int result = make_place(&stage, error);
    if (result == 0) result = stage_run(&stage, ret_record, ret, error);
    end_server(&stage, NULL);
    remove_place(&stage);
    return result;
}
