/*
 * Fed: the body of a token server's answer.
 *
 * Holds: it is a token, which can stand in a header and lasts for a bounded
 * time, or there is a reason, which quotes nothing of it.
 */
#define token_arrived fuzz_token_arrived
#include "fetcher/token.c" // NOLINT(bugprone-suspicious-include): it is about its static parts
#include "tests/fuzz/fuzz.h"

void token_arrived(struct token *token, char *value, uint64_t asked, uint64_t lifetime)
{
    EXPECT(token && asked == 7 && lifetime <= LONGEST_LIFETIME * 1000);
    EXPECT(registry_token_is_valid(value));
    free(value);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length)
{
    struct token token = { 0 };
    struct token_request asking = { .token = &token, .asked = 7 };
    struct error *error = NULL;
    EXPECT(buffer_append(&asking.answer, data, length) == 0);
    if (deliver(&asking, &error) < 0) {
        expect_error(error);
        EXPECT(strcmp(error_message(error), "the answer holds no token") == 0);
    }
    error_free(error);
    secret_buffer_free(&asking.answer);
    return 0;
}
