/*
 * A node's images, driven by lines: node_driver CACHE [SOCKET HOLDER]. A line is a word by which
 * its answer is known, a command, and its arguments; each is carried out on a thread of its own. An
 * answer is a line with that word and a JSON object.
 *
 *   TAG open ID REFERENCE DIRECTORY LAYERS FRONT FILL MILLISECONDS
 *   TAG look REFERENCE
 *   TAG close ID
 *   TAG give-back REFERENCE     what the cache keeps for the image
 *   TAG status
 *
 * Its servers have the faults that are asked for by files in the directory CACHE/faults, each of
 * which goes with the fault that it was good for: "crash-NAME-1" crashes the server that is to load
 * an image of the repository NAME, "fail-NAME-1" has that fail. SIGUSR1 has the thread that takes
 * commands loop without end, SIGUSR2 has it wait without end. NODE_DRIVER_WATCHDOG is the
 * watchdog's time in milliseconds.
 */
#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/log.h"
#include "node/node_client.h"
#include "node/node_server.h"

#define WORDS  9
#define FAULTS "NODE_DRIVER_FAULTS"

static struct node_client *client;

struct line {
    char *text;
    char *words[WORDS];
};

static void say(const char *tag, json_t *answer)
{
    char *text = json_dumps(answer, JSON_COMPACT);
    flockfile(stdout);
    printf("%s %s\n", tag, text);
    fflush(stdout);
    funlockfile(stdout);
    free(text);
    json_decref(answer);
}

static json_t *failure(struct error *error)
{
    json_t *answer =
        json_pack("{s:s, s:i}", "error", error_message(error), "kind", (int)error_kind_of(error));
    error_free(error);
    return answer;
}

static json_t *describe(struct node_image_answer *answer)
{
    char blob[DIGEST_TEXT_SIZE], stream[DIGEST_TEXT_SIZE];
    json_t *layers = json_array();
    for (size_t i = 0; i < answer->layer_count; i++)
        json_array_append_new(
            layers, json_pack("{s:s, s:s}", "blob", digest_format(&answer->layers[i].blob, blob),
                              "stream", digest_format(&answer->layers[i].stream, stream)));
    json_t *root = json_pack(
        "{s:s, s:s, s:s, s:s, s:I, s:o}", "manifest", digest_format(&answer->manifest, blob),
        "index", digest_format(&answer->index, stream), "trust", index_trust_name(answer->trust),
        "front", answer->front, "entries", (json_int_t)answer->entries, "layers", layers);
    node_image_answer_free(answer);
    return root;
}

static json_t *ask(const struct node_image_request *request, unsigned timeout_ms)
{
    struct error *error = NULL;
    struct node_image_answer answer;
    if (node_client_open(client, request, timeout_ms, &answer, &error) < 0) return failure(error);
    return describe(&answer);
}

static json_t *open_image(char **words)
{
    struct node_image_request request = {
        .id = strtoull(words[2], NULL, 10),
        .image = { .reference = words[3],
                   .mountpoint = words[4],
                   .layers = (uint32_t)strtoul(words[5], NULL, 10) },
    };
    if (front_parse(&request.image.front, words[6], NULL) < 0 ||
        fill_mode_parse(&request.image.fill, words[7], NULL) < 0)
        abort();
    return ask(&request, (unsigned)strtoul(words[8], NULL, 10));
}

static json_t *look(char **words)
{
    const struct node_image_request request = { .image = { .reference = words[2] } };
    return ask(&request, 60000);
}

static json_t *give_back(char **words)
{
    const struct node_image_request request = { .image = { .reference = words[2] } };
    struct error *error = NULL;
    struct node_image_answer answer;
    if (node_client_open(client, &request, 60000, &answer, &error) < 0) return failure(error);
    node_client_give_back(client, answer.cache_keys, answer.cache_key_count);
    node_image_answer_free(&answer);
    return json_object();
}

static json_t *status(void)
{
    struct error *error = NULL;
    cleanup_buffer struct buffer text = { 0 };
    if (node_client_status(client, &text, &error) < 0) return failure(error);
    return json_loadb((const char *)text.data, text.length, 0, NULL);
}

static json_t *carry_out(char **words)
{
    if (strcmp(words[1], "open") == 0) return open_image(words);
    if (strcmp(words[1], "look") == 0) return look(words);
    if (strcmp(words[1], "give-back") == 0) return give_back(words);
    if (strcmp(words[1], "status") == 0) return status();
    if (strcmp(words[1], "close") != 0) abort();
    node_client_close(client, strtoull(words[2], NULL, 10));
    return json_object();
}

static void *run(void *argument)
{
    struct line *line = argument;
    say(line->words[0], carry_out(line->words));
    free(line->text);
    free(line);
    return NULL;
}

static void start(const char *text)
{
    pthread_t thread;
    struct line *line = calloc(1, sizeof *line);
    if (!line || !(line->text = strdup(text))) abort();
    char *rest = line->text;
    for (size_t i = 0; i < WORDS; i++) {
        const char *word = strsep(&rest, " \n");
        line->words[i] = word ? (char *)word : (char *)"";
    }
    if (pthread_create(&thread, NULL, run, line) != 0) abort();
    pthread_detach(thread);
}

/* ---- faults; in the server ---- */

int __real_mounted_image_new(struct mounted_image **ret, struct node *node,
                             const struct mounted_image_options *options, struct error **error);
int __wrap_mounted_image_new(struct mounted_image **ret, struct node *node,
                             const struct mounted_image_options *options, struct error **error);

/* Whether one of the kind is asked for; then it is no more. */
static bool take_fault(const char *kind, const char *reference)
{
    const char *directory = getenv(FAULTS), *slash = strrchr(reference, '/');
    const char *name = slash ? slash + 1 : reference;
    cleanup_free char *start = format_text("%s-%.*s-", kind, (int)strcspn(name, ":@"), name);
    DIR *entries = directory ? opendir(directory) : NULL;
    const struct dirent *entry;
    bool found = false;
    while (entries && !found && (entry = readdir(entries)))
        found = strncmp(entry->d_name, start, strlen(start)) == 0 &&
                unlinkat(dirfd(entries), entry->d_name, 0) == 0;
    if (entries) closedir(entries);
    return found;
}

int __wrap_mounted_image_new(struct mounted_image **ret, struct node *node,
                             const struct mounted_image_options *options, struct error **error)
{
    if (take_fault("crash", options->reference)) abort();
    if (take_fault("fail", options->reference))
        return error_set(error, ERROR_UNREACHABLE, "the test wants it to fail");
    return __real_mounted_image_new(ret, node, options, error);
}

static void hang(int number)
{
    for (;;)
        if (number == SIGUSR2) pause();
}

/* ---- start ---- */

int main(int argc, char **argv)
{
    struct error *error = NULL;
    char text[8192];
    signal(SIGPIPE, SIG_IGN);
    if (argc > 0 && strcmp(argv[0], NODE_SERVER_NAME) == 0) {
        signal(SIGUSR1, hang);
        signal(SIGUSR2, hang);
        return node_server_main(argc, argv);
    }
    if (argc < 2) return 2;
    cleanup_free char *faults = format_text("%s/faults", argv[1]);
    setenv(FAULTS, faults, 1);
    const char *watchdog = getenv("NODE_DRIVER_WATCHDOG");
    const struct node_client_options options = {
        .node = { .cache = argv[1], .read_timeout_seconds = 20 },
        .watchdog_ms = watchdog ? (unsigned)strtoul(watchdog, NULL, 10) : 0,
        .holder = argv[2],
        .holder_program = argc > 3 ? argv[3] : NULL
    };
    if (node_client_start(&client, &options, &error) < 0) {
        say("start", failure(error));
        return 1;
    }
    say("start", json_object());
    while (fgets(text, sizeof text, stdin))
        start(text);
    node_client_stop(client);
    return 0;
}
