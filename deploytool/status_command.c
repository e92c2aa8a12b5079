#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buffer.h"
#include "base/cleanup.h"
#include "base/json.h"
#include "base/log.h"
#include "deploytool/command.h"
#include "deploytool/mountpoint.h"
#include "fuse/control.h"
#include "fuse/mount_table.h"

/* ---- as text ---- */

static uint64_t size_of(const json_t *status, const char *field)
{
    json_int_t value = json_integer_value(json_object_get(status, field));
    return value > 0 ? (uint64_t)value : 0;
}

static const char *text_of(const json_t *status, const char *field)
{
    const char *text = json_optional_text(status, field);
    return text ? text : "-";
}

static unsigned percent(uint64_t part, uint64_t whole)
{
    return whole ? (unsigned)((double)part * 100 / (double)whole) : 100;
}

/* What people and images name may hold anything; control characters, also those of U+0080 to
 * U+009F, are shown in octal. */
static void escape_field(json_t *status, const char *field)
{
    const char *text = json_optional_text(status, field);
    cleanup_free char *shown = text ? malloc(8 * strlen(text) + 1) : NULL;
    if (!shown) return;
    char *to = shown;
    for (const unsigned char *from = (const unsigned char *)text; *from; from++) {
        bool control = *from < 0x20 || *from == 0x7f;
        if (from[0] == 0xc2 && from[1] < 0xa0)
            to += sprintf(to, "\\%03o", *++from);
        else if (control)
            to += sprintf(to, "\\%03o", *from);
        else
            *to++ = (char)*from;
    }
    *to = 0;
    json_object_set_new(status, field, json_string(shown));
}

static void escape_fields(json_t *status)
{
    static const char *const fields[] = { "reference", "mountpoint", "cache", "front_reason",
                                          "last_error" };
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++)
        escape_field(status, fields[i]);
    json_t *fill = json_object_get(status, "fill");
    if (fill) escape_field(fill, "reason");
}

static void print_layers(const json_t *status)
{
    size_t i;
    json_t *layer;
    char present[SIZE_TEXT_SIZE], stream[SIZE_TEXT_SIZE];
    json_array_foreach(json_object_get(status, "layers"), i, layer)
        printf("  layer %zu   %.19s %s: %u %% here (%s of %s unpacked)%s\n", i + 1,
               text_of(layer, "digest"), text_of(layer, "kind"),
               percent(size_of(layer, "bytes_present"), size_of(layer, "stream_bytes")),
               format_size(size_of(layer, "bytes_present"), present),
               format_size(size_of(layer, "stream_bytes"), stream),
               json_is_true(json_object_get(layer, "sealed")) ? ", sealed" : "");
}

static void print_fill(const json_t *status)
{
    char left[SIZE_TEXT_SIZE];
    const json_t *fill = json_object_get(status, "fill");
    if (!json_optional_text(fill, "state")) return;
    printf("  fill      %s: %s, %s left, %llu of %zu layers verified%s%s\n", text_of(fill, "mode"),
           text_of(fill, "state"), format_size(size_of(fill, "bytes_left"), left),
           (unsigned long long)size_of(fill, "layers_verified"),
           json_array_size(json_object_get(status, "layers")),
           json_optional_text(fill, "reason") ? "; " : "",
           json_optional_text(fill, "reason") ? text_of(fill, "reason") : "");
}

static void print_confinement(const json_t *status)
{
    size_t i;
    json_t *part;
    const json_t *list = json_object_get(status, "confinement");
    fputs("  confined  by", stdout);
    json_array_foreach(list, i, part)
        printf("%s %s", i ? "," : "", json_is_string(part) ? json_string_value(part) : "?");
    puts(json_array_size(list) ? "" : " nothing");
}

/* Nothing where there is no profile. */
static void print_profile(const json_t *status)
{
    const json_t *profile = json_object_get(status, "profile");
    char all[SIZE_TEXT_SIZE], here[SIZE_TEXT_SIZE], read[SIZE_TEXT_SIZE];
    if (!size_of(profile, "chunks")) return;
    printf("  profile   %s of %s fetched ahead (%s), %s of it read so far\n",
           format_size(size_of(profile, "bytes_here"), here),
           format_size(size_of(profile, "bytes"), all), text_of(profile, "state"),
           format_size(size_of(profile, "bytes_read"), read));
}

static void print_dead(const json_t *status)
{
    printf("%s on %s\n", text_of(status, "reference"), text_of(status, "mountpoint"));
    printf("  dead      its server was killed; clear it with: sluice umount '%s'\n",
           text_of(status, "mountpoint"));
}

static void print_status(json_t *status)
{
    escape_fields(status);
    if (json_is_true(json_object_get(status, "dead"))) {
        print_dead(status);
        return;
    }
    char fetched[SIZE_TEXT_SIZE], image[SIZE_TEXT_SIZE], served[SIZE_TEXT_SIZE];
    char chunks[COUNT_TEXT_SIZE], hits[COUNT_TEXT_SIZE], misses[COUNT_TEXT_SIZE];
    printf("%s on %s\n", text_of(status, "reference"), text_of(status, "mountpoint"));
    printf("  manifest  %s\n", text_of(status, "manifest_digest"));
    printf("  index     %s (%s)\n", text_of(status, "index_digest"), text_of(status, "trust"));
    printf("  front     %s: %s\n", text_of(status, "front"), text_of(status, "front_reason"));
    printf("  server    %llu, up %llu s, cache %s\n", (unsigned long long)size_of(status, "pid"),
           (unsigned long long)size_of(status, "uptime_seconds"), text_of(status, "cache"));
    print_confinement(status);
    printf("  fetched   %s in %s chunk%s (%u %% of the image's %s)\n",
           format_size(size_of(status, "bytes_fetched"), fetched),
           format_count(size_of(status, "chunks_fetched"), chunks),
           plural(size_of(status, "chunks_fetched")),
           percent(size_of(status, "bytes_fetched"), size_of(status, "image_bytes")),
           format_size(size_of(status, "image_bytes"), image));
    print_profile(status);
    printf("  served    %s; %s reads from the cache, %s waited for the registry\n",
           format_size(size_of(status, "bytes_served"), served),
           format_count(size_of(status, "reads_hit"), hits),
           format_count(size_of(status, "reads_missed"), misses));
    printf("  now       %llu chunk%s in flight, %llu read%s waiting; errors so far: %llu\n",
           (unsigned long long)size_of(status, "chunks_in_flight"),
           plural(size_of(status, "chunks_in_flight")),
           (unsigned long long)size_of(status, "reads_waiting"),
           plural(size_of(status, "reads_waiting")), (unsigned long long)size_of(status, "errors"));
    if (size_of(status, "store_errors"))
        printf("  cache     %llu chunk%s could not be stored\n",
               (unsigned long long)size_of(status, "store_errors"),
               plural(size_of(status, "store_errors")));
    if (json_is_true(json_object_get(status, "metadata_damaged")))
        puts("  metadata  damaged: its file in the cache was cut off, or cannot be read; mount it "
             "again");
    if (json_optional_text(status, "last_error"))
        printf("  last error: %s\n", text_of(status, "last_error"));
    print_fill(status);
    print_layers(status);
}

/* ---- the command ---- */

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

/* A mount whose server was killed. */
static void add_if_dead(void *context, const struct our_mount *mount)
{
    json_t *list = context;
    if (!mountpoint_is_dead(mount->path)) return;
    json_t *dead = json_pack("{s:o, s:o, s:b}", "reference", json_any_text(mount->image),
                             "mountpoint", json_any_text(mount->path), "dead", 1);
    if (dead) json_array_append_new(list, dead);
}

/* Why nobody answers for `path`: nothing of ours is there, or what is there has lost its server. */
static int not_served(const char *path, struct error **error)
{
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
        print_status(status);
    }
    return command_finish();
}

static enum exit_code print_all(bool json)
{
    struct error *error = NULL;
    cleanup_json json_t *list = json_array();
    if (!list) error_set_memory(&error);
    if (!list || control_list(add_to_list, list, &error) < 0 ||
        mount_table_each(add_if_dead, list, &error) < 0)
        return command_failed(error);
    if (json) {
        json_dumpf(list, stdout, JSON_INDENT(2));
        putchar('\n');
        return command_finish();
    }
    size_t i;
    json_t *status;
    json_array_foreach(list, i, status) print_status(status);
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
    .summary = "what the servers of mounted images fetched, served and wait for",
    .help = "  --json         print it as JSON (a list, or one object with DIR)\n"
            "  -v, --verbose  tell more\n\n"
            "example: sluice status /mnt\n",
    .run = run,
};
