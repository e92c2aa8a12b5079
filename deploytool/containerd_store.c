#include "deploytool/containerd_store.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "base/cleanup.h"
#include "base/file.h"

/* What ctr may write: the names of all blobs are the longest. */
#define OUTPUT_MAX    (64u << 20)
#define ARGUMENTS_MAX (IMAGE_LAYERS_MAX + 24)
#define PIECE         (128u << 10)

/* One run of ctr. */
struct run {
    const char *arguments[ARGUMENTS_MAX + 1];
    size_t count;
    pid_t child;
    int input; /* the writing end of its standard input, or -1 */
    int output, errors;
};

/* ---- running it ---- */

static void add(struct run *run, const char *argument)
{
    if (run->count < ARGUMENTS_MAX) run->arguments[run->count++] = argument;
}

static void begin(struct run *run, const struct containerd_store *store)
{
    *run = (struct run){ .child = -1, .input = -1, .output = -1, .errors = -1 };
    add(run, "ctr");
    add(run, "--connect-timeout");
    add(run, "5s");
    if (store->address) {
        add(run, "--address");
        add(run, store->address);
    }
    if (store->name_space) {
        add(run, "--namespace");
        add(run, store->name_space);
    }
}

/* In the child; does not return. */
static void execute(const struct run *run, int input)
{
    const struct rlimit output = { OUTPUT_MAX, OUTPUT_MAX };
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    setrlimit(RLIMIT_FSIZE, &output);
    dup2(input, STDIN_FILENO);
    dup2(run->output, STDOUT_FILENO);
    dup2(run->errors, STDERR_FILENO);
    execvp("ctr", (char *const *)run->arguments);
    _exit(127);
}

static int start(struct run *run, struct error **error)
{
    int ends[2];
    run->arguments[run->count] = NULL;
    run->output = memfd_create("ctr-output", MFD_CLOEXEC);
    run->errors = memfd_create("ctr-errors", MFD_CLOEXEC);
    if (run->output < 0 || run->errors < 0 || pipe2(ends, O_CLOEXEC) < 0)
        return error_set_errno(error, errno, "run ctr");
    run->child = fork();
    if (run->child == 0) execute(run, ends[0]);
    close(ends[0]);
    run->input = ends[1];
    return run->child < 0 ? error_set_errno(error, errno, "run ctr") : 0;
}

static int read_all(int descriptor, size_t limit, struct buffer *ret, struct error **error)
{
    off_t length = lseek(descriptor, 0, SEEK_END);
    if (length < 0) return error_set_errno(error, errno, "read what ctr says");
    if ((uint64_t)length > limit || length >= (off_t)OUTPUT_MAX)
        return error_set(error, ERROR_INVALID, "ctr says more than %zu bytes", limit);
    if (buffer_reserve(ret, (size_t)length) < 0) return error_set_memory(error);
    ssize_t got = read_fully_at(descriptor, ret->data + ret->length, (size_t)length, 0);
    if (got < 0) return error_set_errno(error, errno, "read what ctr says");
    ret->length += (size_t)got;
    return 0;
}

/* Its own words: the last line. */
static int set_failure(const struct run *run, struct error **error)
{
    char text[1024];
    off_t length = lseek(run->errors, 0, SEEK_END);
    off_t from = length > (off_t)sizeof text - 1 ? length - (off_t)sizeof text + 1 : 0;
    ssize_t got = read_fully_at(run->errors, text, sizeof text - 1, (uint64_t)from);
    text[got > 0 ? got : 0] = '\0';
    for (char *end = text + strlen(text); end > text && end[-1] == '\n';)
        *--end = '\0';
    const char *line = strrchr(text, '\n');
    line = line ? line + 1 : text;
    error_set(error, ERROR_SYSTEM, "%s", *line ? line : "ctr failed and does not say why");
    return error_hint(error, "does containerd run, and may you ask it?");
}

/* Ends its input and waits for its end. */
static int finish(struct run *run, struct error **error)
{
    int status;
    close(take_descriptor(&run->input));
    while (waitpid(run->child, &status, 0) < 0)
        if (errno != EINTR) return error_set_errno(error, errno, "wait for ctr");
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return 0;
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 127) return set_failure(run, error);
    error_set(error, ERROR_NOT_FOUND, "there is no ctr");
    return error_hint(error, "it comes with containerd, and has to be in PATH");
}

static void end(struct run *run)
{
    if (run->input >= 0) close(run->input);
    if (run->output >= 0) close(run->output);
    if (run->errors >= 0) close(run->errors);
}

/* Appends what it says. */
static int ask(struct run *run, size_t limit, struct buffer *ret, struct error **error)
{
    int result = start(run, error);
    if (result == 0) result = finish(run, error);
    if (result == 0) result = read_all(run->output, limit, ret, error);
    end(run);
    return result;
}

/* ---- what is asked ---- */

/* "REF TYPE DIGEST ...", below a line of titles. */
static int parse_image(char *line, const char *name, struct digest *ret, struct error **error)
{
    char *rest = NULL;
    char *found = strtok_r(line, " \t", &rest);
    if (!found || strcmp(found, name) != 0) return 0;
    strtok_r(NULL, " \t", &rest);
    const char *digest = strtok_r(NULL, " \t", &rest);
    return digest && digest_parse(ret, digest, error) == 0 ? 1 : -1;
}

int containerd_store_image(const struct containerd_store *store, const char *name,
                           struct digest *ret, struct error **error)
{
    struct run run;
    cleanup_buffer struct buffer text = { 0 };
    cleanup_free char *filter = format_text("name==%s", name);
    if (!filter) return error_set_memory(error);
    begin(&run, store);
    add(&run, "images");
    add(&run, "ls");
    add(&run, filter);
    if (ask(&run, OUTPUT_MAX, &text, error) < 0) return -1;
    if (buffer_append_u8(&text, 0) < 0) return error_set_memory(error);
    char *rest = NULL;
    for (char *line = strtok_r((char *)text.data, "\n", &rest); line;
         line = strtok_r(NULL, "\n", &rest)) {
        int found = parse_image(line, name, ret, error);
        if (found) return found > 0 ? 0 : error_prefix(error, "what ctr says of '%s'", name);
    }
    error_set(error, ERROR_NOT_FOUND, "containerd has no image '%s' in this namespace", name);
    return error_hint(error,
                      "'ctr namespaces ls' and 'ctr -n NAMESPACE images ls' show what it has; "
                      "see --namespace");
}

int containerd_store_list(const struct containerd_store *store, struct buffer *ret,
                          struct error **error)
{
    struct run run;
    begin(&run, store);
    add(&run, "content");
    add(&run, "ls");
    add(&run, "-q");
    return ask(&run, OUTPUT_MAX, ret, error);
}

int containerd_store_read(const struct containerd_store *store, const struct digest *digest,
                          size_t limit, struct buffer *ret, struct error **error)
{
    struct run run;
    struct digest is;
    char text[DIGEST_TEXT_SIZE];
    size_t before = ret->length;
    begin(&run, store);
    add(&run, "content");
    add(&run, "get");
    add(&run, digest_format(digest, text));
    if (ask(&run, limit, ret, error) < 0) return error_prefix(error, "blob %s of containerd", text);
    digest_of(ret->data + before, ret->length - before, &is);
    if (digest_equal(&is, digest)) return 0;
    return error_set(error, ERROR_INVALID, "blob %s of containerd has another digest", text);
}

/* https://github.com/containerd/containerd/blob/main/docs/garbage-collection.md */
int containerd_store_keep(const struct containerd_store *store, const struct digest *manifest,
                          const struct image_manifest *blobs, struct error **error)
{
    struct run run;
    char target[DIGEST_TEXT_SIZE], digest[DIGEST_TEXT_SIZE];
    char *labels[IMAGE_LAYERS_MAX + 1] = { 0 };
    cleanup_buffer struct buffer said = { 0 };
    int result = 0;
    begin(&run, store);
    add(&run, "content");
    add(&run, "label");
    add(&run, digest_format(manifest, target));
    for (size_t i = 0; i <= blobs->layer_count && result == 0; i++) {
        if (i == 0)
            labels[i] = format_text("containerd.io/gc.ref.content.config=%s",
                                    digest_format(&blobs->config.digest, digest));
        else
            labels[i] = format_text("containerd.io/gc.ref.content.l.%zu=%s", i - 1,
                                    digest_format(&blobs->layers[i - 1].digest, digest));
        if (!labels[i]) result = error_set_memory(error);
        add(&run, labels[i]);
    }
    if (result == 0) result = ask(&run, OUTPUT_MAX, &said, error);
    for (size_t i = 0; i <= blobs->layer_count; i++)
        free(labels[i]);
    return result;
}

/* ---- adding ---- */

/* Its input is closed early where it has the blob already, or fails: its end tells which. */
static int feed(struct run *run, containerd_store_source *source, void *context,
                struct error **error)
{
    cleanup_free uint8_t *piece = malloc(PIECE);
    if (!piece) return error_set_memory(error);
    for (;;) {
        ssize_t got = source(context, piece, PIECE, error);
        if (got <= 0) return (int)got;
        if (write_fully(run->input, piece, (size_t)got) == 0) continue;
        return errno == EPIPE ? 0 : error_set_errno(error, errno, "write to ctr");
    }
}

int containerd_store_add(const struct containerd_store *store, const struct descriptor *blob,
                         containerd_store_source *source, void *context, struct error **error)
{
    struct run run;
    char digest[DIGEST_TEXT_SIZE], size[24];
    cleanup_free char *key =
        format_text("sluice-%d-%s", (int)getpid(), digest_format(&blob->digest, digest));
    if (!key) return error_set_memory(error);
    snprintf(size, sizeof size, "%" PRIu64, blob->size);
    begin(&run, store);
    add(&run, "content");
    add(&run, "ingest");
    add(&run, "--expected-digest");
    add(&run, digest);
    add(&run, "--expected-size");
    add(&run, size);
    add(&run, key);
    int result = start(&run, error);
    if (result == 0) {
        result = feed(&run, source, context, error);
        /* Without all of its bytes ctr fails, and what has stopped them is the reason. */
        if (finish(&run, result == 0 ? error : NULL) < 0) result = -1;
    }
    end(&run);
    return result;
}
