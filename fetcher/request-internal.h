/*
 * What has to happen until a question to a registry is answered: authorization,
 * redirects, retries with back-off, a deadline. A request is a state machine on
 * the transfer thread; what differs between manifests, ranges and streams
 * (where the bytes go, what counts as a whole answer) is in its operations.
 */
#ifndef SLUICE_FETCHER_REQUEST_INTERNAL_H
#define SLUICE_FETCHER_REQUEST_INTERNAL_H

#include "base/buffer.h"
#include "base/error.h"
#include "fetcher/client-internal.h"

enum access {
    ACCESS_NONE, /* no registry: a token server, with an authorization of its own */
    ACCESS_PULL,
    ACCESS_PUSH, /* and pull */
};

enum taken {
    TAKEN,
    TAKEN_NOTHING, /* the same bytes again after request_continue() */
    TAKEN_ENOUGH,  /* the answer is complete although its body goes on */
    TAKEN_WRONG,   /* the error is set; another attempt may help */
    TAKEN_TOO_MUCH /* the error is set; no attempt will help */
};

struct request_operations {
    /* A 2xx answer begins (request->exchange.answer); at each attempt. -1: it is wrong, and another
     * attempt may help. NULL: any will do. */
    int (*begin)(struct request *request, struct error **error);
    enum taken (*bytes)(struct request *request, const uint8_t *data, size_t length,
                        struct error **error);
    /* The answer is there to its end. -1: it is wrong, and another attempt may help. NULL: it is
     * right. */
    int (*end)(struct request *request, struct error **error);
    /* The last call, exactly one. `error` is NULL on success, else owned by the callee, and names
     * registry and question. The request may be freed in it. */
    void (*done)(struct request *request, struct error *error);
    /* The next exchange is about to go to request->host: sets what range or ranges are asked for.
     * NULL: they are as the owner has set them. */
    void (*ask)(struct request *request);
    /* What was answered is a refusal, or was found wrong: true, when the same host is to be asked
     * again at once, in another way. NULL: never. */
    bool (*otherwise)(struct request *request);
};

enum request_state {
    REQUEST_NEW,
    REQUEST_AUTHORIZING, /* in a list of those who wait for a token or credentials */
    REQUEST_SENDING,
    REQUEST_DELAYED, /* until its timer fires */
    REQUEST_DONE,
};

struct request {
    /* Set by the owner before request_submit(). */
    struct registry_client *client;
    const struct request_operations *operations;
    char *registry;   /* owned */
    char *repository; /* owned; NULL with ACCESS_NONE */
    char *what;       /* owned: "get manifest 'foo:1'" */
    char *path;       /* owned: "foo/manifests/1", below the API of whichever host is asked */
    char *url;        /* owned; with a path: made here. Else the only address */
    const char *method;
    enum access access;
    unsigned needed;  /* enum host_capability */
    uint32_t shunned; /* hosts that the first attempt leaves out, if others are well; bits by
                         position */
    const struct exchange_settings *settings; /* with ACCESS_NONE */
    char *authorization; /* owned; the value of the header, sent to the origin of `url` only */
    const char *accept, *content_type;
    const void *body;
    size_t body_length;
    uint64_t range_offset, range_length; /* length 0: no range; may move on between attempts */
    const char *range_list;              /* instead, several: "0-99,200-299"; or NULL */
    bool keep_redirect;                  /* it is a blob: the target serves the next request too */
    bool redirect_suffices;              /* as an answer: where it leads does not matter */
    unsigned attempts;                   /* of all hosts; 0: as many as the client is set to */
    unsigned delay_ms;                   /* before the first attempt */
    unsigned timeout_ms;                 /* altogether; 0: none */
    unsigned retry_ms;                   /* as in struct range_time */

    struct exchange exchange;

    /* The state machine's own. */
    enum request_state state;
    TAILQ_ENTRY(request) link;         /* in client->requests */
    TAILQ_ENTRY(request) waiting_link; /* in `waiting_in` */
    struct request_list *waiting_in;   /* while REQUEST_AUTHORIZING */
    struct registry *of;               /* NULL with ACCESS_NONE */
    struct registry_host *host;        /* the one that is asked; NULL with ACCESS_NONE */
    uint32_t asked;                    /* hosts, in this attempt */
    struct transfer_task task;
    struct transfer_timer timer, deadline;
    struct transfer_timer budget; /* of a host, while there are others */
    unsigned budget_ms;
    char *current_url; /* where the exchange goes */
    unsigned attempt;  /* from 1 */
    unsigned wrong;    /* attempts whose verdict was a wrong answer */
    uint64_t begun;    /* clock_ms() */
    unsigned redirects;
    bool redirect_renewed;     /* a redirect's target has refused once in this attempt */
    struct error *failure;     /* that `operations` reported in the exchange */
    struct error *verdict;     /* of this attempt so far: the word that counts most */
    bool verdict_final;        /* another attempt would not change it */
    long verdict_status;       /* of the answer behind it; 0: there was none */
    struct error *last;        /* of the attempt before */
    struct error *passed_over; /* why the first host of this attempt that is not well was left */
    bool lacked;               /* a host that is well has said that it does not have it */
    bool enough, hopeless;
    struct buffer refusal; /* the body of an answer that is no 2xx, bounded */

    /* authorization.c's: the credentials of a refused request. */
    uint64_t authorization_obtained; /* clock_ms() of the token or credentials sent; 0: none */
    uint64_t refused_since;          /* clock_ms() of the first 401 without a success; 0: none */
    unsigned refusals;               /* since then */
    bool searched_again;             /* stored credentials were read anew since then */
};

/* From any thread. The request belongs to the client until `done`. */
void request_submit(struct request *request);
/* Frees what the struct owns, not the struct; not while it is under way. */
void request_release(struct request *request);

/* The rest is for the transfer thread. */
/* As request_submit(), at once: `done` may be called before it returns. */
void request_start(struct request *request);
void request_cancel(struct request *request);
/* Bytes are wanted again. */
void request_continue(struct request *request);
/* Lets the request wait in `list`, until one of the next two is called. */
void request_wait(struct request *request, struct request_list *list);
/* For those who let it wait: authorization is there, or cannot be had from this host (takes
 * `error`). */
void request_authorized(struct request *request);
void request_fail(struct request *request, struct error *error);
/* The attempt counter starts anew, because the last attempt got somewhere. */
void request_made_progress(struct request *request);
/* Its question is out: what passes now is the host's time. */
bool request_is_out(const struct request *request);
/* The answer is not waited for any longer: the next host is asked, or the same after a pause, on a
 * new connection. */
void request_give_up_answer(struct request *request, unsigned waited_ms);

#endif
