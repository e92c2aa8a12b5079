#include "base/cleanup.h"
#include "base/log.h"
#include "deploytool/command.h"
#include "deploytool/mountpoint.h"
#include "fuse/control.h"
#include "fuse/unmount.h"

enum { OPTION_LAZY = OPTION_OWN };

/* The server has little left to do once its tree is gone, but may wait for a busy disk; these are
 * bounds, not expectations. */
#define SERVER_END_TOLD_MS 5000
#define SERVER_END_MS      60000

static bool wait_for_end(const char *path, const char *socket)
{
    if (control_wait_gone(socket, SERVER_END_TOLD_MS)) return true;
    log_warning("'%s' is unmounted; waiting for its server to end", path);
    return control_wait_gone(socket, SERVER_END_MS - SERVER_END_TOLD_MS);
}

static enum exit_code umount_directory(const char *directory, bool lazy)
{
    struct error *error = NULL;
    cleanup_free char *path = mountpoint_path(directory, &error);
    cleanup_free char *socket = path ? control_socket_path(path, &error) : NULL;
    if (path && mountpoint_is_of_sluiced(path)) {
        error_set(&error, ERROR_PRECONDITION, "'%s' is one of sluiced's mounts, for containers",
                  path);
        error_hint(&error, "it goes when containerd has removed the image");
        return command_failed(error);
    }
    if (!socket || unmount_tree(path, lazy, &error) < 0) return command_failed(error);
    /* With --lazy the server lives on for as long as something uses the tree. */
    if (!lazy && !wait_for_end(path, socket)) {
        error_set(&error, ERROR_SYSTEM, "'%s' is unmounted, but its server has not ended", path);
        error_hint(&error, "something in another mount namespace may still use the tree");
        return command_failed(error);
    }
    if (!lazy) control_clean(socket);
    return EXIT_OK;
}

static enum exit_code run(int argc, char **argv)
{
    static const struct option options[] = {
        COMMON_OPTIONS,
        { "lazy", no_argument, NULL, OPTION_LAZY },
        { 0 },
    };
    struct common_options common;
    bool lazy = false;
    enum exit_code code;
    int option;
    common_options_init(&common);
    while ((option = getopt_long(argc, argv, "hv", options, NULL)) != -1) {
        if (option == OPTION_LAZY)
            lazy = true;
        else if (!command_option(&umount_command, &common, option, &code))
            return code;
    }
    if (!command_arguments(&umount_command, argc, 1, 1, &code)) return code;
    return umount_directory(argv[optind], lazy);
}

const struct command umount_command = {
    .name = "umount",
    .arguments = "DIR",
    .summary = "unmount an image and end its server",
    .help = "  --lazy         detach at once, end the server when nothing uses the tree any more\n"
            "  -v, --verbose  tell more\n\n"
            "example: sluice umount /mnt\n",
    .run = run,
};
