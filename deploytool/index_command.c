#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"
#include "base/thread.h"
#include "deploytool/command.h"
#include "deploytool/index_build.h"
#include "deploytool/index_publish.h"

#define REDRAW_MS 200 /* the bar of progress */

enum { OPTION_OUTPUT = OPTION_OWN, OPTION_ANNOTATE, OPTION_THREADS, OPTION_FORCE };

struct index_options {
    struct common_options common;
    const char *output;   /* a directory, or NULL: push */
    const char *annotate; /* a tag for a manifest that names the index, or NULL */
    unsigned threads;
    bool force;
};

/* ---- progress: a bar on a terminal, a line a layer elsewhere ---- */

struct progress_display {
    struct index_progress progress;
    const struct image *image;
    uint64_t total;
    bool terminal, quiet;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool stop;
    bool drawing; /* the thread runs */
    pthread_t thread;
};

static void print_layer(void *context, size_t layer, const struct built_layer *built)
{
    struct progress_display *display = context;
    char digest[DIGEST_TEXT_SIZE], size[SIZE_TEXT_SIZE], chunks[COUNT_TEXT_SIZE],
        entries[COUNT_TEXT_SIZE];
    if (display->quiet) return;
    const struct chunk_table *table = built->tables.chunks;
    pthread_mutex_lock(&display->lock);
    fprintf(stderr, "%slayer %zu/%zu %.19s: %s, %s, %s chunks, %s entries\n",
            display->terminal ? "\r\033[K" : "", layer + 1, display->image->manifest.layer_count,
            digest_format(&table->blob_digest, digest), layer_kind_name(table->kind),
            format_size(table->blob_length, size), format_count(table->chunk_count, chunks),
            format_count(entry_table_count(built->tables.entries), entries));
    pthread_mutex_unlock(&display->lock);
}

static void draw_bar(const struct progress_display *display)
{
    enum { WIDTH = 40 };
    char done_text[SIZE_TEXT_SIZE], total_text[SIZE_TEXT_SIZE], bar[WIDTH + 1];
    uint64_t done = atomic_load(&display->progress.bytes_read);
    uint64_t filled = display->total ? done * WIDTH / display->total : WIDTH;
    if (filled > WIDTH) filled = WIDTH;
    memset(bar, '.', WIDTH);
    memset(bar, '#', (size_t)filled);
    bar[WIDTH] = '\0';
    fprintf(stderr, "\r\033[K[%s] %s of %s", bar, format_size(done, done_text),
            format_size(display->total, total_text));
}

static void *draw(void *context)
{
    struct progress_display *display = context;
    pthread_mutex_lock(&display->lock);
    while (!display->stop) {
        draw_bar(display);
        clock_wait(&display->changed, &display->lock, clock_ms() + REDRAW_MS);
    }
    fputs("\r\033[K", stderr);
    pthread_mutex_unlock(&display->lock);
    return NULL;
}

static void progress_start(struct progress_display *display, const struct image *image, bool quiet)
{
    *display = (struct progress_display){ .image = image,
                                          .total = image_blob_bytes(image),
                                          .quiet = quiet,
                                          .terminal = !quiet && isatty(STDERR_FILENO) };
    display->progress.layer_done = print_layer;
    display->progress.context = display;
    pthread_mutex_init(&display->lock, NULL);
    clock_condition_init(&display->changed);
    if (display->terminal)
        display->drawing = thread_start(&display->thread, "progress", draw, display, NULL) == 0;
}

static void progress_stop(struct progress_display *display)
{
    pthread_mutex_lock(&display->lock);
    display->stop = true;
    pthread_cond_signal(&display->changed);
    pthread_mutex_unlock(&display->lock);
    if (display->drawing) pthread_join(display->thread, NULL);
    pthread_cond_destroy(&display->changed);
    pthread_mutex_destroy(&display->lock);
}

/* ---- result ---- */

/* What is told at the end, whether the index was built now or was there. */
struct outcome {
    const struct image *image;
    const struct index_artifact *artifact;
    struct digest index;
    bool already_there;
    bool profile_kept; /* of the index before */
    const char *output;
    const char *annotated_tag; /* or NULL */
    struct digest annotated;   /* the manifest there */
    struct publish_result published;
};

static uint64_t part_bytes(const struct outcome *outcome, uint64_t *ret_before_mount)
{
    const struct index_artifact *artifact = outcome->artifact;
    uint64_t before = artifact->metadata.size, all = before;
    for (size_t i = 0; i < artifact->layer_count; i++) {
        const struct index_layer *layer = &artifact->layers[i];
        before += layer->chunks.size;
        all += layer->chunks.size + layer->entries.size + layer->windows.size;
    }
    all += artifact->profile.size;
    *ret_before_mount = before;
    return all;
}

static int print_json(const struct outcome *outcome, struct error **error)
{
    char manifest[DIGEST_TEXT_SIZE], index[DIGEST_TEXT_SIZE], platform[PLATFORM_TEXT_SIZE];
    uint64_t before_mount, all = part_bytes(outcome, &before_mount);
    cleanup_json json_t *root = json_pack(
        "{s:s, s:s, s:s, s:s, s:b, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "reference",
        outcome->image->name, "platform", platform_format(&outcome->image->platform, platform),
        "manifest_digest", digest_format(&outcome->image->digest, manifest), "index_digest",
        digest_format(&outcome->index, index), "already_indexed", outcome->already_there, "layers",
        (json_int_t)outcome->artifact->layer_count, "image_bytes",
        (json_int_t)image_blob_bytes(outcome->image), "index_bytes", (json_int_t)all,
        "bytes_before_mount", (json_int_t)before_mount, "parts_pushed",
        (json_int_t)outcome->published.parts_pushed, "parts_present",
        (json_int_t)outcome->published.parts_present, "bytes_pushed",
        (json_int_t)outcome->published.bytes_pushed);
    if (!root) return error_set_memory(error);
    json_object_set_new(root, "profile_kept", json_boolean(outcome->profile_kept));
    if (outcome->annotated_tag) {
        json_object_set_new(root, "annotated_tag", json_string(outcome->annotated_tag));
        json_object_set_new(root, "annotated_digest",
                            json_string(digest_format(&outcome->annotated, manifest)));
    }
    json_dumpf(root, stdout, JSON_INDENT(2));
    putchar('\n');
    return 0;
}

static void print_text(const struct outcome *outcome)
{
    char digest[DIGEST_TEXT_SIZE], all_text[SIZE_TEXT_SIZE], before_text[SIZE_TEXT_SIZE],
        image_text[SIZE_TEXT_SIZE], pushed_text[SIZE_TEXT_SIZE];
    uint64_t before_mount, all = part_bytes(outcome, &before_mount);
    printf("index %s of %s\n", digest_format(&outcome->index, digest), outcome->image->name);
    printf("  %s for an image of %s in %zu layer%s; a node fetches %s before it mounts\n",
           format_size(all, all_text), format_size(image_blob_bytes(outcome->image), image_text),
           outcome->artifact->layer_count, outcome->artifact->layer_count == 1 ? "" : "s",
           format_size(before_mount, before_text));
    if (outcome->already_there)
        printf("  was there already: nothing was read or pushed (--force makes it anew)\n");
    else
        printf("  %s %zu part%s (%s), %zu %s there already\n", outcome->output ? "wrote" : "pushed",
               outcome->published.parts_pushed, outcome->published.parts_pushed == 1 ? "" : "s",
               format_size(outcome->published.bytes_pushed, pushed_text),
               outcome->published.parts_present,
               outcome->published.parts_present == 1 ? "was" : "were");
    if (outcome->profile_kept) puts("  with the profile of the index before");
    if (outcome->annotated_tag)
        printf("  named by the image %s:%s, %s\n", outcome->image->repository.name,
               outcome->annotated_tag, digest_format(&outcome->annotated, digest));
}

static enum exit_code report(const struct outcome *outcome, bool json)
{
    struct error *error = NULL;
    if (!json)
        print_text(outcome);
    else if (print_json(outcome, &error) < 0)
        return command_failed(error);
    return command_finish();
}

/* ---- the command ---- */

/* With --annotate; then tells the outcome. */
static enum exit_code finish(const struct index_options *options, struct registry_client *client,
                             struct outcome *outcome)
{
    struct error *error = NULL;
    if (options->annotate && index_annotate(outcome->image, client, &outcome->index,
                                            options->annotate, &outcome->annotated, &error) < 0)
        return command_failed(error);
    outcome->annotated_tag = options->annotate;
    return report(outcome, options->common.json);
}

/* 1: the registry has an index of this image that we can read; it is in `ret`. */
static int read_existing(const struct image *image, struct registry_client *client,
                         struct digest *ret_digest, struct index_artifact *ret,
                         struct error **error)
{
    char text[DIGEST_TEXT_SIZE];
    struct registry_manifest manifest = { 0 };
    int found = 1;
    if (image->manifest.names_index)
        *ret_digest = image->manifest.index;
    else
        found = image_find_index(image, client, ret_digest, error);
    if (found <= 0) return found;
    struct error *reason = NULL;
    if (registry_get_manifest(client, &image->repository, digest_format(ret_digest, text),
                              &manifest, &reason) < 0 ||
        index_artifact_decode(ret, manifest.body.data, manifest.body.length, &reason) < 0) {
        log_info("the index that is there is of no use: %s", error_message(reason));
        error_free(reason);
        registry_manifest_free(&manifest);
        return 0;
    }
    registry_manifest_free(&manifest);
    if (image_check_index(image, ret, ret_digest, NULL) == 0) return 1;
    index_artifact_free(ret);
    return 0;
}

/* 1: the registry has a whole index of this image that we would accept; it is in `ret`. */
static int find_existing(const struct image *image, struct registry_client *client,
                         struct digest *ret_digest, struct index_artifact *ret,
                         struct error **error)
{
    int found = read_existing(image, client, ret_digest, ret, error);
    if (found <= 0) return found;
    int usable = index_parts_present(image, client, ret, error);
    if (usable <= 0) index_artifact_free(ret);
    return usable;
}

/* What an index made anew takes over from the one before. */
static int keep_profile(const struct image *image, struct registry_client *client,
                        struct built_index *built, struct outcome *outcome, struct error **error)
{
    struct digest digest;
    struct index_artifact before = { 0 };
    int found = read_existing(image, client, &digest, &before, error);
    if (found <= 0) return found;
    int kept = built_index_follow(built, image, client, &before, &digest, error);
    outcome->profile_kept = kept > 0;
    index_artifact_free(&before);
    return kept < 0 ? -1 : 0;
}

static enum exit_code build_and_publish(const struct index_options *options,
                                        const struct image *image, struct registry_client *client)
{
    struct error *error = NULL;
    struct progress_display display;
    struct built_index built;
    if (options->output && index_check_layout(options->output, &error) < 0)
        return command_failed(error);
    progress_start(&display, image, options->common.json);
    int result =
        index_build(image, client, options->threads, NULL, &display.progress, &built, &error);
    progress_stop(&display);
    if (result < 0) return command_failed(error);
    struct outcome outcome = { .image = image,
                               .artifact = &built.artifact,
                               .output = options->output };
    if (keep_profile(image, client, &built, &outcome, &error) < 0) {
        if (!options->output) {
            built_index_free(&built);
            return command_failed(error);
        }
        log_warning("%s; going on without the profile that it may have", error_message(error));
        error_free(error);
        error = NULL;
    }
    outcome.index = built.digest;
    result = options->output
                 ? index_write_layout(options->output, &built, &outcome.published, &error)
                 : index_push(image, client, &built, &outcome.published, &error);
    enum exit_code code = result < 0 ? command_failed(error) : finish(options, client, &outcome);
    built_index_free(&built);
    return code;
}

static enum exit_code index_image(const struct index_options *options, const char *reference)
{
    struct error *error = NULL;
    struct registry_options registry = { .plain_http = options->common.plain_http,
                                         .hosts_directory = options->common.hosts_directory };
    struct image image;
    if (image_parse(&image, reference, common_platform(&options->common), &error) < 0)
        return command_failed(error);
    enum exit_code code = EXIT_FAILED;
    struct outcome there = { .image = &image, .already_there = true };
    struct index_artifact artifact = { 0 };
    int existing = 0;
    struct registry_client *client = registry_client_new(&registry, &error);
    if (!client || image_resolve(&image, client, &error) < 0)
        code = command_failed(error);
    else if (!options->force && !options->output &&
             (existing = find_existing(&image, client, &there.index, &artifact, &error)) < 0)
        code = command_failed(error);
    else if (existing) {
        there.artifact = &artifact;
        code = finish(options, client, &there);
    } else
        code = build_and_publish(options, &image, client);
    index_artifact_free(&artifact);
    registry_client_free(client);
    image_free(&image);
    return code;
}

static enum exit_code run(int argc, char **argv)
{
    static const struct option options[] = {
        IMAGE_OPTIONS,
        JSON_LONG,
        { "output", required_argument, NULL, OPTION_OUTPUT },
        { "annotate", required_argument, NULL, OPTION_ANNOTATE },
        { "threads", required_argument, NULL, OPTION_THREADS },
        { "force", no_argument, NULL, OPTION_FORCE },
        { 0 },
    };
    struct index_options chosen = { 0 };
    enum exit_code code;
    int option;
    common_options_init(&chosen.common);
    while ((option = getopt_long(argc, argv, "hv", options, NULL)) != -1) {
        switch (option) {
        case OPTION_OUTPUT:
            chosen.output = optarg;
            break;
        case OPTION_ANNOTATE:
            if (!tag_is_valid(optarg))
                return command_usage(&index_command, "--annotate: '%s' is not a tag", optarg);
            chosen.annotate = optarg;
            break;
        case OPTION_FORCE:
            chosen.force = true;
            break;
        case OPTION_THREADS:
            if (!command_number(optarg, 64, &chosen.threads))
                return command_usage(&index_command, "--threads: '%s' is not a number from 1 to 64",
                                     optarg);
            break;
        default:
            if (!command_option(&index_command, &chosen.common, option, &code)) return code;
        }
    }
    if (!command_arguments(&index_command, argc, 1, 1, &code)) return code;
    if (chosen.annotate && chosen.output)
        return command_usage(&index_command, "--annotate pushes, and --output does not");
    return index_image(&chosen, argv[optind]);
}

const struct command index_command = {
    .name = "index",
    .arguments = "REF",
    .summary = "make the index of an image and push it beside the image",
    .help = "  --platform OS/ARCH[/VARIANT]  of a multi-platform image (this machine's)\n"
            "  --output DIR    write an OCI image layout instead of pushing\n"
            "  --annotate TAG  also push the image's manifest once more, as TAG, with the index's\n"
            "                  digest in it (trust level 'pinned')\n"
            "  --threads N     layers read at once (the number of cores)\n"
            "  --force         make it anew even where the registry has one\n"
            "  --plain-http    speak HTTP (loopback registries: always)\n"
            "  --hosts-dir DIR mirrors and certificates (/etc/containerd/certs.d, then\n"
            "                  /etc/docker/certs.d)\n"
            "  --json          print the result as JSON\n"
            "  -v, --verbose   tell more\n\n"
            "example: sluice index registry.example.com/team/app:1.2\n",
    .run = run,
};
