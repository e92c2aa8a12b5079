#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/log.h"
#include "deploytool/command.h"
#include "deploytool/mountpoint.h"
#include "fuse/control.h"
#include "node/server.h"

enum {
    OPTION_CACHE = OPTION_OWN,
    OPTION_CACHE_SIZE,
    OPTION_CACHE_RESERVE,
    OPTION_FRONT,
    OPTION_INDEX,
    OPTION_TRUST,
    OPTION_READ_TIMEOUT,
    OPTION_FILL,
    OPTION_FILL_RATE,
    OPTION_FORCE,
    OPTION_SUID,
    OPTION_DEV,
    OPTION_RECORD,
    OPTION_NO_PROFILE,
    OPTION_PREFETCH_LIMIT
};

/* The kernel logs an alarm about a task that hangs for 120 seconds, and asks twice for some
 * reads. */
#define READ_TIMEOUT_SECONDS     60
#define READ_TIMEOUT_SECONDS_MAX 110

/* The directory to mount on, absolute and without links, in fresh memory; NULL: error is set. */
static char *resolve_mountpoint(const char *directory, struct error **error)
{
    struct stat found;
    char *resolved = realpath(directory, NULL);
    if (!resolved) {
        error_set_errno(error, errno, "mount point '%s'", directory);
        if (errno == ENOENT) error_hint(error, "make it with: mkdir '%s'", directory);
        return NULL;
    }
    int number = stat(resolved, &found) < 0 ? errno : 0;
    bool dead = mountpoint_is_dead(resolved);
    if (!number && !dead && S_ISDIR(found.st_mode)) return resolved;
    free(resolved);
    if (dead) {
        error_set(error, ERROR_INVALID, "mount point '%s' is taken", directory);
        error_hint(error, "the server of what is mounted there has died: sluice umount '%s'",
                   directory);
    } else if (!number) {
        error_set(error, ERROR_INVALID, "mount point '%s' is no directory", directory);
    } else {
        error_set_errno(error, number, "mount point '%s'", directory);
    }
    return NULL;
}

/* A file to write, absolute, in fresh memory; NULL: error is set. */
static char *resolve_record(const char *path, struct error **error)
{
    struct stat found;
    cleanup_free char *copy = strdup(path);
    char *slash = copy ? strrchr(copy, '/') : NULL;
    const char *name = slash ? slash + 1 : copy;
    if (!copy) {
        error_set_memory(error);
        return NULL;
    }
    if (slash) *slash = '\0';
    cleanup_free char *directory = realpath(!slash ? "." : *copy ? copy : "/", NULL);
    if (!directory) {
        error_set_errno(error, errno, "--record '%s'", path);
        return NULL;
    }
    char *resolved = format_text("%s/%s", strcmp(directory, "/") == 0 ? "" : directory, name);
    if (!resolved) {
        error_set_memory(error);
    } else if (!*name || (stat(resolved, &found) == 0 && !S_ISREG(found.st_mode))) {
        error_set(error, ERROR_INVALID, "--record '%s' is no plain file", path);
        free(resolved);
        resolved = NULL;
    }
    return resolved;
}

/* ---- a server left behind ---- */

static int ignore_ready(void *context)
{
    (void)context;
    return 0;
}

struct detached {
    int ready; /* the pipe to the process that was typed; closed when all is well */
    char *log; /* file for lines from now on */
};

/* The tree is usable: tells who waits, and lets go of the terminal. -1: whoever asked for the mount
 * was ended before it could be told. */
static int detach(void *context)
{
    struct detached *detached = context;
    struct error *error = NULL;
    if (log_open(detached->log, &error) < 0) {
        log_warning("%s; going on without a log", error_message(error));
        error_free(error);
    }
    ssize_t written = write(detached->ready, "1", 1);
    close(detached->ready);
    detached->ready = -1;
    setsid();
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (null >= 0) {
        dup2(null, STDIN_FILENO);
        dup2(null, STDOUT_FILENO);
        dup2(null, STDERR_FILENO);
        if (null > STDERR_FILENO) close(null);
    }
    if (chdir("/") < 0) log_warning("chdir to /: %s", strerror(errno));
    return written == 1 ? 0 : -1;
}

static char *log_path(const char *mountpoint, struct error **error)
{
    cleanup_free char *socket = control_socket_path(mountpoint, error);
    return socket ? control_log_path(socket, error) : NULL;
}

static enum exit_code serve_detached(const struct server_options *options, int ready)
{
    struct error *error = NULL;
    cleanup_free char *log = log_path(options->image.mountpoint, &error);
    struct detached detached = { ready, log };
    if (!log || server_run(options, detach, &detached, &error) < 0) {
        if (detached.ready >= 0) return command_failed(error);
        log_error("%s: %s", options->image.mountpoint, error_message(error));
        error_free(error);
        return EXIT_FAILED;
    }
    if (detached.ready < 0) unlink(log); /* a clean end leaves nothing */
    return EXIT_OK;
}

static enum exit_code leave_server_behind(const struct server_options *options)
{
    struct error *error = NULL;
    int pipe_ends[2];
    if (pipe2(pipe_ends, O_CLOEXEC) < 0) {
        error_set_errno(&error, errno, "make a pipe");
        return command_failed(error);
    }
    pid_t child = fork();
    if (child < 0) {
        error_set_errno(&error, errno, "start the server");
        return command_failed(error);
    }
    if (child == 0) {
        close(pipe_ends[0]);
        exit((int)serve_detached(options, pipe_ends[1]));
    }
    close(pipe_ends[1]);
    char mark;
    ssize_t count;
    while ((count = read(pipe_ends[0], &mark, 1)) < 0 && errno == EINTR)
        continue;
    if (count == 1) return EXIT_OK;
    int status;
    if (waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status)) {
        return EXIT_FAILED; /* it has said why */
    }
    error_set(&error, ERROR_SYSTEM, "mount %s: the server ended before the tree was usable",
              options->image.mountpoint);
    return command_failed(error);
}

static enum exit_code mount_image(struct server_options *options, const char *directory,
                                  const char *cache, bool foreground)
{
    struct error *error = NULL;
    cleanup_free char *chosen_cache = node_cache_directory(cache, &error);
    cleanup_free char *mountpoint = chosen_cache ? resolve_mountpoint(directory, &error) : NULL;
    if (!mountpoint) return command_failed(error);
    cleanup_free char *record =
        options->image.record ? resolve_record(options->image.record, &error) : NULL;
    if (options->image.record && !record) return command_failed(error);
    options->image.record = record;
    options->node.cache = chosen_cache;
    options->image.mountpoint = mountpoint;
    if (!foreground) return leave_server_behind(options);
    return server_run(options, ignore_ready, NULL, &error) < 0 ? command_failed(error) : EXIT_OK;
}

/* Frees the error. */
static enum exit_code bad_option(const char *option, struct error *error)
{
    enum exit_code code = command_usage(&mount_command, "%s: %s", option, error_message(error));
    error_free(error);
    return code;
}

static enum exit_code run(int argc, char **argv)
{
    static const struct option options[] = {
        IMAGE_OPTIONS,
        { "foreground", no_argument, NULL, 'f' },
        { "cache", required_argument, NULL, OPTION_CACHE },
        { "cache-size", required_argument, NULL, OPTION_CACHE_SIZE },
        { "cache-reserve", required_argument, NULL, OPTION_CACHE_RESERVE },
        { "front", required_argument, NULL, OPTION_FRONT },
        { "index", required_argument, NULL, OPTION_INDEX },
        { "trust", required_argument, NULL, OPTION_TRUST },
        { "read-timeout", required_argument, NULL, OPTION_READ_TIMEOUT },
        { "fill", required_argument, NULL, OPTION_FILL },
        { "fill-rate", required_argument, NULL, OPTION_FILL_RATE },
        { "force", no_argument, NULL, OPTION_FORCE },
        { "suid", no_argument, NULL, OPTION_SUID },
        { "dev", no_argument, NULL, OPTION_DEV },
        { "record", required_argument, NULL, OPTION_RECORD },
        { "no-profile", no_argument, NULL, OPTION_NO_PROFILE },
        { "prefetch-limit", required_argument, NULL, OPTION_PREFETCH_LIMIT },
        { 0 },
    };
    struct common_options common;
    struct server_options chosen = { .node.read_timeout_seconds = READ_TIMEOUT_SECONDS };
    struct digest pinned;
    const char *cache = NULL;
    bool foreground = false;
    enum exit_code code;
    int option;
    common_options_init(&common);
    while ((option = getopt_long(argc, argv, "hvf", options, NULL)) != -1) {
        struct error *error = NULL;
        switch (option) {
        case 'f':
            foreground = true;
            break;
        case OPTION_CACHE:
            cache = optarg;
            break;
        case OPTION_CACHE_SIZE:
            if (node_cache_parse_size(&chosen.node.cache_limits, optarg, &error) < 0)
                return bad_option("--cache-size", error);
            break;
        case OPTION_CACHE_RESERVE:
            if (node_cache_parse_reserve(&chosen.node.cache_limits, optarg, &error) < 0)
                return bad_option("--cache-reserve", error);
            break;
        case OPTION_FRONT:
            if (front_parse(&chosen.image.front, optarg, &error) < 0)
                return bad_option("--front", error);
            break;
        case OPTION_INDEX:
            if (digest_parse(&pinned, optarg, &error) < 0) return bad_option("--index", error);
            chosen.image.pinned_index = &pinned;
            chosen.image.pinned_trust = TRUST_PINNED;
            break;
        case OPTION_TRUST:
            if (index_trust_parse(&chosen.image.least_trust, optarg, &error) < 0)
                return bad_option("--trust", error);
            break;
        case OPTION_READ_TIMEOUT:
            if (!command_number(optarg, READ_TIMEOUT_SECONDS_MAX,
                                &chosen.node.read_timeout_seconds))
                return command_usage(&mount_command,
                                     "--read-timeout: '%s' is not a number of seconds from 1 to %d",
                                     optarg, READ_TIMEOUT_SECONDS_MAX);
            break;
        case OPTION_FILL:
            if (fill_mode_parse(&chosen.image.fill, optarg, &error) < 0)
                return bad_option("--fill", error);
            break;
        case OPTION_FILL_RATE:
            if (parse_size(optarg, &chosen.image.fill_rate, &error) < 0)
                return bad_option("--fill-rate", error);
            break;
        case OPTION_FORCE:
            chosen.image.force = true;
            break;
        case OPTION_SUID:
            chosen.allow_suid = true;
            break;
        case OPTION_DEV:
            chosen.allow_devices = true;
            break;
        case OPTION_NO_PROFILE:
            chosen.image.no_profile = true;
            break;
        case OPTION_PREFETCH_LIMIT:
            if (parse_size(optarg, &chosen.image.prefetch_limit, &error) < 0)
                return bad_option("--prefetch-limit", error);
            break;
        case OPTION_RECORD:
            chosen.image.record = optarg;
            break;
        default:
            if (!command_option(&mount_command, &common, option, &code)) return code;
        }
    }
    if (!command_arguments(&mount_command, argc, 2, 2, &code)) return code;
    chosen.image.reference = argv[optind];
    chosen.image.platform = common_platform(&common);
    chosen.node.plain_http = common.plain_http;
    chosen.node.hosts_directory = common.hosts_directory;
    return mount_image(&chosen, argv[optind + 1], cache, foreground);
}

const struct command mount_command = {
    .name = "mount",
    .arguments = "REF DIR",
    .summary = "mount an image that has an index; leaves a server behind",
    .help = "  -f, --foreground  serve in this process, until interrupted or unmounted\n"
            "  --cache DIR       keep what was fetched there (root: " NODE_CACHE_SYSTEM ",\n"
            "                    others: ~/.cache/sluice)\n"
            "  --cache-size SIZE  evict what was not used for longest beyond this, like 20G\n"
            "                    (not bounded)\n"
            "  --cache-reserve SIZE  leave so much of the disk free (5 %, 1G at the most)\n"
            "  --front DOOR      who shows the tree: erofs (the kernel; Linux 6.12, as root),\n"
            "                    fuse, or auto (erofs where it can be; the default)\n"
            "  --index DIGEST    use this index and no other\n"
            "  --trust LEVEL     refuse an index that is trusted less: referrer (any; the\n"
            "                    default) or pinned (by --index or by the image's manifest)\n"
            "  --read-timeout SECONDS  reads wait so long for the registry (60; at most 110)\n"
            "  --fill WHEN       fetch the rest of the image in the background and verify it:\n"
            "                    now, idle (while nobody waits for the registry), off (the\n"
            "                    default)\n"
            "  --fill-rate SIZE  so many bytes a second at the most, like 50M (not bounded)\n"
            "  --force           use an index although this node found it not to tell the truth\n"
            "  --platform OS/ARCH[/VARIANT]  of a multi-platform image (this machine's)\n"
            "  --suid, --dev     obey set-user-id bits, device files (as root)\n"
            "  --no-profile      do not fetch ahead what the index's profile names\n"
            "  --prefetch-limit SIZE  fetch no more ahead (half of --cache-size)\n"
            "  --record FILE     write down what is read first, for 'sluice profile'\n"
            "  --plain-http      speak HTTP (loopback registries: always)\n"
            "  --hosts-dir DIR   mirrors and certificates (/etc/containerd/certs.d, then\n"
            "                    /etc/docker/certs.d)\n"
            "  -v, --verbose     tell more\n\n"
            "example: sluice mount registry.example.com/team/app:1.2 /mnt\n",
    .run = run,
};
