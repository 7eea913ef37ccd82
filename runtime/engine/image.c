/* image.c - opens an image in place and proves every bound before anything is used (SPEC 3).
 * The only reader of the format; it never touches a weight. */
#include "kernels/kernels.h"
#include "layout.h"

enum {
    HEADER_BYTES = sizeof(qe_header),
    ENTRY_BYTES = sizeof(qe_entry),
    TENSOR_BYTES = sizeof(qe_tensor_entry),
    MAX_SECTIONS = 64
};

static int power_of_two(uint32_t n, uint32_t low, uint32_t high)
{
    return n >= low && n <= high && !(n & (n - 1));
}

static int inside(uint64_t offset, uint64_t bytes, uint64_t end)
{
    return offset <= end && bytes <= end - offset;
}

static uint64_t tree_offset(const qe_image *image)
{
    return QE_U64(image->base, qe_header, tree);
}

int32_t qe_image_verify(const qe_image *image, uint32_t first, uint32_t count)
{
    const uint64_t end = tree_offset(image), leaf = QE_U32(image->base, qe_header, leaf_bytes);
    const uint32_t leaves = QE_U32(image->base, qe_header, leaves);
    int32_t done = 0;
    for (uint32_t i = first; i < leaves && i - first < count; i++, done++) {
        uint64_t start = i * leaf, bytes = end - start < leaf ? end - start : leaf;
        uint8_t digest[32];
        qe_sha256 hash;
        qe_sha256_init(&hash);
        qe_sha256_update(&hash, image->base + start, (size_t)bytes);
        qe_sha256_digest(&hash, digest);
        if (memcmp(digest, image->base + end + 32ull * i, 32) != 0)
            return QE_ERR_HASH;
    }
    return done;
}

const uint8_t *qe_image_section(const qe_image *image, uint32_t type, uint64_t *bytes)
{
    const uint8_t *entry = image->base + QE_U64(image->base, qe_header, table);
    for (uint32_t n = QE_U32(image->base, qe_header, sections); n; n--, entry += ENTRY_BYTES) {
        if (QE_U32(entry, qe_entry, type) == type) {
            *bytes = QE_U64(entry, qe_entry, bytes);
            return image->base + QE_U64(entry, qe_entry, offset);
        }
    }
    *bytes = 0;
    return NULL;
}

uint64_t qe_image_front(const void *base, uint64_t bytes)
{
    const uint8_t *h = base;
    if (bytes < HEADER_BYTES || memcmp(h, "QEDGEIMG", 8) != 0)
        return 0;
    const uint64_t checked = QE_U64(h, qe_header, checked);
    return checked > bytes ? 0 : checked < HEADER_BYTES ? HEADER_BYTES : checked;
}

/* Header, section table and the leaves that cover what is small. */
static int check_frame(qe_image *image)
{
    const uint8_t *h = image->base;
    if (image->bytes < HEADER_BYTES || memcmp(h, "QEDGEIMG", 8) != 0)
        return QE_ERR_IMAGE;
    if (QE_U32(h, qe_header, version) != QE_VERSION)
        return QE_ERR_VERSION;
    const uint64_t bytes = QE_U64(h, qe_header, bytes), table = QE_U64(h, qe_header, table),
                   tree = QE_U64(h, qe_header, tree), checked = QE_U64(h, qe_header, checked);
    const uint32_t sections = QE_U32(h, qe_header, sections),
                   leaf = QE_U32(h, qe_header, leaf_bytes),
                   leaves = QE_U32(h, qe_header, leaves);
    if (QE_U32(h, qe_header, header_bytes) != HEADER_BYTES || bytes > image->bytes ||
        bytes < HEADER_BYTES + 64 ||
        !power_of_two(QE_U32(h, qe_header, alignment), 64, 1u << 20) ||
        !power_of_two(leaf, 256, 1u << 20))
        return QE_ERR_IMAGE;
    if (tree >= bytes || tree % 4 || !leaves || (tree + leaf - 1) / leaf != leaves ||
        bytes - tree != 32ull * leaves + 32)
        return QE_ERR_IMAGE;
    if (sections > MAX_SECTIONS || QE_U32(h, qe_header, entry_bytes) != ENTRY_BYTES ||
        table % 8 || !inside(table, (uint64_t)sections * ENTRY_BYTES, tree) || checked > tree ||
        !inside(table, (uint64_t)sections * ENTRY_BYTES, checked))
        return QE_ERR_IMAGE;
    image->bytes = bytes;

    qe_sha256 hash;
    uint8_t digest[32];
    qe_sha256_init(&hash);
    qe_sha256_update(&hash, h + tree, 32 * (size_t)leaves);
    qe_sha256_digest(&hash, image->id);
    memcpy(digest, h + tree + 32 * (size_t)leaves, 32);
    if (memcmp(digest, image->id, 32) != 0)
        return QE_ERR_HASH;
    if (qe_image_verify(image, 0, (uint32_t)((checked + leaf - 1) / leaf)) < 0)
        return QE_ERR_HASH;

    for (uint32_t i = 0; i < sections; i++) {
        const uint8_t *entry = h + table + (uint64_t)i * ENTRY_BYTES;
        const uint64_t offset = QE_U64(entry, qe_entry, offset),
                       size = QE_U64(entry, qe_entry, bytes);
        const uint32_t type = QE_U32(entry, qe_entry, type);
        const int bulk = type == QE_SECTION_ROPE || type == QE_SECTION_WEIGHTS;
        if (offset % 64 || !inside(offset, size, tree))
            return QE_ERR_IMAGE;
        if (type <= QE_SECTION_CHAT && !bulk && !inside(offset, size, checked))
            return QE_ERR_IMAGE;
    }
    return QE_OK;
}

static int read_config(qe_image *image)
{
    uint64_t bytes;
    const uint8_t *p = qe_image_section(image, QE_SECTION_CONFIG, &bytes);
    qe_config *c = &image->config;
    if (!p || bytes < sizeof(qe_config_bytes) ||
        QE_U32(p, qe_config_bytes, size) != sizeof(qe_config_bytes))
        return QE_ERR_IMAGE;
    uint32_t *fields[] = {&c->dim,       &c->layers, &c->heads,      &c->kv_heads,
                          &c->head_size, &c->ffn,    &c->vocab_size, &c->trained_context};
    for (uint32_t i = 0; i < 8; i++)
        *fields[i] = qe_load32(p + offsetof(qe_config_bytes, fields) + 4 * i);
    c->norm_eps = qe_float(QE_U32(p, qe_config_bytes, norm_eps));
    c->tied = QE_U32(p, qe_config_bytes, tied);
    if (!c->dim || c->dim > 65536 || !c->layers || c->layers > 512 || !c->heads ||
        !c->kv_heads || c->heads > 1024 || c->heads % c->kv_heads ||
        c->heads / c->kv_heads > QE_MAX_GROUP || !c->head_size || c->head_size % 4 ||
        c->head_size > QE_MAX_HEAD || c->heads * c->head_size > 65536 || !c->ffn ||
        c->ffn > 65536 || !c->vocab_size || c->vocab_size > 1u << 20 || c->tied > 1 ||
        !(c->norm_eps >= 0.0f && c->norm_eps < 1.0f))
        return QE_ERR_IMAGE;
    return QE_OK;
}

static int read_plan(qe_image *image)
{
    uint64_t bytes;
    const uint8_t *p = qe_image_section(image, QE_SECTION_PLAN, &bytes);
    if (!p || bytes < sizeof(qe_plan_bytes) ||
        QE_U32(p, qe_plan_bytes, size) != sizeof(qe_plan_bytes))
        return QE_ERR_IMAGE;
    image->plan = (qe_session_options){.context = QE_U32(p, qe_plan_bytes, context),
                                       .batch = QE_U32(p, qe_plan_bytes, batch),
                                       .threads = QE_U32(p, qe_plan_bytes, threads),
                                       .kv = QE_U32(p, qe_plan_bytes, kv)};
    image->plan_arena_bytes = QE_U64(p, qe_plan_bytes, arena_bytes);
    memcpy(image->board, p + offsetof(qe_plan_bytes, board), 32);
    image->board[32] = 0;
    uint64_t need = qe_session_size(&image->config, &image->plan);
    return need && need == image->plan_arena_bytes ? QE_OK : QE_ERR_IMAGE;
}

uint32_t qe_image_tensor_count(const qe_image *image)
{
    return qe_tensor_index(&image->config, image->config.layers, QE_ATTN_NORM);
}

qe_tensor qe_image_tensor(const qe_image *image, uint32_t index)
{
    const uint8_t *e = image->tensors + (size_t)index * TENSOR_BYTES;
    return (qe_tensor){.data = image->base + QE_U64(e, qe_tensor_entry, offset),
                       .kind = QE_U32(e, qe_tensor_entry, kind),
                       .layer = QE_U32(e, qe_tensor_entry, layer),
                       .type = QE_U32(e, qe_tensor_entry, type),
                       .layout = QE_U32(e, qe_tensor_entry, layout),
                       .rows = QE_U32(e, qe_tensor_entry, rows),
                       .columns = QE_U32(e, qe_tensor_entry, columns),
                       .bytes = QE_U64(e, qe_tensor_entry, bytes)};
}

/* Kind, layer and shape that entry number index must have: SPEC 3.5. */
static qe_tensor expected(const qe_config *c, uint32_t index)
{
    const uint32_t first = qe_tensor_index(c, 0, QE_ATTN_NORM), q = c->heads * c->head_size,
                   kv = c->kv_heads * c->head_size, dim = c->dim, ffn = c->ffn;
    const uint32_t shapes[QE_ROLES][2] = {
        [QE_EMBED] = {c->vocab_size, dim},
        [QE_OUT_NORM] = {1, dim},
        [QE_OUTPUT] = {c->vocab_size, dim},
        [QE_ATTN_NORM] = {1, dim},
        [QE_Q] = {q, dim},
        [QE_K] = {kv, dim},
        [QE_V] = {kv, dim},
        [QE_O] = {dim, q},
        [QE_FFN_NORM] = {1, dim},
        [QE_GATE] = {ffn, dim},
        [QE_UP] = {ffn, dim},
        [QE_DOWN] = {dim, ffn},
    };
    qe_tensor t = {.kind = index, .layer = 0};
    if (index >= first) {
        t.kind = QE_ATTN_NORM + (index - first) % QE_LAYER_ROLES;
        t.layer = (index - first) / QE_LAYER_ROLES;
    }
    t.rows = shapes[t.kind][0];
    t.columns = shapes[t.kind][1];
    return t;
}

static int read_tensors(qe_image *image)
{
    uint64_t bytes, weight_bytes;
    const uint8_t *p = qe_image_section(image, QE_SECTION_TENSORS, &bytes);
    const uint8_t *w = qe_image_section(image, QE_SECTION_WEIGHTS, &weight_bytes);
    const uint32_t count = qe_image_tensor_count(image);
    if (!p || !w || bytes < sizeof(qe_tensor_table) ||
        QE_U32(p, qe_tensor_table, count) != count ||
        QE_U32(p, qe_tensor_table, entry_bytes) != TENSOR_BYTES ||
        bytes - sizeof(qe_tensor_table) < (uint64_t)count * TENSOR_BYTES)
        return QE_ERR_IMAGE;
    const uint64_t start = (uint64_t)(w - image->base), end = start + weight_bytes;
    image->tensors = p + sizeof(qe_tensor_table);
    for (uint32_t i = 0; i < count; i++) {
        const uint64_t offset =
            QE_U64(image->tensors + (size_t)i * TENSOR_BYTES, qe_tensor_entry, offset);
        const qe_tensor want = expected(&image->config, i);
        if (offset % 64 || offset < start || offset > end)
            return QE_ERR_IMAGE;
        const qe_tensor t = qe_image_tensor(image, i);
        if (t.kind != want.kind || t.layer != want.layer || t.rows != want.rows ||
            t.columns != want.columns || !t.bytes ||
            t.bytes != qe_tensor_bytes(t.type, t.layout, t.rows, t.columns) ||
            !inside(offset, t.bytes, end))
            return QE_ERR_IMAGE;
        const int is_norm =
            want.kind == QE_OUT_NORM || want.kind == QE_ATTN_NORM || want.kind == QE_FFN_NORM;
        if (is_norm && t.type != QE_F32)
            return QE_ERR_IMAGE;
    }
    return QE_OK;
}

int qe_image_golden(const qe_image *image, qe_golden *golden)
{
    uint64_t bytes;
    const uint8_t *p = qe_image_section(image, QE_SECTION_GOLDEN, &bytes);
    if (!p || bytes < sizeof(qe_golden_bytes) || bytes > 1u << 20)
        return QE_ERR_IMAGE;
    const uint32_t most = (uint32_t)(bytes - sizeof(qe_golden_bytes)) / 4,
                   prompt = QE_U32(p, qe_golden_bytes, prompt_count),
                   expected = QE_U32(p, qe_golden_bytes, expected_count);
    if (!prompt || !expected || prompt > most || expected > most - prompt)
        return QE_ERR_IMAGE;
    const uint32_t *ids = (const uint32_t *)(const void *)(p + sizeof(qe_golden_bytes));
    for (uint32_t i = 0; i < prompt + expected; i++)
        if (ids[i] >= image->config.vocab_size)
            return QE_ERR_IMAGE;
    *golden = (qe_golden){.prompt = ids,
                          .expected = ids + prompt,
                          .prompt_count = prompt,
                          .expected_count = expected,
                          .digest = p + offsetof(qe_golden_bytes, digest)};
    return QE_OK;
}

int qe_image_open(qe_image *image, const void *base, uint64_t bytes)
{
    const uint16_t probe = 1;
    memset(image, 0, sizeof *image);
    if ((uintptr_t)base % 64 || *(const uint8_t *)&probe != 1)
        return QE_ERR_USAGE;
    image->base = base;
    image->bytes = bytes;
    int error = check_frame(image);
    if (!error)
        error = read_config(image);
    if (!error)
        error = read_plan(image);
    if (!error)
        error = read_tensors(image);
    if (error)
        return error;

    uint64_t size;
    const uint8_t *p = qe_image_section(image, QE_SECTION_ROPE, &size);
    const uint64_t row = (uint64_t)image->config.head_size * 4;
    if (!p || size % row || size / row > 1u << 24)
        return QE_ERR_IMAGE;
    image->rope = (const float *)(const void *)p;
    image->rope_context = (uint32_t)(size / row);
    if (image->plan.context > image->rope_context)
        return QE_ERR_IMAGE;
    p = qe_image_section(image, QE_SECTION_VOCAB, &size);
    if (!p || size > SIZE_MAX)
        return QE_ERR_IMAGE;
    error = qe_vocab_open(&image->vocab, p, (size_t)size);
    if (!error && qe_vocab_token_count(&image->vocab) != image->config.vocab_size)
        error = QE_ERR_IMAGE;
    return error;
}
