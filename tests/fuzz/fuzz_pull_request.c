/*
 * Fed: a PullImage request.
 *
 * Holds: it has an image and credentials that can be kept, or none, or there is a reason, which
 * quotes nothing of it.
 */
#include "credentials/pull_request.h"
#include "tests/fuzz/fuzz.h"

static void check(struct pull_request *pull)
{
    struct buffer text = { 0 };
    struct credentials again;
    EXPECT(pull->image && credentials_are_known(&pull->credentials));
    EXPECT(credentials_write(&pull->credentials, &text, NULL) == 0);
    EXPECT(credentials_read(&text, &again, NULL) == 0);
    EXPECT(credentials_are_known(&again));
    credentials_free(&again);
    secret_buffer_free(&text);
    pull_request_free(pull);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length)
{
    struct buffer message = { 0 };
    struct pull_request pull;
    struct error *error = NULL;
    EXPECT(buffer_append(&message, data, length) == 0);
    int result = pull_request_read(&pull, &message, &error);
    if (result > 0) check(&pull);
    if (result < 0) expect_error(error);
    EXPECT(result < 0 || !error);
    error_free(error);
    buffer_free(&message);
    return 0;
}
