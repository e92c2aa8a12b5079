/* Lines of the log: for people, for machines, for systemd's journal. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/json.h"
#include "base/log.h"

/* What was written to standard error since begin(). */
struct seen {
    int old, from;
    char text[4096];
};

static void begin(struct seen *seen)
{
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    seen->old = dup(STDERR_FILENO);
    seen->from = ends[0];
    assert_int_equal(dup2(ends[1], STDERR_FILENO), STDERR_FILENO);
    close(ends[1]);
}

static const char *end(struct seen *seen)
{
    assert_int_equal(dup2(seen->old, STDERR_FILENO), STDERR_FILENO);
    ssize_t length = read(seen->from, seen->text, sizeof seen->text - 1);
    seen->text[length > 0 ? length : 0] = 0;
    close(seen->old);
    close(seen->from);
    return seen->text;
}

static int reset(void **state)
{
    (void)state;
    log_set_program("sluice");
    log_set_level(LOG_WARNING);
    log_set_format(LOG_FORMAT_TEXT);
    unsetenv("JOURNAL_STREAM");
    return 0;
}

static void text_has_program_and_level(void **state)
{
    (void)state;
    struct seen seen;
    begin(&seen);
    log_error("it is %s", "broken\x1b[2J");
    log_info("nobody asked");
    assert_string_equal(end(&seen), "sluice: error: it is broken?[2J\n");
}

static void journal_is_told_the_level(void **state)
{
    (void)state;
    struct seen seen;
    log_set_level(LOG_DEBUG);
    log_set_format(LOG_FORMAT_JOURNAL);
    begin(&seen);
    log_error("a\n<0>b");
    log_warning("c");
    log_info("d");
    log_debug("e");
    assert_string_equal(end(&seen), "<3>sluice: error: a?<0>b\n<4>sluice: warning: c\n"
                                    "<6>sluice: info: d\n<7>sluice: debug: e\n");
}

static void json_is_an_object_a_line(void **state)
{
    (void)state;
    struct seen seen;
    log_set_program("sluiced");
    log_set_format(LOG_FORMAT_JSON);
    begin(&seen);
    log_warning("it says \"%s\"", "no\n");
    const char *text = end(&seen);
    assert_ptr_equal(strchr(text, '\n'), text + strlen(text) - 1);
    json_t *line = json_read_object(text, strlen(text), "a line", NULL);
    assert_string_equal(json_optional_text(line, "level"), "warning");
    assert_string_equal(json_optional_text(line, "program"), "sluiced");
    assert_string_equal(json_optional_text(line, "message"), "it says \"no\n\"");
    assert_null(json_object_get(line, "image"));
    json_decref(line);

    begin(&seen);
    log_about(LOG_ERROR, "registry.example.com/a:1", "%d wrong", 2);
    text = end(&seen);
    line = json_read_object(text, strlen(text), "a line", NULL);
    assert_string_equal(json_optional_text(line, "image"), "registry.example.com/a:1");
    assert_string_equal(json_optional_text(line, "message"), "2 wrong");
    json_decref(line);
}

static void journal_is_known(void **state)
{
    (void)state;
    struct stat status;
    char text[64];
    assert_false(log_is_journal());
    assert_int_equal(fstat(STDERR_FILENO, &status), 0);
    snprintf(text, sizeof text, "%llu:%llu", (unsigned long long)status.st_dev,
             (unsigned long long)status.st_ino);
    setenv("JOURNAL_STREAM", text, 1);
    assert_true(log_is_journal());
    setenv("JOURNAL_STREAM", "1:2", 1);
    assert_false(log_is_journal());
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(text_has_program_and_level, reset),
        cmocka_unit_test_setup(journal_is_told_the_level, reset),
        cmocka_unit_test_setup(json_is_an_object_a_line, reset),
        cmocka_unit_test_setup(journal_is_known, reset),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
