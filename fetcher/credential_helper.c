#include "fetcher/credential_helper-internal.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/program.h"

#define OUTPUT_LIMIT (64u << 10)

/* The name comes from a file and becomes a program name. */
static bool name_is_plain(const char *name)
{
    static const char allowed[] = "abcdefghijklmnopqrstuvwxyz"
                                  "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
    size_t length = strnlen(name, 100);
    return length > 0 && length < 100 && strspn(name, allowed) == length;
}

static int parse_answer(const struct buffer *output, struct credentials *ret, struct error **error)
{
    json_t *root = json_loadb((const char *)output->data, output->length, 0, NULL);
    const char *user = json_string_value(json_object_get(root, "Username"));
    const char *secret = json_string_value(json_object_get(root, "Secret"));
    int result = 1;
    if (!user || !secret) {
        result = error_set(error, ERROR_INVALID, "its answer is not what a helper answers");
    } else if (!*secret) {
        result = 0;
    } else if (strcmp(user, "<token>") == 0) {
        ret->identity_token = strdup(secret);
        if (!ret->identity_token) result = error_set_memory(error);
    } else {
        ret->user = strdup(user);
        ret->password = strdup(secret);
        if (!ret->user || !ret->password) result = error_set_memory(error);
    }
    json_decref(root);
    return result;
}

/* By what it wrote and how it ended: not all kernels can tell the latter. */
static int take_answer(const struct buffer *output, int status, struct credentials *ret,
                       struct error **error)
{
    if (status == 0 || (status == -1 && output->length > 0 && output->data[0] == '{'))
        return parse_answer(output, ret, error);
    /* The helpers' common text is "credentials not found in native keychain". */
    if (output->length > 0 && memmem(output->data, output->length, "not found", 9)) return 0;
    return error_set(error, ERROR_DENIED, "it failed");
}

int credential_helper_get(const char *name, const char *server, int cancel_descriptor,
                          unsigned timeout_ms, struct credentials *ret, struct error **error)
{
    *ret = (struct credentials){ 0 };
    if (!name_is_plain(name))
        return error_set(error, ERROR_INVALID, "'%.100s' is not the name of a credential helper",
                         name);
    cleanup_free char *program = format_text("docker-credential-%s", name);
    if (!program) return error_set_memory(error);
    char *arguments[] = { program, (char *)"get", NULL };
    struct program helper = { .name = program,
                              .arguments = arguments,
                              .input = server,
                              .output_limit = OUTPUT_LIMIT,
                              .timeout_ms = timeout_ms,
                              .cancel_descriptor = cancel_descriptor };
    cleanup_secret struct buffer output = { 0 };
    int status, result = program_run(&helper, &output, &status, error);
    if (result == 0) result = take_answer(&output, status, ret, error);
    if (result <= 0) credentials_free(ret);
    if (result < 0) error_prefix(error, "'%s'", program);
    return result;
}
