/* `sluice-holder`: see fuse/holder.h. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/confine.h"
#include "base/exit_code.h"
#include "base/file.h"
#include "base/log.h"
#include "fuse/holder.h"
#include "snapshotter/service_notify.h"

#define GRACE_SECONDS_MAX 86400l

struct settings {
    struct holder_options holder;
    bool background, abort;
};

static const char help[] =
    "usage: sluice-holder [--socket PATH] [--grace SECONDS] [--background] [--take-over]\n"
    "       sluice-holder [--socket PATH] --abort\n\n"
    "Keeps the connections of mounted images while the daemon that serves them is restarted:\n"
    "whoever reads from these images waits meanwhile, and notices nothing else.\n\n"
    "  --socket PATH    where the daemon finds it (" HOLDER_SOCKET ")\n"
    "  --grace SECONDS  without a daemon for so long (120), close everything: readers get errors\n"
    "  --background     return when it can be reached; it ends by itself once it is of no use\n"
    "  --take-over      if a holder runs, take its place, with all that it keeps, without a loss\n"
    "  --abort          have the holder that runs close everything and end: readers get errors\n"
    "  --version        print the version\n"
    "  -h, --help       this text\n\n"
    "SIGTERM ends it as soon as nothing is kept, and not before.\n\n"
    "example: sluice-holder --take-over --background   (after the binary was replaced)\n";

/* ---- options ---- */

enum option_number {
    OPTION_SOCKET = 256,
    OPTION_GRACE,
    OPTION_BACKGROUND,
    OPTION_TAKE_OVER,
    OPTION_ABORT,
    OPTION_VERSION,
};

static int usage_error(const char *what)
{
    fprintf(stderr, "sluice-holder: error: %s; 'sluice-holder --help' tells what there is\n", what);
    return EXIT_USAGE;
}

static int parse_grace(const char *text, unsigned *ret)
{
    char *end;
    long seconds = strtol(text, &end, 10);
    if (!*text || *end || seconds < 1 || seconds > GRACE_SECONDS_MAX) return -1;
    *ret = (unsigned)seconds;
    return 0;
}

/* -1: go on; else the exit code. */
static int parse(int argc, char **argv, struct settings *ret)
{
    static const struct option options[] = {
        { "socket", required_argument, NULL, OPTION_SOCKET },
        { "grace", required_argument, NULL, OPTION_GRACE },
        { "background", no_argument, NULL, OPTION_BACKGROUND },
        { "take-over", no_argument, NULL, OPTION_TAKE_OVER },
        { "abort", no_argument, NULL, OPTION_ABORT },
        { "version", no_argument, NULL, OPTION_VERSION },
        { "help", no_argument, NULL, 'h' },
        { NULL, 0, NULL, 0 },
    };
    int option;
    while ((option = getopt_long(argc, argv, "h", options, NULL)) != -1) {
        switch (option) {
        case OPTION_SOCKET:
            ret->holder.socket = optarg;
            break;
        case OPTION_GRACE:
            if (parse_grace(optarg, &ret->holder.grace_seconds) < 0)
                return usage_error("--grace: seconds, from 1 to 86400");
            break;
        case OPTION_BACKGROUND:
            ret->background = true;
            break;
        case OPTION_TAKE_OVER:
            ret->holder.take_over = true;
            break;
        case OPTION_ABORT:
            ret->abort = true;
            break;
        case OPTION_VERSION:
            puts("sluice-holder " SLUICE_VERSION);
            return EXIT_OK;
        case 'h':
            fputs(help, stdout);
            return EXIT_OK;
        default:
            return EXIT_USAGE;
        }
    }
    if (ret->holder.socket[0] != '/') return usage_error("--socket: an absolute path");
    return optind < argc ? usage_error("there are only options") : -1;
}

/* ---- the process ---- */

static void write_text(const char *path, const char *text)
{
    cleanup_close int descriptor = open(path, O_WRONLY | O_CLOEXEC);
    if (descriptor < 0 || write(descriptor, text, strlen(text)) < 0)
        log_info("cannot write to '%s': %s", path, strerror(errno));
}

/* For what is held and what comes with messages. */
static void raise_descriptor_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0) return;
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
}

static void confine(const char *socket)
{
    struct confinement ignored;
    cleanup_free char *directory = strndup(socket, (size_t)(strrchr(socket, '/') - socket) + 1);
    const char *const writable[] = { directory ? directory : "/" };
    confine_process(writable, 1, &ignored);
}

/* The parent tells who waits for it that the child can be reached. */
static int go_to_background(void)
{
    pid_t child = fork();
    if (child < 0) {
        log_error("go to the background: %s", strerror(errno));
        return -1;
    }
    if (child > 0) _exit(EXIT_OK);
    setsid();
    if (chdir("/") < 0) return -1;
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (null < 0) return -1;
    dup2(null, STDIN_FILENO);
    dup2(null, STDOUT_FILENO);
    close(null);
    return 0;
}

/* A service manager follows the process that has taken over. */
static int be_ready(void *context)
{
    const struct settings *settings = context;
    if (settings->background && go_to_background() < 0) return -1;
    write_text("/proc/self/oom_score_adj", "-999");
    cleanup_free char *state = format_text("MAINPID=%d\nREADY=1", (int)getpid());
    if (state) service_notify(state);
    confine(settings->holder.socket);
    return 0;
}

static int abort_holder(const char *socket, struct error **error)
{
    struct holder_client *client;
    if (holder_connect(&client, socket, error) < 0) return -1;
    int result = holder_abort(client, error);
    holder_disconnect(client);
    return result;
}

int main(int argc, char **argv)
{
    struct settings settings = { .holder = { .socket = HOLDER_SOCKET,
                                             .grace_seconds = HOLDER_GRACE_SECONDS } };
    cleanup_error struct error *error = NULL;
    signal(SIGPIPE, SIG_IGN);
    log_set_program("sluice-holder");
    log_set_level(LOG_INFO);
    if (log_is_journal()) log_set_format(LOG_FORMAT_JOURNAL);
    int code = parse(argc, argv, &settings);
    if (code >= 0) return code;
    settings.holder.end_when_idle = settings.background;
    raise_descriptor_limit();
    int result = settings.abort ? abort_holder(settings.holder.socket, &error)
                                : holder_run(&settings.holder, be_ready, &settings, &error);
    if (result == 0) return EXIT_OK;
    log_error("%s", error_message(error));
    return EXIT_FAILED;
}
