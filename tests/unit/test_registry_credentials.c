/* A client that asks somebody else what it may show to a registry. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "fetcher/credentials.h"
#include "registry_requests.h"

static const struct credentials user = { .user = (char *)"user", .password = (char *)"pass:word" };
static const struct credentials wrong = { .user = (char *)"wrong", .password = (char *)"pass" };
static const struct credentials token = { .registry_token = (char *)"given" };
static const struct credentials stale = { .registry_token = (char *)"stale" };

/* What is answered: the second of a repository's where the first was refused. */
static struct answers {
    const char *repository;
    const struct credentials *first, *second;
} answers[2];
static unsigned questions;

static const struct credentials *choose(const struct credentials_question *question)
{
    static const struct credentials none;
    for (size_t i = 0; i < 2; i++) {
        struct digest first;
        if (!answers[i].repository || strcmp(answers[i].repository, question->repository) != 0)
            continue;
        assert_int_equal(credentials_fingerprint(answers[i].first, &first), 0);
        bool refused = question->refused && digest_equal(question->refused, &first);
        return refused && answers[i].second ? answers[i].second : answers[i].first;
    }
    return &none;
}

static int answer(void *context, const struct credentials_question *question, int cancel_descriptor,
                  struct buffer *ret, struct error **error)
{
    assert_ptr_equal(context, answers);
    assert_true(cancel_descriptor >= 0);
    assert_string_equal(question->registry, registry);
    questions++;
    return credentials_write(choose(question), ret, error);
}

static int client_that_asks(void **state)
{
    (void)state;
    struct registry_options options = {
        .attempts = 3, .stall_seconds = 3, .credentials = answer, .credentials_context = answers
    };
    registry_client_free(client);
    memset(answers, 0, sizeof answers);
    questions = 0;
    client = registry_client_new(&options, NULL);
    return client ? 0 : -1;
}

static void test_each_repository_has_its_own(void **state)
{
    (void)state;
    answers[0] = (struct answers){ "basic/a", &user, NULL };
    answers[1] = (struct answers){ "basic/b", &wrong, NULL };
    assert_int_equal(get_manifest("basic/a", "tag", NULL), 0);
    assert_manifest_fails("basic/b", "tag", ERROR_DENIED, "credentials of 'wrong'");
    assert_manifest_fails("basic/c", "tag", ERROR_DENIED, "there are no credentials for");
    questions = 0;
    assert_int_equal(get_manifest("basic/a", "tag", NULL), 0);
    assert_int_equal(questions, 0);
}

/* Who is asked may know several, or hold what has ended: one request is enough to find out. */
static void test_others_where_the_first_are_refused(void **state)
{
    (void)state;
    answers[0] = (struct answers){ "basic/a", &wrong, &user };
    answers[1] = (struct answers){ "token-user/a", &wrong, &user };
    assert_int_equal(get_manifest("basic/a", "tag", NULL), 0);
    assert_int_equal(questions, 2);
    assert_int_equal(get_manifest("token-user/a", "tag", NULL), 0);
    assert_int_equal(questions, 4);
}

static void test_credentials_that_change(void **state)
{
    (void)state;
    answers[0] = (struct answers){ "basic/a", &wrong, NULL };
    for (unsigned i = 0; i < 3; i++)
        assert_manifest_fails("basic/a", "tag", ERROR_DENIED, "credentials of 'wrong'");
    answers[0].first = &user;
    assert_int_equal(get_manifest("basic/a", "tag", NULL), 0);
}

static void test_registry_token(void **state)
{
    (void)state;
    answers[0] = (struct answers){ "token-given/a", &stale, &token };
    assert_int_equal(get_manifest("token-given/a", "tag", NULL), 0);
    assert_int_equal(logged("token GET", "token-given"), 0);
    answers[1] = (struct answers){ "token-given/b", &stale, NULL };
    for (unsigned i = 0; i < 3; i++)
        assert_manifest_fails("token-given/b", "tag", ERROR_DENIED, "stored registry token");
    answers[1].first = &token;
    assert_int_equal(get_manifest("token-given/b", "tag", NULL), 0);
}

/* More repositories than a client keeps the credentials of. */
static void test_many_repositories(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 300; i++) {
        char name[32];
        snprintf(name, sizeof name, "basic/many%u", i);
        answers[0] = (struct answers){ name, &user, NULL };
        assert_int_equal(get_manifest(name, "tag", NULL), 0);
    }
}

static void test_questions_as_text(void **state)
{
    (void)state;
    struct credentials_asked asked;
    struct digest refused;
    digest_of("x", 1, &refused);
    struct credentials_question question = { "docker.io", "library/python", &refused };
    char *text = credentials_question_format(&question);
    assert_int_equal(credentials_question_parse(&asked, text, NULL), 0);
    assert_string_equal(asked.question.registry, "docker.io");
    assert_string_equal(asked.question.repository, "library/python");
    assert_true(digest_equal(asked.question.refused, &refused));
    credentials_asked_free(&asked);
    free(text);
    assert_int_equal(credentials_question_parse(&asked, "host:5000 a/b ", NULL), 0);
    assert_null(asked.question.refused);
    credentials_asked_free(&asked);
    static const char *const wrong_texts[] = { "",        "host",      "host ",
                                               "../x a",  "host ../a", "host a sha256:1",
                                               "host a b" };
    for (size_t i = 0; i < sizeof wrong_texts / sizeof *wrong_texts; i++)
        assert_int_equal(credentials_question_parse(&asked, wrong_texts[i], NULL), -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_each_repository_has_its_own, client_that_asks),
        cmocka_unit_test_setup(test_others_where_the_first_are_refused, client_that_asks),
        cmocka_unit_test_setup(test_credentials_that_change, client_that_asks),
        cmocka_unit_test_setup(test_registry_token, client_that_asks),
        cmocka_unit_test_setup(test_many_repositories, client_that_asks),
        cmocka_unit_test(test_questions_as_text),
    };
    return cmocka_run_group_tests(tests, registry_requests_set_up, registry_requests_tear_down);
}
