/* What is asked for ahead of readers follows what the link was found to be like. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "fuse/link_speed-internal.h"

#define PIECE (64u << 10)

/* Pieces come for so long at so many bytes in a millisecond. */
static void arrive(struct link_speed *link, uint64_t *now_us, uint64_t bytes_per_ms,
                   uint64_t milliseconds)
{
    uint64_t end = *now_us + milliseconds * 1000;
    while (*now_us < end) {
        link_speed_arrived(link, PIECE, *now_us);
        *now_us += PIECE * UINT64_C(1000) / bytes_per_ms;
    }
}

static void assert_about(size_t found, double expected)
{
    assert_in_range(found, (size_t)(expected * 0.9), (size_t)(expected * 1.1));
}

static void slow_link_has_little_under_way_ahead(void **state)
{
    (void)state;
    struct link_speed link = { 0 };
    uint64_t now = 1;
    link_speed_note(&link, 8000, 50000, PIECE);
    arrive(&link, &now, 12500, 200); /* 100 Mbit/s */
    assert_about(link_speed_ahead_bytes(&link), 12500 * 100);
}

static void long_link_has_much_under_way(void **state)
{
    (void)state;
    struct link_speed link = { 0 };
    uint64_t now = 1;
    link_speed_note(&link, 50000, 500, PIECE);
    arrive(&link, &now, 125000, 200); /* 1 Gbit/s, 50 ms */
    assert_about(link_speed_ahead_bytes(&link), 125000.0 * 200);
    assert_about(link_speed_stream_bytes(&link), 125000.0 * 100);
}

static void pauses_are_not_counted(void **state)
{
    (void)state;
    struct link_speed link = { 0 };
    uint64_t now = 1;
    for (int i = 0; i < 20; i++) {
        arrive(&link, &now, 125000, 30);
        link_speed_idle(&link);
        now += 1000000;
    }
    assert_about(link_speed_ahead_bytes(&link), 125000.0 * 100);
}

static void link_that_gets_worse_is_noticed(void **state)
{
    (void)state;
    struct link_speed link = { 0 };
    uint64_t now = 1;
    arrive(&link, &now, 125000, 200);
    arrive(&link, &now, 12500, 10000);
    assert_about(link_speed_ahead_bytes(&link), 12500 * 100);
}

static void before_anything_is_known_a_little_is_under_way(void **state)
{
    (void)state;
    struct link_speed link = { 0 };
    link_speed_arrived(&link, PIECE, 1);
    link_speed_arrived(&link, PIECE, 1); /* at the same moment: that says nothing */
    assert_in_range(link_speed_ahead_bytes(&link), 1u << 20, 4u << 20);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(slow_link_has_little_under_way_ahead),
        cmocka_unit_test(long_link_has_much_under_way),
        cmocka_unit_test(pauses_are_not_counted),
        cmocka_unit_test(link_that_gets_worse_is_noticed),
        cmocka_unit_test(before_anything_is_known_a_little_is_under_way),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
