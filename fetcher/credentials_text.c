/*
 * Credentials on their way between two processes. The question is a line: registry, repository and
 * the fingerprint of what was refused, with blanks between. The answer is each field as its length
 * and its bytes, in one order; a field that is not there has a length of its own.
 */
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "fetcher/credentials-internal.h"
#include "fetcher/reference-internal.h"

#define ABSENT UINT32_MAX

/* ---- the question ---- */

char *credentials_question_format(const struct credentials_question *question)
{
    char refused[DIGEST_TEXT_SIZE] = "";
    if (question->refused) digest_format(question->refused, refused);
    return format_text("%s %s %s", question->registry, question->repository, refused);
}

static int take_refused(struct credentials_asked *ret, const char *text, struct error **error)
{
    if (!*text) return 0;
    if (digest_parse(&ret->refused, text, error) < 0) return -1;
    ret->question.refused = &ret->refused;
    return 0;
}

static int take_question(struct credentials_asked *ret, struct error **error)
{
    char *rest = ret->text;
    const char *registry = strsep(&rest, " "), *repository = strsep(&rest, " ");
    ret->question = (struct credentials_question){ .registry = registry, .repository = repository };
    if (!registry_name_is_valid(registry))
        return error_set(error, ERROR_INVALID, "'%.100s' is not the name of a registry", registry);
    if (!repository || !repository_name_is_valid(repository))
        return error_set(error, ERROR_INVALID, "'%.100s' is not the name of a repository",
                         repository ? repository : "");
    return rest ? take_refused(ret, rest, error) : 0;
}

int credentials_question_parse(struct credentials_asked *ret, const char *text,
                               struct error **error)
{
    *ret = (struct credentials_asked){ .text = strdup(text) };
    if (!ret->text) return error_set_memory(error);
    if (take_question(ret, error) == 0) return 0;
    credentials_asked_free(ret);
    return -1;
}

void credentials_asked_free(struct credentials_asked *asked)
{
    free(asked->text);
    asked->text = NULL;
}

/* ---- the answer ---- */

static int put(struct buffer *ret, const char *field)
{
    size_t length = field ? strlen(field) : 0;
    if (!field) return buffer_append_le32(ret, ABSENT);
    if (length >= ABSENT || buffer_append_le32(ret, (uint32_t)length) < 0) return -1;
    return buffer_append(ret, field, length);
}

int credentials_write(const struct credentials *credentials, struct buffer *ret,
                      struct error **error)
{
    int failed = put(ret, credentials->user) | put(ret, credentials->password) |
                 put(ret, credentials->identity_token) | put(ret, credentials->registry_token) |
                 put(ret, credentials->problem);
    return failed ? error_set_memory(error) : 0;
}

/* A string in fresh memory, or NULL where there is none; a failed cursor tells of damage. */
static char *take(struct cursor *text)
{
    uint32_t length = cursor_le32(text);
    if (text->failed || length == ABSENT) return NULL;
    const uint8_t *bytes = cursor_bytes(text, length);
    if (!bytes) return NULL;
    char *field = memchr(bytes, 0, length) ? NULL : strndup((const char *)bytes, length);
    if (!field) text->failed = 1;
    return field;
}

int credentials_read(const struct buffer *text, struct credentials *ret, struct error **error)
{
    struct cursor cursor = cursor_of(text->data, text->length);
    ret->user = take(&cursor);
    ret->password = take(&cursor);
    ret->identity_token = take(&cursor);
    ret->registry_token = take(&cursor);
    ret->problem = take(&cursor);
    bool whole = !cursor.failed && cursor_left(&cursor) == 0;
    if (whole && (!ret->registry_token || registry_token_is_valid(ret->registry_token))) return 0;
    credentials_free(ret);
    return error_set(error, ERROR_INVALID, "what was found cannot be read");
}

int credentials_fingerprint(const struct credentials *credentials, struct digest *ret)
{
    struct credentials shown = *credentials;
    cleanup_secret struct buffer text = { 0 };
    shown.problem = NULL;
    if (credentials_write(&shown, &text, NULL) < 0) return -1;
    digest_of(text.data, text.length, ret);
    return 0;
}

void credentials_ask(registry_credentials *ask, void *context,
                     const struct credentials_question *question, int cancel_descriptor,
                     struct credentials *ret)
{
    cleanup_error struct error *error = NULL;
    cleanup_secret struct buffer text = { 0 };
    *ret = (struct credentials){ 0 };
    if (ask(context, question, cancel_descriptor, &text, &error) < 0 ||
        credentials_read(&text, ret, &error) < 0)
        ret->problem = strdup(error_message(error));
}
