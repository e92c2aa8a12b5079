#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buffer.h"
#include "base/cleanup.h"
#include "base/json.h"
#include "base/log.h"
#include "base/parallel.h"
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

/* ---- all of them ---- */

/* Each has so long to answer, so they are asked at once. */
#define ASKED_AT_ONCE 64u

struct asked {
    char *socket;
    json_t *status;
    bool silent; /* somebody listens, and does not answer */
    bool shown;
};

struct listing {
    struct asked *asked;
    size_t count, capacity;
    json_t *list;
};

static void listing_free(struct listing *listing)
{
    for (size_t i = 0; i < listing->count; i++) {
        free(listing->asked[i].socket);
        json_decref(listing->asked[i].status);
    }
    free(listing->asked);
    json_decref(listing->list);
}

static void add_socket(void *context, const char *socket)
{
    struct listing *listing = context;
    if (listing->count == listing->capacity) {
        size_t capacity = 2 * listing->capacity + 16;
        struct asked *asked = reallocarray(listing->asked, capacity, sizeof *asked);
        if (!asked) return;
        listing->asked = asked;
        listing->capacity = capacity;
    }
    struct asked asked = { .socket = strdup(socket) };
    if (asked.socket) listing->asked[listing->count++] = asked;
}

/* parallel_work. A server that has just ended is no error in a list. */
static int ask(void *context, size_t position, struct error **error)
{
    struct listing *listing = context;
    struct asked *asked = &listing->asked[position];
    struct error *reason = NULL;
    (void)error;
    asked->status = query(asked->socket, &reason);
    asked->silent = !asked->status && error_kind_of(reason) == ERROR_UNREACHABLE;
    if (!asked->status && !asked->silent && error_kind_of(reason) != ERROR_NOT_FOUND)
        log_warning("%s", error_message(reason));
    error_free(reason);
    return 0;
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

static bool is_silent_at(struct listing *listing, const char *directory)
{
    cleanup_free char *socket = control_socket_path(directory, NULL);
    for (size_t i = 0; socket && i < listing->count; i++)
        if (listing->asked[i].silent && strcmp(listing->asked[i].socket, socket) == 0)
            return listing->asked[i].shown = true;
    return false;
}

/* Whether the server of this mount, or sluiced below whose root it is, does not answer. */
static bool is_silent(struct listing *listing, const char *mountpoint)
{
    cleanup_free char *directory = strdup(mountpoint);
    while (directory && *directory) {
        if (is_silent_at(listing, directory)) return true;
        char *slash = strrchr(directory, '/');
        if (!slash) break;
        *slash = 0;
    }
    return false;
}

/* A mount whose server was killed or does not answer, or of which only sluiced could tell. */
static void add_unserved(void *context, const struct our_mount *mount)
{
    struct listing *listing = context;
    if (is_of_daemon(listing->list, mount->path)) return;
    bool silent = is_silent(listing, mount->path);
    bool waits = !silent && mountpoint_is_of_sluiced(mount->path);
    if (!silent && !waits && !mountpoint_is_dead(mount->path)) return;
    json_t *unserved =
        json_pack("{s:o, s:o, s:b, s:b, s:b}", "reference", json_any_text(mount->image),
                  "mountpoint", json_any_text(mount->path), "dead", (int)(!waits && !silent),
                  "waits_for_sluiced", (int)waits, "silent", (int)silent);
    if (unserved) json_array_append_new(listing->list, unserved);
}

static int list_all(struct listing *ret, struct error **error)
{
    ret->list = json_array();
    if (!ret->list) return error_set_memory(error);
    if (control_list(add_socket, ret, error) < 0 ||
        parallel_run(ret->count, ASKED_AT_ONCE, ask, ret, error) < 0)
        return -1;
    for (size_t i = 0; i < ret->count; i++)
        if (ret->asked[i].status) json_array_append(ret->list, ret->asked[i].status);
    if (mount_table_each(add_unserved, ret, error) < 0) return -1;
    for (size_t i = 0; i < ret->count; i++)
        if (ret->asked[i].silent && !ret->asked[i].shown)
            log_warning("the server behind '%s' does not answer", ret->asked[i].socket);
    return 0;
}

static void print_list(json_t *list, bool json)
{
    size_t i;
    json_t *status;
    if (json) {
        json_dumpf(list, stdout, JSON_INDENT(2));
        putchar('\n');
        return;
    }
    json_array_foreach(list, i, status) status_print(status);
    if (json_array_size(list) == 0) puts("no image is mounted");
}

static enum exit_code print_all(bool json)
{
    struct error *error = NULL;
    struct listing listing = { 0 };
    int result = list_all(&listing, &error);
    if (result == 0) print_list(listing.list, json);
    listing_free(&listing);
    return result < 0 ? command_failed(error) : command_finish();
}

/* ---- one ---- */

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
