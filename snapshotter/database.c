#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "snapshotter/database-internal.h"

/* "slui": what file(1) and a careless administrator should not take for another program's. */
#define APPLICATION_ID 0x736c7569

/* How long a process that is just ending is waited for. */
#define PATIENCE_MS 2000

struct database {
    sqlite3 *connection;
    char *path;
};

int database_damaged(struct database *database, const char *what, struct error **error)
{
    error_set_errno(error, EUCLEAN, "state database '%s' is damaged: %s", database->path, what);
    return error_hint(error, "stop containerd, move the state directory away, start both, and pull "
                             "the images again");
}

static int failed(struct database *database, struct error **error)
{
    int code = sqlite3_extended_errcode(database->connection);
    const char *reason = sqlite3_errmsg(database->connection);
    int number = sqlite3_system_errno(database->connection);
    switch (code & 0xff) {
    case SQLITE_NOMEM:
        return error_set_memory(error);
    case SQLITE_BUSY:
        return error_set(error, ERROR_PRECONDITION,
                         "state database '%s' is in use by another process", database->path);
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
        return database_damaged(database, reason, error);
    case SQLITE_FULL:
        return error_set_errno(error, ENOSPC, "state database '%s'", database->path);
    default:
        return error_set_errno(error, number ? number : EIO, "state database '%s': %s",
                               database->path, reason);
    }
}

static sqlite3_stmt *prepare(struct database *database, const char *sql, struct error **error)
{
    sqlite3_stmt *statement = NULL;
    if (sqlite3_prepare_v2(database->connection, sql, -1, &statement, NULL) != SQLITE_OK)
        failed(database, error);
    return statement;
}

static sqlite3_stmt *query(struct database *database, struct error **error, const char *sql,
                           const char *types, va_list parameters)
{
    sqlite3_stmt *statement = prepare(database, sql, error);
    for (int i = 1; statement && *types; i++, types++) {
        int code = *types == 'i' ? sqlite3_bind_int64(statement, i, va_arg(parameters, int64_t))
                                 : sqlite3_bind_text(statement, i, va_arg(parameters, const char *),
                                                     -1, SQLITE_STATIC);
        if (code == SQLITE_OK) continue;
        failed(database, error);
        sqlite3_finalize(statement);
        return NULL;
    }
    return statement;
}

sqlite3_stmt *database_query(struct database *database, struct error **error, const char *sql,
                             const char *types, ...)
{
    va_list parameters;
    va_start(parameters, types);
    sqlite3_stmt *statement = query(database, error, sql, types, parameters);
    va_end(parameters);
    return statement;
}

int database_step(struct database *database, sqlite3_stmt *statement, struct error **error)
{
    switch (sqlite3_step(statement)) {
    case SQLITE_ROW:
        return 1;
    case SQLITE_DONE:
        return 0;
    default:
        return failed(database, error);
    }
}

int database_run(struct database *database, struct error **error, const char *sql,
                 const char *types, ...)
{
    va_list parameters;
    va_start(parameters, types);
    cleanup_statement sqlite3_stmt *statement = query(database, error, sql, types, parameters);
    va_end(parameters);
    if (!statement) return -1;
    int more;
    while ((more = database_step(database, statement, error)) == 1)
        ;
    return more;
}

const char *database_text(struct database *database, sqlite3_stmt *statement, int column,
                          struct error **error)
{
    if (sqlite3_column_type(statement, column) == SQLITE_NULL) return "";
    const char *text = (const char *)sqlite3_column_text(statement, column);
    if (!text) {
        error_set_memory(error);
        return NULL;
    }
    if (strlen(text) != (size_t)sqlite3_column_bytes(statement, column)) {
        database_damaged(database, "a text has a zero byte", error);
        return NULL;
    }
    return text;
}

int64_t database_new_id(struct database *database)
{
    return sqlite3_last_insert_rowid(database->connection);
}

int database_begin(struct database *database, struct error **error)
{
    return database_run(database, error, "BEGIN IMMEDIATE", "");
}

int database_commit(struct database *database, struct error **error)
{
    if (database_run(database, error, "COMMIT", "") == 0) return 0;
    database_rollback(database);
    return -1;
}

void database_rollback(struct database *database)
{
    /* A failure may have ended the transaction by itself. */
    if (!sqlite3_get_autocommit(database->connection)) database_run(database, NULL, "ROLLBACK", "");
}

static int run_all(struct database *database, const char *const *statements, size_t count,
                   struct error **error)
{
    for (size_t i = 0; i < count; i++)
        if (database_run(database, error, statements[i], "") < 0) return -1;
    return 0;
}

static int run_script(struct database *database, const char *script, struct error **error)
{
    if (sqlite3_exec(database->connection, script, NULL, NULL, NULL) != SQLITE_OK)
        return failed(database, error);
    return 0;
}

/* The first value of the first row, "" when there is none; in fresh memory. */
static char *first_value(struct database *database, const char *sql, struct error **error)
{
    cleanup_statement sqlite3_stmt *statement = prepare(database, sql, error);
    if (!statement) return NULL;
    int more = database_step(database, statement, error);
    if (more < 0) return NULL;
    const char *text = more ? database_text(database, statement, 0, error) : "";
    char *copy = text ? strdup(text) : NULL;
    if (text && !copy) error_set_memory(error);
    return copy;
}

static int connect_to(struct database *database, const char *path, struct error **error)
{
    database->path = strdup(path);
    if (!database->path) return error_set_memory(error);
    int code = sqlite3_open_v2(path, &database->connection,
                               SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX |
                                   SQLITE_OPEN_NOFOLLOW | SQLITE_OPEN_EXRESCODE,
                               NULL);
    if (!database->connection) return error_set_memory(error);
    return code == SQLITE_OK ? 0 : failed(database, error);
}

/* Exclusive: nobody else changes what was read, and no memory is shared with other processes. */
static int set_up_connection(struct database *database, struct error **error)
{
    static const char *const pragmas[] = {
        "PRAGMA trusted_schema = OFF",
        "PRAGMA cell_size_check = ON",
        "PRAGMA temp_store = MEMORY",
        "PRAGMA locking_mode = EXCLUSIVE",
        "PRAGMA journal_mode = WAL",
        "PRAGMA synchronous = FULL",
        "PRAGMA foreign_keys = ON",
        /* Takes the lock that it keeps. */
        "BEGIN EXCLUSIVE",
        "COMMIT",
    };
    sqlite3_busy_timeout(database->connection, PATIENCE_MS);
    sqlite3_db_config(database->connection, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL);
    return run_all(database, pragmas, sizeof pragmas / sizeof *pragmas, error);
}

#define SCHEMA_TEXT                                                                       \
    "SELECT group_concat(sql, ';') FROM (SELECT sql FROM sqlite_schema WHERE sql IS NOT " \
    "NULL ORDER BY type, name)"

static char *schema_of(struct database *database, struct error **error)
{
    return first_value(database, SCHEMA_TEXT, error);
}

/* What sqlite makes of our statements is what the file must have: a trigger or a view that
 * somebody has put in would do more than we ask for. */
static int check_schema(struct database *database, const char *schema, struct error **error)
{
    struct database memory = { 0 };
    cleanup_free char *expected = NULL;
    if (connect_to(&memory, ":memory:", error) == 0 && run_script(&memory, schema, error) == 0)
        expected = schema_of(&memory, error);
    sqlite3_close(memory.connection);
    free(memory.path);
    if (!expected) return -1;
    cleanup_free char *found = schema_of(database, error);
    if (!found) return -1;
    if (strcmp(found, expected) != 0)
        return database_damaged(database, "its tables are not those of this version", error);
    return 0;
}

static int check_contents(struct database *database, struct error **error)
{
    cleanup_free char *verdict = first_value(database, "PRAGMA quick_check(1)", error);
    if (!verdict) return -1;
    if (strcmp(verdict, "ok") != 0) return database_damaged(database, verdict, error);
    cleanup_free char *orphan = first_value(database, "PRAGMA foreign_key_check", error);
    if (!orphan) return -1;
    if (*orphan) return database_damaged(database, "a row refers to one that is not there", error);
    return 0;
}

static int make_tables(struct database *database, const char *schema, int version,
                       struct error **error)
{
    char mark[96];
    snprintf(mark, sizeof mark, "PRAGMA application_id = %d; PRAGMA user_version = %d",
             APPLICATION_ID, version);
    if (database_begin(database, error) < 0) return -1;
    if (run_script(database, schema, error) < 0 || run_script(database, mark, error) < 0) {
        database_rollback(database);
        return -1;
    }
    return database_commit(database, error);
}

static int check_or_make(struct database *database, const char *schema, int version,
                         struct error **error)
{
    cleanup_free char *tables = schema_of(database, error);
    cleanup_free char *mark = first_value(database, "PRAGMA application_id", error);
    cleanup_free char *found = mark ? first_value(database, "PRAGMA user_version", error) : NULL;
    if (!tables || !mark || !found) return -1;
    if (!*tables && strcmp(found, "0") == 0) return make_tables(database, schema, version, error);
    if (strtol(mark, NULL, 10) != APPLICATION_ID)
        return database_damaged(database, "it is not one of sluiced's", error);
    if (strtol(found, NULL, 10) != version) {
        error_set(error, ERROR_UNSUPPORTED, "state database '%s' has version %s, not %d",
                  database->path, found, version);
        return error_hint(error, "start the sluiced that made it");
    }
    if (check_schema(database, schema, error) < 0) return -1;
    return check_contents(database, error);
}

int database_open(struct database **ret, const char *path, const char *schema, int version,
                  struct error **error)
{
    struct database *database = calloc(1, sizeof *database);
    if (!database) return error_set_memory(error);
    if (connect_to(database, path, error) < 0 || set_up_connection(database, error) < 0 ||
        check_or_make(database, schema, version, error) < 0) {
        database_close(database);
        return -1;
    }
    *ret = database;
    return 0;
}

void database_close(struct database *database)
{
    if (!database) return;
    sqlite3_close(database->connection);
    free(database->path);
    free(database);
}
