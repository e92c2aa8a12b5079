/* When a process that does not answer counts as one that hangs. */
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "node/heartbeat-internal.h"

#define LIMIT_MS 10000u
#define BEAT_MS  1000u

/* Beats until it is lost, each `passed` after the one before; 0: not within `most`. */
static unsigned beats_until_lost(struct heartbeat *heartbeat, uint64_t *now, uint64_t passed,
                                 bool starved, unsigned most)
{
    for (unsigned beat = 1; beat <= most; beat++) {
        *now += passed;
        if (heartbeat_lost(heartbeat, *now, false, starved)) return beat;
    }
    return 0;
}

static void silence_is_lost_after_the_limit(void **state)
{
    (void)state;
    struct heartbeat heartbeat;
    uint64_t now = 5000;
    heartbeat_begin(&heartbeat, LIMIT_MS, now);
    assert_int_equal(heartbeat.beat_ms, BEAT_MS);
    assert_int_equal(beats_until_lost(&heartbeat, &now, BEAT_MS, false, 20), 10);
}

static void an_answer_is_the_beginning(void **state)
{
    (void)state;
    struct heartbeat heartbeat;
    uint64_t now = 5000;
    heartbeat_begin(&heartbeat, LIMIT_MS, now);
    for (unsigned i = 0; i < 5; i++) {
        assert_int_equal(beats_until_lost(&heartbeat, &now, BEAT_MS, false, 9), 0);
        now += BEAT_MS;
        assert_false(heartbeat_lost(&heartbeat, now, true, false));
    }
    assert_int_equal(beats_until_lost(&heartbeat, &now, BEAT_MS, false, 20), 10);
}

/* Who asks was stopped, or came late because the machine is busy. */
static void late_beats_do_not_count(void **state)
{
    (void)state;
    struct heartbeat heartbeat;
    uint64_t now = 5000;
    heartbeat_begin(&heartbeat, LIMIT_MS, now);
    assert_int_equal(beats_until_lost(&heartbeat, &now, 2 * BEAT_MS, false, 1000), 0);
    assert_int_equal(beats_until_lost(&heartbeat, &now, 3600000, false, 3), 0);
    assert_int_equal(beats_until_lost(&heartbeat, &now, BEAT_MS, false, 20), 10);
}

static void who_is_starved_is_not_lost(void **state)
{
    (void)state;
    struct heartbeat heartbeat;
    uint64_t now = 5000;
    heartbeat_begin(&heartbeat, LIMIT_MS, now);
    assert_int_equal(beats_until_lost(&heartbeat, &now, BEAT_MS, true, 1000), 0);
    assert_int_equal(beats_until_lost(&heartbeat, &now, BEAT_MS, false, 20), 10);
}

static void short_limits_have_short_beats(void **state)
{
    (void)state;
    struct heartbeat heartbeat;
    for (uint64_t limit = 1; limit < 20000; limit = limit * 3 + 1) {
        heartbeat_begin(&heartbeat, limit, 0);
        assert_in_range(heartbeat.beat_ms, 1, limit < BEAT_MS ? limit : BEAT_MS);
    }
}

/* ---- the processor ---- */

#define HOGS 4u

static void use_first_processor(void)
{
    cpu_set_t first;
    CPU_ZERO(&first);
    CPU_SET(0, &first);
    sched_setaffinity(0, sizeof first, &first);
}

/* A process that runs for ever. `important`: or it is given what the others leave. */
static pid_t start_running(bool important)
{
    pid_t process = fork();
    assert_true(process >= 0);
    if (process > 0) return process;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    use_first_processor();
    if (important)
        setpriority(PRIO_PROCESS, 0, -20);
    else
        sched_setscheduler(0, SCHED_IDLE, &(struct sched_param){ 0 });
    for (;;) {
    }
}

/* A process that has nothing to do; it has come to rest when this returns. */
static pid_t start_resting(void)
{
    int status;
    pid_t process = fork();
    assert_true(process >= 0);
    if (process == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        for (;;)
            raise(SIGSTOP);
    }
    assert_int_equal(waitpid(process, &status, WUNTRACED), process);
    assert_true(WIFSTOPPED(status));
    return process;
}

static void end(pid_t process)
{
    kill(process, SIGKILL);
    assert_int_equal(waitpid(process, NULL, 0), process);
}

/* Whether it is so once within some seconds. */
static bool comes_to_be(pid_t process, bool starved)
{
    struct process_share share = { 0 };
    uint64_t until = clock_ms() + 20000;
    process_is_starved(process, &share);
    while (clock_ms() < until) {
        usleep(100000);
        if (process_is_starved(process, &share) == starved) return true;
    }
    return false;
}

static void who_is_given_no_processor_is_starved(void **state)
{
    (void)state;
    if (geteuid() != 0) skip();
    pid_t hogs[HOGS], process = start_running(false), rests = start_resting();
    for (unsigned i = 0; i < HOGS; i++)
        hogs[i] = start_running(true);
    assert_true(comes_to_be(process, true));
    struct process_share share = { 0 };
    for (unsigned i = 0; i < 5; i++) {
        assert_false(process_is_starved(rests, &share));
        usleep(20000);
    }
    for (unsigned i = 0; i < HOGS; i++)
        end(hogs[i]);
    assert_true(comes_to_be(process, false));
    end(process);
    end(rests);
    assert_false(process_is_starved(process, &share));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(silence_is_lost_after_the_limit),
        cmocka_unit_test(an_answer_is_the_beginning),
        cmocka_unit_test(late_beats_do_not_count),
        cmocka_unit_test(who_is_starved_is_not_lost),
        cmocka_unit_test(short_limits_have_short_beats),
        cmocka_unit_test(who_is_given_no_processor_is_starved),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
