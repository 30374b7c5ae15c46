/* The plugin interface of omniprof, version 1. docs/plugins.md is the specification.
 *
 * A plugin is a shared library `libomniprof_backend_<id>.so` that exports one function,
 * `omniprof_backend_entry_v1`, and holds one backend.
 */
#ifndef OMNIPROF_BACKEND_H
#define OMNIPROF_BACKEND_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define OMNIPROF_ABI_MAJOR 1u
#define OMNIPROF_BACKEND_MAGIC 0x3142504fu /* "OPB1" */
#define OMNIPROF_HOST_MAGIC 0x3148504fu    /* "OPH1" */

/* What the functions of a backend return. */
#define OMNIPROF_OK 0
#define OMNIPROF_FAILED 1
#define OMNIPROF_PANICKED 2 /* the backend is not used again */

/* What `emit` returns. Any other number means CLOSED. */
#define OMNIPROF_ACCEPTED 0u
#define OMNIPROF_FULL 1u
#define OMNIPROF_CLOSED 2u

#define OMNIPROF_ROLE_DEVICE 1u
#define OMNIPROF_ROLE_HOST 2u

#define OMNIPROF_SEVERAL_STREAMS UINT32_MAX

/* What `clock` reads: ns, but ticks of OMNIPROF_CLOCK_TSC. */
#define OMNIPROF_CLOCK_MONOTONIC 1u
#define OMNIPROF_CLOCK_REALTIME 2u
#define OMNIPROF_CLOCK_BOOTTIME 3u
#define OMNIPROF_CLOCK_TSC 4u

/* UTF-8, not terminated; valid for the call that passes it, or for ever in a table. */
typedef struct omniprof_text {
    const char *ptr;
    size_t len;
} omniprof_text;

/* Takes what a call has to say, while the call runs and on its thread alone. The pieces are
 * joined. */
typedef struct omniprof_answer {
    void *ctx;
    void (*write)(void *ctx, omniprof_text piece);
} omniprof_answer;

typedef struct omniprof_batch {
    uint32_t stream;
    uint16_t kind;
    uint16_t reserved;
    uint32_t stride;
    uint32_t reserved_2;
    const uint8_t *rows;
    size_t rows_len;
    const uint8_t *heap;
    size_t heap_len;
} omniprof_batch;

typedef struct omniprof_loss {
    uint32_t struct_size;
    uint32_t stream;
    uint16_t kind;
    uint16_t cause;
    uint32_t reserved;
    uint64_t count;
    uint64_t from;
    uint64_t to;
} omniprof_loss;

/* What a host gives a session. Copy it in `open`; its `ctx` is yours from there on, whatever
 * `open` returns, and is released once. All functions but `release` may be called from any thread
 * until then. */
typedef struct omniprof_host {
    uint32_t magic;
    uint32_t abi_major;
    size_t struct_size;
    void *ctx;
    void (*release)(void *ctx);
    uint32_t (*open_stream)(void *ctx, omniprof_text info);
    uint32_t (*emit)(void *ctx, const omniprof_batch *batches, size_t count, size_t batch_size);
    void (*loss)(void *ctx, const omniprof_loss *loss);
    void (*fact)(void *ctx, omniprof_text key, omniprof_text value);
    void (*log)(void *ctx, uint32_t level, omniprof_text target, omniprof_text message);
    uint64_t (*clock)(void *ctx, uint32_t which);
} omniprof_host;

/* A backend. Fields are only ever appended. */
typedef struct omniprof_backend_table {
    uint32_t magic;
    uint32_t abi_major;
    size_t struct_size;
    omniprof_text id;
    omniprof_text version;
    uint32_t role;
    uint32_t priority;
    int32_t (*probe)(const omniprof_answer *answer);
    int32_t (*open)(omniprof_text config, const omniprof_host *host, void **session,
                    const omniprof_answer *answer);
    int32_t (*start)(void *session, const omniprof_answer *answer);
    int32_t (*stop)(void *session, uint64_t drain_ns, const omniprof_answer *answer);
    int32_t (*close)(void *session, const omniprof_answer *answer);
    /* The part that every plugin fills ends here. */
    int32_t (*flush)(void *session, const omniprof_answer *answer);         /* may be NULL */
    int32_t (*trial)(omniprof_text library, const omniprof_answer *answer); /* may be NULL */
    int32_t (*driver)(const omniprof_answer *answer);                       /* may be NULL */
    int32_t (*records_memory)(omniprof_text config,
                              const omniprof_answer *answer); /* may be NULL */
} omniprof_backend_table;

const omniprof_backend_table *omniprof_backend_entry_v1(void);

#ifdef __cplusplus
}
#endif
#endif
