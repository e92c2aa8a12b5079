#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/json.h"
#include "deploytool/command.h"
#include "deploytool/index_publish.h"
#include "deploytool/profile_files.h"
#include "deploytool/profile_run.h"
#include "deploytool/profile_target.h"

enum {
    OPTION_OUTPUT = OPTION_OWN,
    OPTION_FROM,
    OPTION_MERGE,
    OPTION_ANNOTATE,
    OPTION_TIMEOUT,
    OPTION_NETWORK,
    OPTION_CACHE
};

struct profile_options {
    struct common_options common;
    const char *reference;
    char *const *command; /* ends with NULL; empty: the image's own */
    const char *output, *from, *annotate, *cache;
    bool merge, own_network;
    unsigned timeout_seconds;
};

struct outcome {
    bool ran;
    struct container_result program;
    struct profile profile;
    bool published;
    struct digest index, annotated;
};

/* ---- output ---- */

static int print_json(const struct profile_options *options, const struct profile_target *target,
                      const struct outcome *outcome, struct error **error)
{
    char digest[DIGEST_TEXT_SIZE];
    const struct profile *profile = &outcome->profile;
    cleanup_json json_t *root = json_pack(
        "{s:s, s:I, s:I, s:I, s:I}", "reference", target->image.name, "profile_chunks",
        (json_int_t)profile->chunk_count, "profile_entries", (json_int_t)profile->entry_count,
        "profile_files", (json_int_t)profile->path_count, "profile_bytes",
        (json_int_t)profile_blob_bytes(profile, target->tables));
    if (!root) return error_set_memory(error);
    if (outcome->published)
        json_object_set_new(root, "index_digest",
                            json_string(digest_format(&outcome->index, digest)));
    if (outcome->published && options->annotate) {
        json_object_set_new(root, "annotated_tag", json_string(options->annotate));
        json_object_set_new(root, "annotated_digest",
                            json_string(digest_format(&outcome->annotated, digest)));
    }
    if (outcome->ran) {
        json_object_set_new(root, "exit_code", json_integer(outcome->program.exit_code));
        json_object_set_new(root, "timed_out", json_boolean(outcome->program.timed_out));
    }
    json_dumpf(root, stdout, JSON_INDENT(2));
    putchar('\n');
    return 0;
}

static void print_text(const struct profile_options *options, const struct profile_target *target,
                       const struct outcome *outcome)
{
    char chunks[COUNT_TEXT_SIZE], files[COUNT_TEXT_SIZE], size[SIZE_TEXT_SIZE],
        whole[SIZE_TEXT_SIZE], digest[DIGEST_TEXT_SIZE];
    const struct profile *profile = &outcome->profile;
    if (outcome->ran && outcome->program.timed_out)
        printf("the command was ended after %u seconds\n", options->timeout_seconds);
    printf("profile of %s: %s chunks, %s of the image's %s, because of %s files\n",
           target->image.name, format_count(profile->chunk_count, chunks),
           format_size(profile_blob_bytes(profile, target->tables), size),
           format_size(image_blob_bytes(&target->image), whole),
           format_count(profile->path_count, files));
    if (options->output) printf("  written to %s\n", options->output);
    if (!outcome->published) return;
    printf("  index %s takes the place of the one before\n",
           digest_format(&outcome->index, digest));
    if (options->annotate)
        printf("  named by the image %s:%s, %s\n", target->image.repository.name, options->annotate,
               digest_format(&outcome->annotated, digest));
}

/* ---- recording ---- */

static int check_program(const struct container_result *program, struct error **error)
{
    if (program->interrupted)
        return error_set(error, ERROR_CANCELLED, "the command was interrupted; nothing is kept");
    if (program->timed_out || program->exit_code == 0) return 0;
    error_set(error, ERROR_INVALID, "the command ended with exit code %d; nothing is kept",
              program->exit_code);
    return error_hint(error, "what fails reads other files; if it is meant to, run it as: sh -c "
                             "'COMMAND; true'");
}

/* An image's own command, or the one that was given. */
static int choose_command(const struct profile_options *options,
                          const struct profile_target *target, struct image_process *ret,
                          struct error **error)
{
    *ret = target->process;
    if (options->command[0]) {
        ret->arguments = (char **)options->command;
        for (ret->argument_count = 0; options->command[ret->argument_count];)
            ret->argument_count++;
    }
    if (ret->argument_count > 0) return 0;
    error_set(error, ERROR_INVALID, "image %s names no command", target->image.name);
    return error_hint(error, "give one behind '--'");
}

static int record(const struct profile_options *options, const struct profile_target *target,
                  struct outcome *outcome, struct buffer *ret, struct error **error)
{
    struct image_process process;
    cleanup_free char *cache = NULL;
    if (choose_command(options, target, &process, error) < 0) return -1;
    if (options->cache && (directory_make(options->cache, 0700, error) < 0 ||
                           !(cache = realpath(options->cache, NULL))))
        return error_set_errno(error, errno, "--cache '%s'", options->cache);
    struct profile_run_options run = { .reference = options->reference,
                                       .platform = common_platform(&options->common),
                                       .index = &target->index.digest,
                                       .plain_http = options->common.plain_http,
                                       .hosts_directory = options->common.hosts_directory,
                                       .cache = cache,
                                       .process = &process,
                                       .own_network = options->own_network,
                                       .output_to_error = options->common.json,
                                       .timeout_seconds = options->timeout_seconds };
    if (profile_run(&run, ret, &outcome->program, error) < 0) return -1;
    outcome->ran = true;
    return check_program(&outcome->program, error);
}

/* ---- publishing ---- */

static struct registry_client *new_client(const struct profile_options *options,
                                          struct error **error)
{
    struct registry_options registry = { .plain_http = options->common.plain_http,
                                         .hosts_directory = options->common.hosts_directory };
    return registry_client_new(&registry, error);
}

static int decode(const struct profile_target *target, const struct buffer *content,
                  struct profile *ret, struct error **error)
{
    return profile_decode(ret, content->data, content->length, target->layers,
                          target->artifact.layer_count, error);
}

static int merge(const struct profile_target *target, struct registry_client *client,
                 struct outcome *outcome, struct buffer *content, struct error **error)
{
    cleanup_buffer struct buffer merged = { 0 };
    if (profile_target_merge(target, client, &outcome->profile, &merged, error) < 0) return -1;
    struct buffer before = *content;
    *content = merged;
    merged = before;
    profile_free(&outcome->profile);
    return decode(target, content, &outcome->profile, error);
}

static int publish(const struct profile_options *options, struct profile_target *target,
                   struct registry_client *client, struct outcome *outcome,
                   const struct buffer *content, struct error **error)
{
    if (options->output)
        return file_write_atomic(options->output, content->data, content->length, 0644, error);
    if (index_push_profile(&target->image, client, &target->artifact, content, &outcome->index,
                           error) < 0)
        return -1;
    outcome->published = true;
    if (!options->annotate) return 0;
    return index_annotate(&target->image, client, &outcome->index, options->annotate,
                          &outcome->annotated, error);
}

/* `content` is the profile. */
static int keep(const struct profile_options *options, struct profile_target *target,
                struct outcome *outcome, struct buffer *content, struct error **error)
{
    struct registry_client *client = new_client(options, error);
    if (!client) return -1;
    int result = decode(target, content, &outcome->profile, error);
    if (result < 0 && options->from) error_prefix(error, "'%s'", options->from);
    if (result == 0 && options->merge) result = merge(target, client, outcome, content, error);
    if (result == 0) result = publish(options, target, client, outcome, content, error);
    registry_client_free(client);
    return result;
}

/* ---- the command ---- */

/* What would be found out too late otherwise. */
static int check_target(const struct profile_options *options, const struct profile_target *target,
                        struct error **error)
{
    if (!target->image.manifest.names_index || options->annotate || options->output) return 0;
    error_set(error, ERROR_INVALID,
              "the manifest of %s names its index, and would go on naming the one without this "
              "profile",
              target->image.name);
    return error_hint(error, "push a manifest that names the new one with --annotate TAG");
}

/* The client's thread is over when this returns: what follows starts processes. */
static int load_target(const struct profile_options *options, struct profile_target *ret,
                       struct error **error)
{
    struct registry_client *client = new_client(options, error);
    if (!client) return -1;
    int result = profile_target_load(ret, client, options->reference,
                                     common_platform(&options->common), error);
    if (result == 0) result = check_target(options, ret, error);
    registry_client_free(client);
    return result;
}

static enum exit_code profile_image(const struct profile_options *options)
{
    struct error *error = NULL;
    struct profile_target target = { 0 };
    struct outcome outcome = { 0 };
    cleanup_buffer struct buffer content = { 0 };
    int result = options->from ? 0 : profile_run_check(&error);
    if (result == 0) result = load_target(options, &target, &error);
    if (result == 0)
        result = options->from ? file_read(options->from, PROFILE_LENGTH_MAX, &content, &error)
                               : record(options, &target, &outcome, &content, &error);
    if (result == 0) result = keep(options, &target, &outcome, &content, &error);
    if (result == 0 && options->common.json)
        result = print_json(options, &target, &outcome, &error);
    else if (result == 0)
        print_text(options, &target, &outcome);
    profile_free(&outcome.profile);
    profile_target_free(&target);
    return result < 0 ? command_failed(error) : command_finish();
}

static enum exit_code check_combination(const struct profile_options *options)
{
    if (options->from &&
        (options->command[0] || options->cache || options->timeout_seconds || options->own_network))
        return command_usage(&profile_command, "--from runs no command");
    if (options->annotate && options->output)
        return command_usage(&profile_command, "--annotate pushes, and --output does not");
    return EXIT_OK;
}

static enum exit_code run(int argc, char **argv)
{
    static const struct option options[] = {
        IMAGE_OPTIONS,
        JSON_LONG,
        { "output", required_argument, NULL, OPTION_OUTPUT },
        { "from", required_argument, NULL, OPTION_FROM },
        { "merge", no_argument, NULL, OPTION_MERGE },
        { "annotate", required_argument, NULL, OPTION_ANNOTATE },
        { "timeout", required_argument, NULL, OPTION_TIMEOUT },
        { "network", required_argument, NULL, OPTION_NETWORK },
        { "cache", required_argument, NULL, OPTION_CACHE },
        { 0 },
    };
    struct profile_options chosen = { 0 };
    enum exit_code code;
    int option;
    common_options_init(&chosen.common);
    while ((option = getopt_long(argc, argv, "hv", options, NULL)) != -1) {
        switch (option) {
        case OPTION_OUTPUT:
            chosen.output = optarg;
            break;
        case OPTION_FROM:
            chosen.from = optarg;
            break;
        case OPTION_MERGE:
            chosen.merge = true;
            break;
        case OPTION_ANNOTATE:
            if (!tag_is_valid(optarg))
                return command_usage(&profile_command, "--annotate: '%s' is not a tag", optarg);
            chosen.annotate = optarg;
            break;
        case OPTION_TIMEOUT:
            if (!command_number(optarg, 86400, &chosen.timeout_seconds))
                return command_usage(&profile_command,
                                     "--timeout: '%s' is not a number of seconds from 1 to 86400",
                                     optarg);
            break;
        case OPTION_NETWORK:
            if (strcmp(optarg, "host") != 0 && strcmp(optarg, "none") != 0)
                return command_usage(&profile_command,
                                     "--network: '%s' is neither 'host' nor "
                                     "'none'",
                                     optarg);
            chosen.own_network = strcmp(optarg, "none") == 0;
            break;
        case OPTION_CACHE:
            chosen.cache = optarg;
            break;
        default:
            if (!command_option(&profile_command, &chosen.common, option, &code)) return code;
        }
    }
    if (!command_arguments(&profile_command, argc, 1, INT32_MAX, &code)) return code;
    chosen.reference = argv[optind];
    chosen.command = argv + optind + 1;
    code = check_combination(&chosen);
    return code == EXIT_OK ? profile_image(&chosen) : code;
}

const struct command profile_command = {
    .name = "profile",
    .arguments = "REF [-- COMMAND...]",
    .summary = "record what a command reads of an image, for nodes to fetch it first",
    .help = "  --timeout SECONDS  end the command then, and take what it has read until then\n"
            "  --network host|none  the machine's network (the default), or none\n"
            "  --output FILE   write the profile instead of adding it to the image's index\n"
            "  --from FILE     run nothing; take what was recorded by a mount, or written before\n"
            "  --merge         keep the profile that the index has, and add this one behind it\n"
            "  --annotate TAG  also push the image's manifest as TAG, naming the new index\n"
            "  --cache DIR     keep what was fetched there (nowhere)\n"
            "  --platform OS/ARCH[/VARIANT]  of a multi-platform image (this machine's)\n"
            "  --plain-http    speak HTTP (loopback registries: always)\n"
            "  --hosts-dir DIR mirrors and certificates (/etc/containerd/certs.d, then\n"
            "                  /etc/docker/certs.d)\n"
            "  --json          print the result as JSON; what COMMAND prints goes to standard\n"
            "                  error then\n"
            "  -v, --verbose   tell more\n\n"
            "Without COMMAND, the image's own entry point and command run.\n\n"
            "example: sluice profile registry.example.com/team/app:1.2 -- python3 -c "
            "'import torch'\n",
    .run = run,
};
