/* A plugin that a C compiler laid out, so that a mistake in the Rust structs cannot hide.
 *
 * Compiled with other macros it plays an older, a newer or a broken one:
 *   TABLE_BYTES  the size that the table gives; what lies behind it is not there
 *   MAJOR        its major version
 *   MAGIC        what it begins with
 *   ID           the backend's id
 *   NO_ENTRY     it exports nothing
 *   NO_TABLE     its entry gives null
 *   BAD_JSON     what it says is none
 *   LATER        a field of a later minor version, which an older host does not look at
 *   DRIVER       what it says of its driver, as JSON
 */
#include "omniprof_backend.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifndef MAJOR
#define MAJOR OMNIPROF_ABI_MAJOR
#endif
#ifndef MAGIC
#define MAGIC OMNIPROF_BACKEND_MAGIC
#endif
#ifndef ID
#define ID "c"
#endif

_Static_assert(sizeof(omniprof_text) == 16, "text");
_Static_assert(sizeof(omniprof_answer) == 16, "answer");
_Static_assert(sizeof(omniprof_batch) == 48, "batch");
_Static_assert(sizeof(omniprof_loss) == 40, "loss");
_Static_assert(sizeof(omniprof_host) == 80, "host");
_Static_assert(sizeof(omniprof_backend_table) == 128, "table");
_Static_assert(offsetof(omniprof_host, clock) == 72, "host.clock");
_Static_assert(offsetof(omniprof_backend_table, probe) == 56, "table.probe");
_Static_assert(offsetof(omniprof_backend_table, flush) == 96, "table.flush");
_Static_assert(offsetof(omniprof_backend_table, trial) == 104, "table.trial");
_Static_assert(offsetof(omniprof_backend_table, driver) == 112, "table.driver");
_Static_assert(offsetof(omniprof_backend_table, records_memory) == 120, "table.records_memory");
_Static_assert(offsetof(omniprof_batch, rows) == 16, "batch.rows");
_Static_assert(offsetof(omniprof_loss, cause) == 10, "loss.cause");

#define TEXT(s) ((omniprof_text){(s), sizeof(s) - 1})

/* The kinds and rows that this plugin writes, by docs/plugins.md and docs/spool-format.md. */
#define MARKER_KIND 11
#define STRING_KIND 256

struct string_row {
    uint32_t text_offset, text_len;
    uint32_t id, reserved;
};

struct marker_row {
    uint64_t time, payload;
    uint32_t fields_offset, fields_len;
    uint32_t name, target, request, thread;
};

struct session {
    omniprof_host host;
    uint32_t stream;
    enum { OPEN, RECORDING, STOPPED } state;
    uint64_t flushes;
    bool is_closed;
};

static void say(const omniprof_answer *answer, const char *text) {
    answer->write(answer->ctx, (omniprof_text){text, strlen(text)});
}

static int32_t failed(const omniprof_answer *answer, const char *kind) {
    say(answer, "{\"version\":1,\"body\":{\"kind\":\"");
    say(answer, kind);
    say(answer, "\",\"code\":\"c_error\",\"message\":\"the C plugin cannot\"}}");
    return OMNIPROF_FAILED;
}

static int32_t probe(const omniprof_answer *answer) {
#ifdef BAD_JSON
    say(answer, "{\"version\":");
#else
    say(answer, "{\"version\":1,\"body\":{\"status\":\"available\",\"devices\":"
                "[{\"index\":0,\"name\":\"C device\",\"uuid\":\"\"}],");
    say(answer, "\"notes\":[\"written in C\"],\"later\":true}}");
#endif
    return OMNIPROF_OK;
}

static int32_t driver(const omniprof_answer *answer) {
#ifdef BAD_JSON
    say(answer, "null");
#else
#ifndef DRIVER
#define DRIVER "\"residue\""
#endif
    say(answer, "{\"version\":1,\"body\":" DRIVER "}");
#endif
    return OMNIPROF_OK;
}

static int32_t open_session(omniprof_text config, const omniprof_host *host, void **session,
                            const omniprof_answer *answer) {
    /* A host of a later minor version is longer: what this plugin knows is its beginning. */
    if (host->magic != OMNIPROF_HOST_MAGIC || host->abi_major != OMNIPROF_ABI_MAJOR ||
        host->struct_size < sizeof(omniprof_host)) {
        return failed(answer, "unavailable");
    }
    omniprof_host copy;
    memcpy(&copy, host, sizeof copy);
    if (config.len == 0 || memchr(config.ptr, '{', config.len) != config.ptr) {
        copy.release(copy.ctx);
        return failed(answer, "invalid_config");
    }
#ifdef BAD_JSON
    copy.release(copy.ctx);
    say(answer, "no JSON at all");
    return OMNIPROF_FAILED;
#endif
    struct session *new = calloc(1, sizeof *new);
    if (new == NULL) {
        copy.release(copy.ctx);
        return failed(answer, "io");
    }
    new->host = copy;
    new->stream = copy.open_stream(
        copy.ctx, TEXT("{\"version\":1,\"body\":{\"producer\":\"c.plugin\",\"thread\":0,"
                       "\"clock\":\"monotonic\"}}"));
    copy.log(copy.ctx, 2, TEXT("c"), TEXT("opened"));
    *session = new;
    return OMNIPROF_OK;
}

static int32_t start(void *handle, const omniprof_answer *answer) {
    struct session *session = handle;
    if (session->state != OPEN) {
        return failed(answer, "already_started");
    }
    session->state = RECORDING;
    session->host.fact(session->host.ctx, TEXT("c.fact"), TEXT("said in C"));
    return OMNIPROF_OK;
}

static int32_t flush(void *handle, const omniprof_answer *answer) {
    struct session *session = handle;
    if (session->state != RECORDING) {
        return failed(answer, "not_started");
    }
    if (session->is_closed) {
        return OMNIPROF_OK;
    }
    static const char name[] = "from C";
    const struct string_row string = {0, sizeof name - 1, 1, 0};
    const struct marker_row marker = {
        .time = session->host.clock(session->host.ctx, OMNIPROF_CLOCK_MONOTONIC),
        .payload = session->flushes,
        .name = string.id,
    };
    const omniprof_batch group[] = {
        {session->stream, STRING_KIND, 0, sizeof string, 0, (const uint8_t *)&string, sizeof string,
         (const uint8_t *)name, sizeof name - 1},
        {session->stream, MARKER_KIND, 0, sizeof marker, 0, (const uint8_t *)&marker, sizeof marker,
         NULL, 0},
    };
    const uint32_t emitted = session->host.emit(session->host.ctx, group, 2, sizeof group[0]);
    if (emitted == OMNIPROF_ACCEPTED) {
        session->flushes++;
    } else if (emitted == OMNIPROF_CLOSED) {
        session->is_closed = true;
    }
    return OMNIPROF_OK;
}

static int32_t stop(void *handle, uint64_t drain_ns, const omniprof_answer *answer) {
    struct session *session = handle;
    if (session->state != RECORDING) {
        return failed(answer, "not_started");
    }
    flush(handle, answer);
    session->state = STOPPED;
    const omniprof_loss loss = {sizeof loss, session->stream, 0, 3 /* the driver dropped */,
                                0,           2,               0, 0};
    session->host.loss(session->host.ctx, &loss);
#ifdef BAD_JSON
    say(answer, "[]");
    (void)drain_ns;
#else
    char text[128];
    snprintf(text, sizeof text,
             "{\"version\":1,\"body\":{\"device_used\":true,\"notes\":[\"drained %llu ns\"]}}",
             (unsigned long long)drain_ns);
    say(answer, text);
#endif
    return OMNIPROF_OK;
}

static int32_t close_session(void *handle, const omniprof_answer *answer) {
    struct session *session = handle;
    (void)answer;
    session->host.release(session->host.ctx);
    free(session);
    return OMNIPROF_OK;
}

/* The table as another version of the interface would have it. */
static const struct {
    omniprof_backend_table known;
#ifdef LATER
    int32_t (*later)(void *);
    uint64_t more[8];
#endif
} TABLE = {
    .known =
        {
            .magic = MAGIC,
            .abi_major = MAJOR,
#ifdef TABLE_BYTES
            .struct_size = TABLE_BYTES,
#else
            .struct_size = sizeof TABLE,
#endif
            .id = {ID, sizeof ID - 1},
            .version = {"0.3-c", 5},
            .role = OMNIPROF_ROLE_DEVICE,
            .priority = 50,
            .probe = probe,
            .open = open_session,
            .start = start,
            .stop = stop,
            .close = close_session,
#ifdef TABLE_BYTES
            /* What lies behind the table of an older version is not a function. */
            .flush = (int32_t (*)(void *, const omniprof_answer *))(uintptr_t)0x5a5a5a5a5a5a5a5a,
            .driver = (int32_t (*)(const omniprof_answer *))(uintptr_t)0x5a5a5a5a5a5a5a5a,
            .records_memory = (int32_t (*)(omniprof_text, const omniprof_answer *))(
                uintptr_t)0x5a5a5a5a5a5a5a5a,
#else
            .flush = flush,
            .driver = driver,
#endif
        },
};

#ifndef NO_ENTRY
const omniprof_backend_table *omniprof_backend_entry_v1(void) {
#ifdef NO_TABLE
    return NULL;
#else
    return &TABLE.known;
#endif
}
#endif
