#include "deploytool/status_text.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/json.h"
#include "deploytool/command.h"

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
    static const char *const fields[] = { "reference",    "mountpoint",     "cache",
                                          "front_reason", "last_error",     "name",
                                          "reason",       "address",        "root",
                                          "index",        "metrics_problem" };
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

static void print_silent(const json_t *status)
{
    printf("%s on %s\n", text_of(status, "reference"), text_of(status, "mountpoint"));
    puts("  silent    its server does not answer: it is stopped, or hangs");
}

static void print_waiting(const json_t *status)
{
    printf("%s on %s\n", text_of(status, "reference"), text_of(status, "mountpoint"));
    puts("  waits     for sluiced, which does not run: start it ('systemctl status sluiced' says "
         "why it ended)");
}

/* "12 reads waiting, the oldest for 3.4 s" */
static void print_reads_waiting(const json_t *status)
{
    uint64_t waiting = size_of(status, "reads_waiting");
    printf("%llu read%s waiting", (unsigned long long)waiting, plural(waiting));
    if (waiting)
        printf(", the oldest for %.1f s", (double)size_of(status, "oldest_wait_ms") / 1000);
}

static void print_reads(const json_t *status)
{
    char served[SIZE_TEXT_SIZE], hits[COUNT_TEXT_SIZE], misses[COUNT_TEXT_SIZE];
    uint64_t hit = size_of(status, "reads_hit"), missed = size_of(status, "reads_missed");
    printf("%s; %s reads from the cache, %s waited for the registry",
           format_size(size_of(status, "bytes_served"), served), format_count(hit, hits),
           format_count(missed, misses));
    if (hit + missed) printf(" (%u %% hits)", percent(hit, hit + missed));
}

static void print_last_error(const json_t *status)
{
    if (!json_optional_text(status, "last_error")) return;
    printf("  last error: %llu s ago: %s\n",
           (unsigned long long)size_of(status, "last_error_seconds_ago"),
           text_of(status, "last_error"));
}

static void print_served(const json_t *status)
{
    fputs("  served    ", stdout);
    print_reads(status);
    printf("\n  now       %llu chunk%s in flight, ",
           (unsigned long long)size_of(status, "chunks_in_flight"),
           plural(size_of(status, "chunks_in_flight")));
    print_reads_waiting(status);
    printf("; errors so far: %llu\n", (unsigned long long)size_of(status, "errors"));
    if (size_of(status, "store_errors"))
        printf("  cache     %llu chunk%s could not be stored\n",
               (unsigned long long)size_of(status, "store_errors"),
               plural(size_of(status, "store_errors")));
    print_last_error(status);
}

static void print_mount(json_t *status)
{
    char fetched[SIZE_TEXT_SIZE], image[SIZE_TEXT_SIZE], chunks[COUNT_TEXT_SIZE];
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
    print_served(status);
    if (json_is_true(json_object_get(status, "metadata_damaged")))
        puts("  metadata  damaged: its file in the cache was cut off, or cannot be read; mount it "
             "again");
    print_fill(status);
    print_layers(status);
}

/* ---- sluiced ---- */

static void print_view(json_t *view)
{
    escape_fields(view);
    printf("    %-9s %s", text_of(view, "state"), text_of(view, "mountpoint"));
    if (json_optional_text(view, "front")) printf(" by %s", text_of(view, "front"));
    puts("");
    if (json_optional_text(view, "reason")) printf("    reason: %s\n", text_of(view, "reason"));
}

/* How much of it is on the node. */
static void print_presence(const json_t *image)
{
    char present[SIZE_TEXT_SIZE], all[SIZE_TEXT_SIZE], shared[SIZE_TEXT_SIZE];
    const json_t *fill = json_object_get(image, "fill");
    printf("    here      %u %% (%s of %s unpacked), %llu of %llu layers complete",
           percent(size_of(image, "bytes_present"), size_of(image, "stream_bytes")),
           format_size(size_of(image, "bytes_present"), present),
           format_size(size_of(image, "stream_bytes"), all),
           (unsigned long long)size_of(image, "layers_complete"),
           (unsigned long long)size_of(image, "layers"));
    if (size_of(image, "bytes_shared"))
        printf("; %s of it shared with other images",
               format_size(size_of(image, "bytes_shared"), shared));
    if (json_optional_text(fill, "state")) printf("; fill %s", text_of(fill, "state"));
    puts("");
    if (json_optional_text(fill, "reason")) printf("    fill      %s\n", text_of(fill, "reason"));
}

static void print_image(json_t *image)
{
    size_t i;
    json_t *view;
    char fetched[SIZE_TEXT_SIZE];
    const json_t *views = json_object_get(image, "views");
    escape_fields(image);
    printf("  lazy      %s (%s", text_of(image, "name"), text_of(image, "trust"));
    if (json_is_integer(json_object_get(image, "decision_ms")))
        printf(", decided in %llu ms", (unsigned long long)size_of(image, "decision_ms"));
    puts(")");
    json_array_foreach(views, i, view) print_view(view);
    if (json_array_size(views) == 0) puts("    not mounted");
    if (!size_of(image, "stream_bytes")) return;
    print_presence(image);
    printf("    fetched   %s; served ", format_size(size_of(image, "bytes_fetched"), fetched));
    print_reads(image);
    fputs("\n    now       ", stdout);
    print_reads_waiting(image);
    printf("; errors so far: %llu\n", (unsigned long long)size_of(image, "errors"));
    if (json_optional_text(image, "last_error")) fputs("  ", stdout);
    print_last_error(image);
}

static void print_images(const json_t *status)
{
    size_t i;
    json_t *image;
    json_array_foreach(json_object_get(status, "images"), i, image) print_image(image);
    json_array_foreach(json_object_get(status, "deciding"), i, image)
    {
        escape_fields(image);
        printf("  deciding  %s: for %.1f s%s\n", text_of(image, "name"),
               (double)size_of(image, "decision_ms") / 1000,
               json_is_true(json_object_get(image, "late"))
                   ? ", too long for who has asked: it is pulled ordinarily"
                   : "");
    }
    json_array_foreach(json_object_get(status, "ordinary"), i, image)
    {
        escape_fields(image);
        printf("  ordinary  %s (decided in %llu ms, %llu s ago): %s\n", text_of(image, "name"),
               (unsigned long long)size_of(image, "decision_ms"),
               (unsigned long long)size_of(image, "seconds_ago"), text_of(image, "reason"));
    }
}

static void print_daemon(json_t *status)
{
    char fetched[SIZE_TEXT_SIZE], cached[SIZE_TEXT_SIZE], chunks[COUNT_TEXT_SIZE];
    json_t *daemon = json_object_get(status, "daemon"), *server = json_object_get(status, "server");
    escape_fields(daemon);
    escape_fields(server);
    printf("sluiced %s on %s, for containerd at %s\n", text_of(daemon, "version"),
           text_of(daemon, "root"), text_of(daemon, "address"));
    printf("  daemon    %llu, up %llu s\n", (unsigned long long)size_of(daemon, "pid"),
           (unsigned long long)size_of(daemon, "uptime_seconds"));
    if (json_optional_text(daemon, "metrics_problem"))
        printf("  metrics   not told: %s\n", text_of(daemon, "metrics_problem"));
    if (json_is_true(json_object_get(server, "running"))) {
        printf("  server    %llu, up %llu s, started %llu time%s, cache %s\n",
               (unsigned long long)size_of(server, "pid"),
               (unsigned long long)size_of(server, "uptime_seconds"),
               (unsigned long long)size_of(server, "starts"), plural(size_of(server, "starts")),
               text_of(server, "cache"));
        print_confinement(server);
        printf("  cache     %s on disk\n",
               format_size(size_of(json_object_get(status, "cache"), "on_disk"), cached));
        printf("  fetched   %s in %s chunk%s\n",
               format_size(size_of(server, "bytes_fetched"), fetched),
               format_count(size_of(server, "chunks_fetched"), chunks),
               plural(size_of(server, "chunks_fetched")));
        print_served(server);
    } else {
        printf("  server    cannot be asked: %s\n", text_of(server, "reason"));
    }
    print_images(status);
}

void status_print(json_t *status)
{
    escape_fields(status);
    if (json_is_true(json_object_get(status, "dead")))
        print_dead(status);
    else if (json_is_true(json_object_get(status, "silent")))
        print_silent(status);
    else if (json_is_true(json_object_get(status, "waits_for_sluiced")))
        print_waiting(status);
    else if (json_is_object(json_object_get(status, "daemon")))
        print_daemon(status);
    else
        print_mount(status);
}
