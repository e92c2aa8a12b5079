#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/json.h"
#include "deploytool/command.h"
#include "deploytool/convert.h"
#include "index/frame_writer.h"

enum { OPTION_LEVEL = OPTION_OWN, OPTION_THREADS, OPTION_PROFILE, OPTION_NO_PROFILE };

struct convert_options {
    struct common_options common;
    unsigned level, threads;
    const char *profile; /* a file, or NULL: that of the source's index */
    bool no_profile;
};

/* ---- output ---- */

static void print_layer(void *context, size_t layer, const struct converted_layer *converted)
{
    char before[SIZE_TEXT_SIZE], after[SIZE_TEXT_SIZE], frames[COUNT_TEXT_SIZE],
        digest[DIGEST_TEXT_SIZE];
    const struct image_manifest *manifest = &((const struct image *)context)->manifest;
    fprintf(stderr, "layer %zu/%zu %.19s: %s became %s, %s frames\n", layer + 1,
            manifest->layer_count, digest_format(&manifest->layers[layer].digest, digest),
            format_size(manifest->layers[layer].size, before),
            format_size(converted->as.blob_length, after),
            format_count(converted->frame_count, frames));
}

static json_t *profile_json(const struct conversion_result *result)
{
    return json_pack("{s:I, s:I, s:I, s:I}", "profile_bytes_before",
                     (json_int_t)result->profile_before.bytes, "profile_runs_before",
                     (json_int_t)result->profile_before.runs, "profile_bytes_after",
                     (json_int_t)result->profile_after.bytes, "profile_runs_after",
                     (json_int_t)result->profile_after.runs);
}

static int print_json(const struct conversion *conversion, const struct conversion_result *result,
                      double seconds, struct error **error)
{
    char source[DIGEST_TEXT_SIZE], target[DIGEST_TEXT_SIZE], index[DIGEST_TEXT_SIZE],
        platform[PLATFORM_TEXT_SIZE];
    cleanup_json json_t *root = json_pack(
        "{s:s, s:s, s:s, s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:f}", "source",
        conversion->source->name, "source_digest",
        digest_format(&conversion->source->digest, source), "platform",
        platform_format(&conversion->source->platform, platform), "target",
        conversion->target->name, "target_digest", digest_format(&result->manifest, target),
        "index_digest", digest_format(&result->index.digest, index), "layers",
        (json_int_t)conversion->source->manifest.layer_count, "bytes_before",
        (json_int_t)result->bytes_before, "bytes_after", (json_int_t)result->bytes_after,
        "bytes_pushed", (json_int_t)result->bytes_pushed, "seconds", seconds);
    if (!root) return error_set_memory(error);
    json_object_set_new(root, "layers_reordered",
                        json_integer((json_int_t)result->layers_reordered));
    if (conversion->profile) json_object_set_new(root, "profile", profile_json(result));
    json_dumpf(root, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(4));
    putchar('\n');
    return 0;
}

static void print_text(const struct conversion *conversion, const struct conversion_result *result,
                       double seconds)
{
    char digest[DIGEST_TEXT_SIZE], before[SIZE_TEXT_SIZE], after[SIZE_TEXT_SIZE],
        pushed[SIZE_TEXT_SIZE], runs_before[COUNT_TEXT_SIZE], runs_after[COUNT_TEXT_SIZE];
    printf("image %s, %s\n", conversion->target->name, digest_format(&result->manifest, digest));
    printf("  layers of %s became %s (%.1f %%) in %.1f s; %s of them were pushed\n",
           format_size(result->bytes_before, before), format_size(result->bytes_after, after),
           result->bytes_before ? 100.0 * (double)result->bytes_after / (double)result->bytes_before
                                : 100.0,
           seconds, format_size(result->bytes_pushed, pushed));
    if (conversion->profile)
        printf("  the profile's %s in %s runs became %s in %s; %zu layer%s reordered\n",
               format_size(result->profile_before.bytes, before),
               format_count(result->profile_before.runs, runs_before),
               format_size(result->profile_after.bytes, after),
               format_count(result->profile_after.runs, runs_after), result->layers_reordered,
               plural(result->layers_reordered));
    printf("  names its index, %s\n", digest_format(&result->index.digest, digest));
}

/* ---- the command ---- */

static enum exit_code report(const struct convert_options *options,
                             const struct conversion *conversion,
                             const struct conversion_result *result, double seconds)
{
    struct error *error = NULL;
    if (!options->common.json)
        print_text(conversion, result, seconds);
    else if (print_json(conversion, result, seconds, &error) < 0)
        return command_failed(error);
    return command_finish();
}

static enum exit_code convert(const struct convert_options *options, struct conversion conversion,
                              struct image *source, const char *reference)
{
    struct error *error = NULL;
    struct source_profile profile = { 0 };
    struct conversion_result result;
    uint64_t start = clock_ms();
    int found = image_resolve(source, conversion.client, &error);
    if (found == 0 && !options->no_profile)
        found = source_profile_load(&profile, conversion.client, reference,
                                    common_platform(&options->common), &source->digest,
                                    options->profile, &error);
    if (found > 0) conversion.profile = &profile;
    enum exit_code code;
    if (found < 0 || convert_image(&conversion, &result, &error) < 0) {
        code = command_failed(error);
    } else {
        code = report(options, &conversion, &result, (double)(clock_ms() - start) / 1000);
        conversion_result_free(&result);
    }
    source_profile_free(&profile);
    return code;
}

static enum exit_code open_and_convert(const struct convert_options *options, struct image *source,
                                       struct image *target, const char *from)
{
    struct error *error = NULL;
    struct registry_options registry = { .plain_http = options->common.plain_http,
                                         .hosts_directory = options->common.hosts_directory };
    struct registry_client *client = registry_client_new(&registry, &error);
    if (!client) return command_failed(error);
    struct conversion conversion = { .source = source,
                                     .target = target,
                                     .client = client,
                                     .level = (int)options->level,
                                     .threads = options->threads,
                                     .layer_done = options->common.json ? NULL : print_layer,
                                     .context = source };
    enum exit_code code = convert(options, conversion, source, from);
    registry_client_free(client);
    return code;
}

static enum exit_code convert_names(const struct convert_options *options, const char *from,
                                    const char *to)
{
    struct error *error = NULL;
    struct image source, target = { 0 };
    if (image_parse(&source, from, common_platform(&options->common), &error) < 0)
        return command_failed(error);
    enum exit_code code;
    if (image_parse(&target, to, NULL, &error) < 0)
        code = command_failed(error);
    else if (target.reference.digest)
        code = command_usage(&convert_command, "'%s' names a digest; name a tag", to);
    else if (strcmp(source.name, target.name) == 0)
        code = command_usage(&convert_command, "'%s' is converted to itself; name another tag", to);
    else
        code = open_and_convert(options, &source, &target, from);
    image_free(&source);
    image_free(&target);
    return code;
}

static enum exit_code run(int argc, char **argv)
{
    static const struct option options[] = {
        IMAGE_OPTIONS,
        JSON_LONG,
        { "level", required_argument, NULL, OPTION_LEVEL },
        { "threads", required_argument, NULL, OPTION_THREADS },
        { "profile", required_argument, NULL, OPTION_PROFILE },
        { "no-profile", no_argument, NULL, OPTION_NO_PROFILE },
        { 0 },
    };
    struct convert_options chosen = { .level = FRAME_LEVEL_DEFAULT };
    enum exit_code code;
    int option;
    common_options_init(&chosen.common);
    while ((option = getopt_long(argc, argv, "hv", options, NULL)) != -1) {
        switch (option) {
        case OPTION_LEVEL:
            if (!command_number(optarg, FRAME_LEVEL_MOST, &chosen.level))
                return command_usage(&convert_command, "--level: '%s' is not a number from 1 to %d",
                                     optarg, FRAME_LEVEL_MOST);
            break;
        case OPTION_THREADS:
            if (!command_number(optarg, 64, &chosen.threads))
                return command_usage(&convert_command,
                                     "--threads: '%s' is not a number from 1 to 64", optarg);
            break;
        case OPTION_PROFILE:
            chosen.profile = optarg;
            break;
        case OPTION_NO_PROFILE:
            chosen.no_profile = true;
            break;
        default:
            if (!command_option(&convert_command, &chosen.common, option, &code)) return code;
        }
    }
    if (!command_arguments(&convert_command, argc, 2, 2, &code)) return code;
    if (chosen.profile && chosen.no_profile)
        return command_usage(&convert_command, "--profile and --no-profile exclude each other");
    return convert_names(&chosen, argv[optind], argv[optind + 1]);
}

const struct command convert_command = {
    .name = "convert",
    .arguments = "SRC DST",
    .summary = "copy an image with layers that are quicker to read at random",
    .help =
        "  --platform OS/ARCH[/VARIANT]  of a multi-platform image (this machine's)\n"
        "  --level N       of zstd, 1 to 19 (15)\n"
        "  --profile FILE  put files first that this record of the source names (the profile of\n"
        "                  the source's index, if it has one)\n"
        "  --no-profile    leave files where they are\n"
        "  --threads N     frames compressed at once (the number of cores)\n"
        "  --plain-http    speak HTTP (loopback registries: always)\n"
        "  --hosts-dir DIR mirrors and certificates (/etc/containerd/certs.d, then\n"
        "                  /etc/docker/certs.d)\n"
        "  --json          print the result as JSON\n"
        "  -v, --verbose   tell more\n\n"
        "example: sluice convert registry.example.com/team/app:1.2 \\\n"
        "                        registry.example.com/team/app:1.2-sluice\n",
    .run = run,
};
