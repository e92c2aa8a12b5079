#include "node/credential_searches.h"

#include <stdlib.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/thread.h"
#include "node/question.h"

#define SEARCHES_MAX 16u
#define END_MS       5000

struct search {
    struct credential_searches *searches;
    int to;
    struct credentials_asked asked;
};

/* registry_credentials */
static int find_stored(void *context, const struct credentials_question *question,
                       int cancel_descriptor, struct buffer *ret, struct error **error)
{
    (void)context;
    struct credentials found;
    credentials_search(question->registry, cancel_descriptor, &found);
    int result = credentials_write(&found, ret, error);
    credentials_free(&found);
    return result;
}

void credential_searches_init(struct credential_searches *searches, registry_credentials *find,
                              void *context)
{
    *searches =
        (struct credential_searches){ .find = find ? find : find_stored, .context = context };
    pthread_mutex_init(&searches->lock, NULL);
    clock_condition_init(&searches->changed);
}

static bool take_place(struct credential_searches *searches)
{
    pthread_mutex_lock(&searches->lock);
    bool room = searches->under_way < SEARCHES_MAX;
    searches->under_way += room;
    pthread_mutex_unlock(&searches->lock);
    return room;
}

static void leave_place(struct credential_searches *searches)
{
    pthread_mutex_lock(&searches->lock);
    searches->under_way--;
    pthread_cond_signal(&searches->changed);
    pthread_mutex_unlock(&searches->lock);
}

static void *run(void *argument)
{
    struct search *search = argument;
    struct credential_searches *searches = search->searches;
    cleanup_error struct error *error = NULL;
    cleanup_secret struct buffer text = { 0 };
    int result =
        searches->find(searches->context, &search->asked.question, search->to, &text, &error);
    question_answer(search->to, error, result < 0 ? NULL : &text, -1);
    credentials_asked_free(&search->asked);
    close(search->to);
    free(search);
    leave_place(searches);
    return NULL;
}

/* Takes `to` over, unless it fails. */
static int start(struct credential_searches *searches, const char *question, int to,
                 struct error **error)
{
    struct search *search = calloc(1, sizeof *search);
    if (!search) return error_set_memory(error);
    search->searches = searches;
    search->to = to;
    pthread_t thread;
    if (credentials_question_parse(&search->asked, question, error) < 0 ||
        thread_start(&thread, "search", run, search, error) < 0) {
        credentials_asked_free(&search->asked);
        free(search);
        return -1;
    }
    pthread_detach(thread);
    return 0;
}

void credential_searches_begin(struct credential_searches *searches, const char *question, int *to)
{
    cleanup_error struct error *error = NULL;
    if (!take_place(searches)) {
        error_set(&error, ERROR_SYSTEM, "too many searches for credentials at once");
    } else if (start(searches, question, *to, &error) < 0) {
        leave_place(searches);
    } else {
        take_descriptor(to);
        return;
    }
    question_answer(*to, error, NULL, -1);
}

bool credential_searches_end(struct credential_searches *searches)
{
    uint64_t until = clock_ms() + END_MS;
    bool in_time = true;
    pthread_mutex_lock(&searches->lock);
    while (searches->under_way > 0 && in_time)
        in_time = clock_wait(&searches->changed, &searches->lock, until);
    pthread_mutex_unlock(&searches->lock);
    return in_time;
}
