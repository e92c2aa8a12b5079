#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buffer.h"
#include "base/cleanup.h"
#include "base/json.h"
#include "base/log.h"
#include "deploytool/command.h"
#include "deploytool/mountpoint.h"
#include "deploytool/status_text.h"
#include "fuse/control.h"
#include "fuse/mount_table.h"

/* What a server says; NULL: error is set. */
static json_t *query(const char *socket, struct error **error)
{
    cleanup_buffer struct buffer text = { 0 };
    if (control_query(socket, &text, error) < 0) return NULL;
    json_t *status = json_read_object(text.data, text.length, "the server's answer", error);
    if (status) json_object_set_new(status, "dead", json_false());
    return status;
}

/* A server that has just ended is no error in a list; one that does not answer is worth a line. */
static void add_to_list(void *context, const char *socket)
{
    json_t *list = context;
    struct error *error = NULL;
    json_t *status = query(socket, &error);
    if (status)
        json_array_append_new(list, status);
    else if (error_kind_of(error) != ERROR_NOT_FOUND)
        log_warning("%s", error_message(error));
    error_free(error);
}

/* Whether sluiced has told of this mount. */
static bool is_of_daemon(const json_t *list, const char *mountpoint)
{
    size_t i;
    const json_t *status;
    json_array_foreach(list, i, status)
    {
        const char *root = json_optional_text(json_object_get(status, "daemon"), "root");
        size_t length = root ? strlen(root) : 0;
        if (root && strncmp(mountpoint, root, length) == 0 && mountpoint[length] == '/')
            return true;
    }
    return false;
}

/* A mount whose server was killed, or of which only sluiced could tell. */
static void add_unserved(void *context, const struct our_mount *mount)
{
    json_t *list = context;
    if (is_of_daemon(list, mount->path)) return;
    bool waits = mountpoint_is_of_sluiced(mount->path);
    if (!waits && !mountpoint_is_dead(mount->path)) return;
    json_t *unserved =
        json_pack("{s:o, s:o, s:b, s:b}", "reference", json_any_text(mount->image), "mountpoint",
                  json_any_text(mount->path), "dead", (int)!waits, "waits_for_sluiced", (int)waits);
    if (unserved) json_array_append_new(list, unserved);
}

/* Why nobody answers for `path`: nothing of ours is there, or what is there has lost its server. */
static int not_served(const char *path, struct error **error)
{
    if (mountpoint_is_of_sluiced(path)) {
        error_set(error, ERROR_NOT_FOUND, "'%s' is one of sluiced's mounts", path);
        return error_hint(error, "'sluice status' without a directory tells of them");
    }
    if (mountpoint_is_dead(path)) {
        error_set(error, ERROR_NOT_FOUND, "the server of what is mounted on '%s' has died", path);
        return error_hint(error, "clear it with: sluice umount '%s'", path);
    }
    error_set(error, ERROR_NOT_FOUND, "no sluice server serves '%s'", path);
    return error_hint(error, "'sluice status' lists those that run");
}

static enum exit_code print_one(const char *directory, bool json)
{
    struct error *error = NULL;
    cleanup_free char *path = mountpoint_path(directory, &error);
    cleanup_free char *socket = path ? control_socket_path(path, &error) : NULL;
    if (!socket) return command_failed(error);
    cleanup_json json_t *status = query(socket, &error);
    if (!status) {
        if (error_kind_of(error) != ERROR_NOT_FOUND) {
            error_prefix(&error, "status of '%s'", path);
            return command_failed(error);
        }
        error_free(error);
        error = NULL;
        not_served(path, &error);
        return command_failed(error);
    }
    if (json) {
        json_dumpf(status, stdout, JSON_INDENT(2));
        putchar('\n');
    } else {
        status_print(status);
    }
    return command_finish();
}

static enum exit_code print_all(bool json)
{
    struct error *error = NULL;
    cleanup_json json_t *list = json_array();
    if (!list) error_set_memory(&error);
    if (!list || control_list(add_to_list, list, &error) < 0 ||
        mount_table_each(add_unserved, list, &error) < 0)
        return command_failed(error);
    if (json) {
        json_dumpf(list, stdout, JSON_INDENT(2));
        putchar('\n');
        return command_finish();
    }
    size_t i;
    json_t *status;
    json_array_foreach(list, i, status) status_print(status);
    if (json_array_size(list) == 0) puts("no image is mounted");
    return command_finish();
}

static enum exit_code run(int argc, char **argv)
{
    static const struct option options[] = { COMMON_OPTIONS, JSON_LONG, { 0 } };
    struct common_options common;
    enum exit_code code;
    int option;
    common_options_init(&common);
    while ((option = getopt_long(argc, argv, "hv", options, NULL)) != -1)
        if (!command_option(&status_command, &common, option, &code)) return code;
    if (!command_arguments(&status_command, argc, 0, 1, &code)) return code;
    return optind < argc ? print_one(argv[optind], common.json) : print_all(common.json);
}

const struct command status_command = {
    .name = "status",
    .arguments = "[DIR]",
    .summary = "what sluiced and the servers of mounted images fetched, served and wait for",
    .help = "  --json         print it as JSON (a list, or one object with DIR)\n"
            "  -v, --verbose  tell more\n\n"
            "example: sluice status /mnt\n",
    .run = run,
};
