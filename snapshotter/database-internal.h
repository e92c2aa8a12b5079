/*
 * A sqlite database that one process has for itself: what is committed survives a power loss, and
 * a file that is damaged, of another version or not ours is an error when it is opened.
 * One connection, not thread safe: callers take turns.
 */
#ifndef SLUICE_SNAPSHOTTER_DATABASE_INTERNAL_H
#define SLUICE_SNAPSHOTTER_DATABASE_INTERNAL_H

#include <sqlite3.h>
#include <stdint.h>

#include "base/error.h"

struct database;

/* `schema`: the statements that make it, `version` of them from 1 on. ERROR_PRECONDITION: another
 * process has it. */
int database_open(struct database **ret, const char *path, const char *schema, int version,
                  struct error **error);
void database_close(struct database *database);

/* A statement with its parameters bound, one for each letter of `types`: 's' const char *,
 * 'i' int64_t. Texts are not copied: they must outlive it. NULL with the error set. */
sqlite3_stmt *database_query(struct database *database, struct error **error, const char *sql,
                             const char *types, ...);
/* 1: there is a row; 0: there is none left; -1. */
int database_step(struct database *database, sqlite3_stmt *statement, struct error **error);
/* Runs what gives no rows. */
int database_run(struct database *database, struct error **error, const char *sql,
                 const char *types, ...);
/* A column's text, which lives until the next step; "" for NULL. NULL with the error set where it
 * has bytes that no name has. */
const char *database_text(struct database *database, sqlite3_stmt *statement, int column,
                          struct error **error);
int64_t database_new_id(struct database *database);

int database_begin(struct database *database, struct error **error);
/* After a failure nothing of the transaction has happened. */
int database_commit(struct database *database, struct error **error);
void database_rollback(struct database *database);

/* "state database '...': `what`", for contents that cannot be. Returns -1. */
int database_damaged(struct database *database, const char *what, struct error **error);

static inline void cleanup_statement_function(sqlite3_stmt **statement)
{
    sqlite3_finalize(*statement);
}
#define cleanup_statement __attribute__((cleanup(cleanup_statement_function)))

#endif
