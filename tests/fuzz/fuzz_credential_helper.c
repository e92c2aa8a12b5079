/*
 * Fed: what a credential helper writes.
 *
 * Holds: it is a token, or user and password, or says that there is none, or
 * there is a reason, which quotes nothing of it.
 */
#include "fetcher/credential_helper.c" // NOLINT(bugprone-suspicious-include): its static parts
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length)
{
    struct buffer output = { 0 };
    struct credentials credentials = { 0 };
    struct error *error = NULL;
    EXPECT(buffer_append(&output, data, length) == 0);
    int result = parse_answer(&output, &credentials, &error);
    EXPECT((result > 0) == credentials_are_known(&credentials));
    if (result < 0) {
        expect_error(error);
        EXPECT(strcmp(error_message(error), "its answer is not what a helper answers") == 0);
    }
    credentials_free(&credentials);
    error_free(error);
    buffer_free(&output);
    return 0;
}
