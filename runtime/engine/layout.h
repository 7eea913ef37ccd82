/* layout.h - the image's bytes by name, as SPEC.md section 3 has them: the engine reads each by
 * its name, and a field that moves does not compile. Internal. */
#ifndef QE_LAYOUT_H
#define QE_LAYOUT_H

#include <stddef.h>

#include "kernels/numeric.h"
#include "qedge.h"

/* 3.1 */
typedef struct {
    uint8_t magic[8]; /* QEDGEIMG */
    uint32_t version, header_bytes;
    uint64_t bytes; /* of the image */
    uint32_t sections, entry_bytes;
    uint64_t table; /* offset of the section table */
    uint32_t alignment, leaf_bytes;
    uint64_t tree; /* offset of the hash tree */
    uint32_t leaves, zero;
    uint64_t checked; /* bytes at the start that are verified as it is opened */
    uint8_t unused[56];
} qe_header;

/* 3.2 */
typedef struct {
    uint32_t type, flags;
    uint64_t offset, bytes, zero;
} qe_entry;

/* 3.3 */
typedef struct {
    uint32_t size, fields[8]; /* of qe_config, in their order */
    uint32_t norm_eps, tied;
    uint8_t unused[20];
} qe_config_bytes;

/* 3.4 */
typedef struct {
    uint32_t size, context, batch, threads, kv, zero;
    uint64_t arena_bytes;
    uint8_t board[32];
    uint8_t unused[64];
} qe_plan_bytes;

/* 3.5 */
typedef struct {
    uint32_t count, entry_bytes;
} qe_tensor_table;

typedef struct {
    uint32_t kind, layer, type, layout, rows, columns;
    uint64_t offset, bytes;
} qe_tensor_entry;

/* 3.6; ids of the prompt and then of the expected tokens follow */
typedef struct {
    uint32_t size, prompt_count, expected_count, zero;
    uint8_t digest[32];
} qe_golden_bytes;

_Static_assert(sizeof(qe_header) == 128 && offsetof(qe_header, bytes) == 16 &&
                   offsetof(qe_header, table) == 32 && offsetof(qe_header, tree) == 48 &&
                   offsetof(qe_header, checked) == 64,
               "SPEC 3.1");
_Static_assert(sizeof(qe_entry) == 32 && offsetof(qe_entry, offset) == 8, "SPEC 3.2");
_Static_assert(sizeof(qe_config_bytes) == 64 && offsetof(qe_config_bytes, norm_eps) == 36,
               "SPEC 3.3");
_Static_assert(sizeof(qe_plan_bytes) == 128 && offsetof(qe_plan_bytes, arena_bytes) == 24 &&
                   offsetof(qe_plan_bytes, board) == 32,
               "SPEC 3.4");
_Static_assert(sizeof(qe_tensor_table) == 8 && sizeof(qe_tensor_entry) == 40 &&
                   offsetof(qe_tensor_entry, offset) == 24,
               "SPEC 3.5");
_Static_assert(sizeof(qe_golden_bytes) == 48 && offsetof(qe_golden_bytes, digest) == 16,
               "SPEC 3.6");

/* Where a tensor stands in the table: SPEC 3.5. A layer's begin at QE_ATTN_NORM. Where the
 * output is tied to the embedding there is no QE_OUTPUT, and the embedding's is given. */
enum { QE_LAYER_ROLES = QE_ROLES - QE_ATTN_NORM };

static inline uint32_t qe_tensor_index(const qe_config *c, uint32_t layer, enum qe_role role)
{
    if (role < QE_ATTN_NORM)
        return role == QE_OUTPUT && c->tied ? QE_EMBED : role;
    return QE_ATTN_NORM - c->tied + QE_LAYER_ROLES * layer + role - QE_ATTN_NORM;
}

/* A field of what lies at `at`, which need not be aligned. */
#define QE_U32(at, type, field) qe_load32((at) + offsetof(type, field))
#define QE_U64(at, type, field) qe_load64((at) + offsetof(type, field))

#endif
