/*
 * Fed: the value of a WWW-Authenticate header.
 *
 * Holds: a challenge is found or not; what is found is made of what was sent,
 * and the case of the scheme does not matter.
 */
#include "fetcher/challenge-internal.h"
#include "tests/fuzz/fuzz.h"

static bool same_text(const char *left, const char *right)
{
    return left && right ? strcmp(left, right) == 0 : left == right;
}

static void check_scheme(const char *value, const char *scheme, const char *spelled)
{
    struct challenge challenge = { 0 }, other = { 0 };
    bool found = challenge_find(value, scheme, &challenge);
    EXPECT(found == challenge_find(value, spelled, &other));
    if (!found) return;
    size_t length = strlen(value);
    EXPECT(length <= CHALLENGE_LIMIT);
    const char *const texts[] = { challenge.realm, challenge.service, challenge.scope };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        EXPECT(!texts[i] || strlen(texts[i]) <= length);
    EXPECT(same_text(challenge.realm, other.realm) && same_text(challenge.service, other.service) &&
           same_text(challenge.scope, other.scope));
    challenge_free(&challenge);
    challenge_free(&other);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length)
{
    char *value = text_of_bytes(data, length);
    check_scheme(value, "Bearer", "bEARER");
    check_scheme(value, "Basic", "basic");
    free(value);
    return 0;
}
