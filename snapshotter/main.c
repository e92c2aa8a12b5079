/* sluiced: containerd's snapshotter for images that are mounted before they have arrived. */
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/exit_code.h"
#include "base/log.h"
#include "node/node_server.h"
#include "snapshotter/config.h"
#include "snapshotter/daemon.h"
#include "snapshotter/service_notify.h"

static const char help[] =
    "usage: sluiced [OPTION...]\n"
    "\n"
    "containerd's snapshotter for images with a sluice index: they are mounted at once, and what\n"
    "is read comes from the registry. Images without one are unpacked as always.\n"
    "\n"
    "  --address SOCKET    where containerd's proxy plugin finds it\n"
    "                      (/run/sluice/snapshotter.sock)\n"
    "  --root DIR          snapshots, and what is known of images (/var/lib/sluice)\n"
    "  --config FILE       configuration (/etc/sluice/config.toml, if it is there)\n"
    "  --log-level LEVEL   error, warning, info or debug\n"
    "  --check             say whether options and configuration are right, and end\n"
    "  -h, --help          this text\n"
    "      --version       the version\n"
    "\n"
    "Options go before what the file says. 'sluice status' tells what it does.\n";

enum {
    OPTION_ADDRESS = 256,
    OPTION_ROOT,
    OPTION_CONFIG,
    OPTION_LOG_LEVEL,
    OPTION_CHECK,
    OPTION_VERSION
};

struct options {
    const char *address, *root, *config, *log_level;
    bool check;
};

static enum exit_code usage(const char *what, const char *value)
{
    fprintf(stderr, "sluiced: %s '%s'; see 'sluiced --help'\n", what, value);
    return EXIT_USAGE;
}

/* False: the program ends with *ret_exit. */
static bool read_options(int argc, char **argv, struct options *ret, enum exit_code *ret_exit)
{
    static const struct option known[] = {
        { "address", required_argument, NULL, OPTION_ADDRESS },
        { "root", required_argument, NULL, OPTION_ROOT },
        { "config", required_argument, NULL, OPTION_CONFIG },
        { "log-level", required_argument, NULL, OPTION_LOG_LEVEL },
        { "check", no_argument, NULL, OPTION_CHECK },
        { "help", no_argument, NULL, 'h' },
        { "version", no_argument, NULL, OPTION_VERSION },
        { 0 },
    };
    int option;
    *ret_exit = EXIT_OK;
    while ((option = getopt_long(argc, argv, "h", known, NULL)) != -1) {
        switch (option) {
        case OPTION_ADDRESS:
            ret->address = optarg;
            break;
        case OPTION_ROOT:
            ret->root = optarg;
            break;
        case OPTION_CONFIG:
            ret->config = optarg;
            break;
        case OPTION_LOG_LEVEL:
            ret->log_level = optarg;
            break;
        case OPTION_CHECK:
            ret->check = true;
            break;
        case 'h':
            fputs(help, stdout);
            return false;
        case OPTION_VERSION:
            puts("sluiced " SLUICE_VERSION);
            return false;
        default: /* getopt has said what is wrong */
            fputs("see 'sluiced --help'\n", stderr);
            *ret_exit = EXIT_USAGE;
            return false;
        }
    }
    if (optind == argc) return true;
    *ret_exit = usage("there is no such argument", argv[optind]);
    return false;
}

static int set_path(char **to, const char *path, const char *option, struct error **error)
{
    if (!path) return 0;
    if (path[0] != '/')
        return error_set(error, ERROR_INVALID, "%s: '%s' must be an absolute path", option, path);
    char *copy = strdup(path);
    if (!copy) return error_set_memory(error);
    free(*to);
    *to = copy;
    return 0;
}

static int configure(struct config *ret, const struct options *options, struct error **error)
{
    if (config_load(ret, options->config, error) < 0) return -1;
    if (set_path(&ret->address, options->address, "--address", error) < 0 ||
        set_path(&ret->root, options->root, "--root", error) < 0 ||
        (options->log_level && config_log_level(options->log_level, &ret->log.level, error) < 0)) {
        config_free(ret);
        return -1;
    }
    return 0;
}

/* Before there is a second thread, which would take the signals. */
static void block_signals(sigset_t *ret)
{
    sigemptyset(ret);
    sigaddset(ret, SIGTERM);
    sigaddset(ret, SIGINT);
    sigaddset(ret, SIGHUP);
    pthread_sigmask(SIG_BLOCK, ret, NULL);
    signal(SIGPIPE, SIG_IGN);
}

static void wait_for_end(const sigset_t *signals)
{
    int number;
    while (sigwait(signals, &number) == 0 && number == SIGHUP)
        log_info("SIGHUP: the configuration is read at the start only");
}

static int run(const struct config *config, struct error **error)
{
    sigset_t signals;
    struct daemon *daemon;
    block_signals(&signals);
    if (daemon_start(&daemon, config, error) < 0) return -1;
    log_info("sluiced " SLUICE_VERSION " answers on %s", config->address);
    service_notify("READY=1");
    wait_for_end(&signals);
    service_notify("STOPPING=1");
    log_info("ending; images stay mounted");
    daemon_stop(daemon);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc > 0 && strcmp(argv[0], NODE_SERVER_NAME) == 0) return node_server_main(argc, argv);

    struct options options = { 0 };
    struct config config;
    struct error *error = NULL;
    enum exit_code code;
    if (!read_options(argc, argv, &options, &code)) return code;
    log_set_program("sluiced");
    umask(077);
    code = EXIT_USAGE;
    if (configure(&config, &options, &error) == 0) {
        log_set_level(config.log.level);
        bool marked = config.log.format == LOG_FORMAT_TEXT && log_is_journal();
        log_set_format(marked ? LOG_FORMAT_JOURNAL : config.log.format);
        code = options.check || run(&config, &error) == 0 ? EXIT_OK : EXIT_FAILED;
        config_free(&config);
    }
    if (code != EXIT_OK) log_error("%s", error_message(error));
    error_free(error);
    return code;
}
