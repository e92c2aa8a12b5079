/*
 * Fed: the status and the body of an answer that is no success.
 *
 * Holds: there is one line for people, of bounded length, and it never repeats
 * what was sent as a secret, though the server may.
 */
#include "fetcher/answer_error-internal.h"
#include "fetcher/login-internal.h"
#include "tests/fuzz/fuzz.h"

#define PASSWORD "hunter2hunter2"
#define TOKEN    "eyJhbGciOi"

static void check(struct request *request)
{
    struct error *error = NULL;
    EXPECT(answer_error(request, &error) < 0);
    expect_error(error);
    EXPECT(strlen(error_message(error)) < 2000);
    EXPECT(!strstr(error_message(error), PASSWORD));
    EXPECT(!request->authorization || !strstr(error_message(error), TOKEN));
    error_free(error);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length)
{
    char authorization[] = "Bearer " TOKEN, registry[] = "registry.example.com";
    char url[] = "https://registry.example.com/v2/a", api[] = "https://registry.example.com/v2";
    char other[] = "https://store.example.com/x?signature=1", user[] = "user";
    char password[] = PASSWORD, repository[] = "a";
    uint8_t shape = (uint8_t)take_number(&data, &length, 1);
    struct registry_host host = { .name = registry, .api = api };
    struct login login = { .repository = repository };
    login.credentials = (struct credentials){ .user = user, .password = password };
    TAILQ_INIT(&host.logins);
    TAILQ_INSERT_TAIL(&host.logins, &login, link);
    struct request request = { .registry = registry, .url = url, .host = &host };
    request.repository = repository;
    request.authorization = shape & 1 ? authorization : NULL;
    request.current_url = shape & 2 ? other : url;
    static const long statuses[] = { 400, 401, 403, 404, 405, 416, 429, 500, 501, 503, 304, 100 };
    request.exchange.answer.status = statuses[(shape >> 2) % (sizeof statuses / sizeof *statuses)];
    EXPECT(buffer_append(&request.refusal, data, length) == 0);
    check(&request);
    (void)status_is_transient(request.exchange.answer.status);
    buffer_free(&request.refusal);
    return 0;
}
