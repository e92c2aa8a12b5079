#include "base/thread.h"

#include <signal.h>

int thread_start(pthread_t *ret, const char *name, void *(*function)(void *), void *argument,
                 struct error **error)
{
    sigset_t all, before;
    sigfillset(&all);
    sigdelset(&all, SIGBUS); /* base/mapping.h */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int number = pthread_create(ret, NULL, function, argument);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (number != 0) return error_set_errno(error, number, "start thread '%s'", name);
    pthread_setname_np(*ret, name);
    return 0;
}
