#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "deploytool/cache_list.h"
#include "deploytool/command.h"
#include "index/artifact.h"
#include "index/chunk_table.h"
#include "node/node_cache.h"

enum { OPTION_CACHE = OPTION_OWN, OPTION_KEEP, OPTION_ALL };

struct cache_options {
    const char *directory;
    bool json, all, keep_given;
    uint64_t keep;
};

/* Only one that is there: to look at a cache must not make one. */
static int open_existing(const struct cache_options *options, struct cache **ret,
                         struct error **error)
{
    struct stat status;
    cleanup_free char *directory = node_cache_directory(options->directory, error);
    if (!directory) return -1;
    if (stat(directory, &status) < 0 && errno == ENOENT) {
        error_set(error, ERROR_NOT_FOUND, "there is no cache directory '%s'", directory);
        error_hint(error, "name one with --cache DIR; sluiced's is /var/lib/sluice/cache");
        return -1;
    }
    return cache_open(ret, directory, error);
}

/* ---- ls ---- */

static int list(struct cache *cache, const struct cache_options *options, struct error **error)
{
    cleanup_json json_t *found = cache_list(cache);
    if (!found) return error_set_memory(error);
    if (!options->json) {
        cache_list_print(found);
        return 0;
    }
    json_dumpf(found, stdout, JSON_INDENT(2));
    putchar('\n');
    return 0;
}

/* ---- prune ---- */

static int prune(struct cache *cache, const struct cache_options *options, struct error **error)
{
    char freed_text[SIZE_TEXT_SIZE], left_text[SIZE_TEXT_SIZE];
    struct cache_sizes sizes;
    uint64_t freed;
    if (cache_prune(cache, options->keep, &freed, error) < 0) return -1;
    cache_measure(cache, &sizes);
    printf("freed %s; %s are left%s\n", format_size(freed, freed_text),
           format_size(sizes.on_disk, left_text),
           sizes.on_disk > options->keep && !options->all ? ", more than asked: mounts use it"
                                                          : "");
    return 0;
}

/* ---- verify ---- */

struct verification {
    struct cache *cache;
    struct cache_verified found;
    uint64_t unknown_layers;
};

static void print_damage(void *context, const char *what)
{
    (void)context;
    printf("damaged, removed: %s\n", what);
}

static int verify_chunks(struct verification *verification, const struct digest *key,
                         const struct chunk_table *table)
{
    size_t count = table->chunk_count;
    cleanup_free uint32_t *lengths = calloc(count + 1, sizeof *lengths);
    cleanup_free struct digest *digests = calloc(count + 1, sizeof *digests);
    if (!lengths || !digests) return -1;
    for (uint32_t i = 0; i < count; i++) {
        lengths[i] = (uint32_t)chunk_length(table, i);
        digests[i] = table->chunks[i].digest;
    }
    const struct layer_shape shape = { .stream_length = table->stream_length,
                                       .chunk_count = table->chunk_count,
                                       .lengths = lengths };
    return cache_verify_layer(verification->cache, key, &shape, digests, print_damage, NULL,
                              &verification->found, NULL);
}

static void verify_layer(void *context, const struct cache_layer_info *info)
{
    struct verification *verification = context;
    char text[DIGEST_TEXT_SIZE];
    cleanup_buffer struct buffer encoded = { 0 };
    struct chunk_table *table = NULL;
    if (info->chunks_stored == 0) return;
    int result =
        cache_get_blob(verification->cache, &info->key, CHUNK_TABLES_LENGTH_MAX, &encoded, NULL);
    if (result == 0) result = chunk_table_decode(&table, encoded.data, encoded.length, NULL);
    if (result == 0) result = verify_chunks(verification, &info->key, table);
    chunk_table_free(table);
    if (result == 0) return;
    verification->unknown_layers++;
    printf("not verified: layer %s, whose chunk table is not here\n",
           digest_format_hex(&info->key, text));
}

static int verify(struct cache *cache, const struct cache_options *options, struct error **error)
{
    char size[SIZE_TEXT_SIZE], chunks[COUNT_TEXT_SIZE];
    struct verification verification = { .cache = cache };
    (void)options;
    cache_each_layer(cache, verify_layer, &verification);
    cache_verify_files(cache, print_damage, NULL, &verification.found);
    const struct cache_verified *found = &verification.found;
    printf("verified %s chunk%s, %llu part%s of indexes and %llu name%s: %s\n",
           format_count(found->chunks, chunks), plural(found->chunks),
           (unsigned long long)found->blobs, plural(found->blobs), (unsigned long long)found->names,
           plural(found->names), format_size(found->bytes, size));
    if (found->damaged == 0) return 0;
    fflush(stdout);
    error_set(error, ERROR_INVALID, "%llu damaged entries were in cache directory '%s'",
              (unsigned long long)found->damaged, cache_directory(cache));
    return error_hint(error, "they are removed, and are fetched again when they are needed");
}

/* ---- the command ---- */

struct action {
    const char *name;
    int (*run)(struct cache *cache, const struct cache_options *options, struct error **error);
};

static const struct action actions[] = { { "ls", list }, { "prune", prune }, { "verify", verify } };

static const struct action *find_action(const char *name)
{
    for (size_t i = 0; i < sizeof actions / sizeof *actions; i++)
        if (strcmp(actions[i].name, name) == 0) return &actions[i];
    return NULL;
}

/* True: the options fit the action. */
static bool check_options(const struct action *action, const struct cache_options *options,
                          enum exit_code *ret_exit)
{
    const char *wrong = NULL;
    bool prunes = action->run == prune;
    if (options->json && action->run != list)
        wrong = "--json is for ls";
    else if ((options->all || options->keep_given) && !prunes)
        wrong = "--keep and --all are for prune";
    else if (prunes && options->all == options->keep_given)
        wrong = "prune takes either --keep SIZE or --all";
    if (wrong) *ret_exit = command_usage(&cache_command, "%s", wrong);
    return !wrong;
}

static enum exit_code run_action(const struct action *action, const struct cache_options *options)
{
    struct error *error = NULL;
    struct cache *cache = NULL;
    if (open_existing(options, &cache, &error) < 0) return command_failed(error);
    int result = action->run(cache, options, &error);
    cache_free(cache);
    return result < 0 ? command_failed(error) : command_finish();
}

static enum exit_code run(int argc, char **argv)
{
    static const struct option options[] = { COMMON_OPTIONS,
                                             JSON_LONG,
                                             { "cache", required_argument, NULL, OPTION_CACHE },
                                             { "keep", required_argument, NULL, OPTION_KEEP },
                                             { "all", no_argument, NULL, OPTION_ALL },
                                             { 0 } };
    struct common_options common;
    struct cache_options chosen = { 0 };
    struct error *error = NULL;
    enum exit_code code;
    int option;
    common_options_init(&common);
    while ((option = getopt_long(argc, argv, "hv", options, NULL)) != -1) {
        switch (option) {
        case OPTION_CACHE:
            chosen.directory = optarg;
            break;
        case OPTION_KEEP:
            chosen.keep_given = true;
            if (parse_size(optarg, &chosen.keep, &error) == 0) break;
            code = command_usage(&cache_command, "--keep: %s", error_message(error));
            error_free(error);
            return code;
        case OPTION_ALL:
            chosen.all = true;
            break;
        default:
            if (!command_option(&cache_command, &common, option, &code)) return code;
        }
    }
    chosen.json = common.json;
    if (!command_arguments(&cache_command, argc, 1, 1, &code)) return code;
    const struct action *action = find_action(argv[optind]);
    if (!action)
        return command_usage(&cache_command, "'%s' is none of ls, prune, verify", argv[optind]);
    if (!check_options(action, &chosen, &code)) return code;
    return run_action(action, &chosen);
}

const struct command cache_command = {
    .name = "cache",
    .arguments = "ACTION",
    .summary = "what the node's cache holds; make it smaller; look for damage",
    .help = "  ls             layers, the images that use them, mounts, sizes\n"
            "  prune          remove what no mount uses, the longest unused first\n"
            "  verify         hash all there is, remove what is damaged\n\n"
            "  --cache DIR    the cache directory (root: " NODE_CACHE_SYSTEM ",\n"
            "                 others: ~/.cache/sluice)\n"
            "  --keep SIZE    prune: until no more than this is left, like 5G\n"
            "  --all          prune: all of it\n"
            "  --json         ls: print it as JSON\n"
            "  -v, --verbose  tell more\n\n"
            "example: sluice cache prune --keep 10G\n",
    .run = run,
};
