/*
 * Fed: what a credential provider writes.
 *
 * Holds: there are user and password for an image that a pattern of it matches, or none, or there
 * is a reason, which is one of a few and quotes nothing.
 */
#include "credentials/kept_secret.h"
#include "credentials/provider-internal.h"
#include "tests/fuzz/fuzz.h"

#define IMAGE "registry.example.com:5000/team/app"

static void expect_known_reason(struct error *error)
{
    static const char *const reasons[] = {
        "its answer is no JSON object",
        "its answer is no CredentialProviderResponse of credentialprovider.kubelet.k8s.io/v1",
        "its answer has no list of credentials",
        "its answer holds no user and password",
        "the \"cacheKeyType\" of its answer is not Image, Registry or Global",
        "the \"cacheDuration\" of its answer is none",
        "what was found cannot be read",
    };
    bool known = false;
    expect_error(error);
    for (size_t i = 0; i < sizeof reasons / sizeof *reasons; i++)
        known |= strcmp(error_message(error), reasons[i]) == 0;
    EXPECT(known);
    error_free(error);
}

static void check(const struct provider_answer *answer)
{
    EXPECT(answer->until >= answer->obtained && answer->obtained == 7);
    EXPECT(provider_answer_is_of(answer, IMAGE));
    const struct kept_secret *secret = provider_answer_find(answer, IMAGE, NULL);
    if (!secret) return;
    struct credentials found;
    EXPECT(kept_secret_read(secret, &found, NULL) == 0);
    EXPECT(credentials_are_known(&found) && found.user && found.password);
    credentials_free(&found);
    /* There is nothing else, or it is given instead. */
    const struct kept_secret *other =
        provider_answer_find(answer, IMAGE, kept_secret_fingerprint(secret));
    EXPECT(other);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length)
{
    char api[] = "credentialprovider.kubelet.k8s.io/v1";
    struct provider_settings settings = { .api = api, .cache_ms = 1000 };
    struct error *error = NULL;
    struct buffer text = { 0 };
    EXPECT(buffer_append(&text, data, length) == 0);
    struct provider_answer *answer = provider_answer_parse(&settings, IMAGE, &text, 7, &error);
    if (answer)
        check(answer);
    else
        expect_known_reason(error);
    provider_answer_free(answer);
    buffer_free(&text);
    return 0;
}
