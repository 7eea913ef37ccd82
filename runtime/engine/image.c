/* image.c - opens an image in place and proves every bound before anything is used (SPEC 3).
 * The only reader of the format; it never touches a weight. */
#include "kernels/kernels.h"

enum { HEADER_BYTES = 128, ENTRY_BYTES = 32, TENSOR_BYTES = 40, MAX_SECTIONS = 64 };

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
    return qe_load64(image->base + 48);
}

int32_t qe_image_verify(const qe_image *image, uint32_t first, uint32_t count)
{
    const uint64_t end = tree_offset(image), leaf = qe_load32(image->base + 44);
    const uint32_t leaves = qe_load32(image->base + 56);
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
    const uint8_t *entry = image->base + qe_load64(image->base + 32);
    for (uint32_t n = qe_load32(image->base + 24); n; n--, entry += ENTRY_BYTES) {
        if (qe_load32(entry) == type) {
            *bytes = qe_load64(entry + 16);
            return image->base + qe_load64(entry + 8);
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
    const uint64_t checked = qe_load64(h + 64);
    return checked > bytes ? 0 : checked < HEADER_BYTES ? HEADER_BYTES : checked;
}

/* Header, section table and the leaves that cover what is small. */
static int check_frame(qe_image *image)
{
    const uint8_t *h = image->base;
    if (image->bytes < HEADER_BYTES || memcmp(h, "QEDGEIMG", 8) != 0)
        return QE_ERR_IMAGE;
    if (qe_load32(h + 8) != QE_VERSION)
        return QE_ERR_VERSION;
    const uint64_t bytes = qe_load64(h + 16), table = qe_load64(h + 32),
                   tree = qe_load64(h + 48), checked = qe_load64(h + 64);
    const uint32_t sections = qe_load32(h + 24), leaf = qe_load32(h + 44),
                   leaves = qe_load32(h + 56);
    if (qe_load32(h + 12) != HEADER_BYTES || bytes > image->bytes ||
        bytes < HEADER_BYTES + 64 || !power_of_two(qe_load32(h + 40), 64, 1u << 20) ||
        !power_of_two(leaf, 256, 1u << 20))
        return QE_ERR_IMAGE;
    if (tree >= bytes || tree % 4 || !leaves || (tree + leaf - 1) / leaf != leaves ||
        bytes - tree != 32ull * leaves + 32)
        return QE_ERR_IMAGE;
    if (sections > MAX_SECTIONS || qe_load32(h + 28) != ENTRY_BYTES || table % 8 ||
        !inside(table, (uint64_t)sections * ENTRY_BYTES, tree) || checked > tree ||
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
        const uint64_t offset = qe_load64(entry + 8);
        const uint32_t type = qe_load32(entry);
        const int bulk = type == QE_SECTION_ROPE || type == QE_SECTION_WEIGHTS;
        if (offset % 64 || !inside(offset, qe_load64(entry + 16), tree))
            return QE_ERR_IMAGE;
        if (type <= QE_SECTION_PROVENANCE && !bulk &&
            !inside(offset, qe_load64(entry + 16), checked))
            return QE_ERR_IMAGE;
    }
    return QE_OK;
}

static int read_config(qe_image *image)
{
    uint64_t bytes;
    const uint8_t *p = qe_image_section(image, QE_SECTION_CONFIG, &bytes);
    qe_config *c = &image->config;
    if (!p || bytes < 64 || qe_load32(p) != 64)
        return QE_ERR_IMAGE;
    uint32_t *fields[] = {&c->dim,       &c->layers, &c->heads,      &c->kv_heads,
                          &c->head_size, &c->ffn,    &c->vocab_size, &c->trained_context};
    for (uint32_t i = 0; i < 8; i++)
        *fields[i] = qe_load32(p + 4 + 4 * i);
    c->norm_eps = qe_float(qe_load32(p + 36));
    c->tied = qe_load32(p + 40);
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
    if (!p || bytes < 128 || qe_load32(p) != 128)
        return QE_ERR_IMAGE;
    image->plan.context = qe_load32(p + 4);
    image->plan.batch = qe_load32(p + 8);
    image->plan.threads = qe_load32(p + 12);
    image->plan.kv = qe_load32(p + 16);
    image->plan_arena_bytes = qe_load64(p + 24);
    memcpy(image->board, p + 32, 32);
    image->board[32] = 0;
    uint64_t need = qe_session_size(&image->config, &image->plan);
    return need && need == image->plan_arena_bytes ? QE_OK : QE_ERR_IMAGE;
}

uint32_t qe_image_tensor_count(const qe_image *image)
{
    return 2 + !image->config.tied + 9 * image->config.layers;
}

qe_tensor qe_image_tensor(const qe_image *image, uint32_t index)
{
    const uint8_t *e = image->tensors + (size_t)index * TENSOR_BYTES;
    return (qe_tensor){.data = image->base + qe_load64(e + 24),
                       .kind = qe_load32(e),
                       .layer = qe_load32(e + 4),
                       .type = qe_load32(e + 8),
                       .layout = qe_load32(e + 12),
                       .rows = qe_load32(e + 16),
                       .columns = qe_load32(e + 20),
                       .bytes = qe_load64(e + 32)};
}

/* Kind, layer and shape that entry number index must have: SPEC 3.5. */
static qe_tensor expected(const qe_config *c, uint32_t index)
{
    const uint32_t first = 3 - c->tied, q = c->heads * c->head_size,
                   kv = c->kv_heads * c->head_size;
    const uint32_t dim = c->dim, ffn = c->ffn;
    const uint32_t shapes[12][2] = {{c->vocab_size, dim},
                                    {1, dim},
                                    {c->vocab_size, dim},
                                    {1, dim},
                                    {q, dim},
                                    {kv, dim},
                                    {kv, dim},
                                    {dim, q},
                                    {1, dim},
                                    {ffn, dim},
                                    {ffn, dim},
                                    {dim, ffn}};
    qe_tensor t = {.kind = index, .layer = 0};
    if (index >= first) {
        t.kind = 3 + (index - first) % 9;
        t.layer = (index - first) / 9;
    }
    t.rows = shapes[t.kind][0];
    t.columns = shapes[t.kind][1];
    return t;
}

static uint64_t tensor_bytes(const qe_tensor *t)
{
    const uint64_t columns = qe_ceil(t->columns, 32);
    const uint32_t R = t->layout & 255u, group = t->layout >> 8;
    switch (t->type) {
    case QE_F32: return t->layout == QE_LAYOUT_PLAIN ? t->rows * columns * 4 : 0;
    case QE_F16: return t->layout == QE_LAYOUT_PLAIN ? t->rows * columns * 2 : 0;
    case QE_Q4_0:
    case QE_Q8_0:
        if (!power_of_two(R, 1, 16) || R == 2 || (group != 4 && group != 8))
            return 0;
        return qe_ceil(t->rows, R) / R * (columns / 32) * qe_tile_bytes(t->type, R);
    }
    return 0;
}

static int read_tensors(qe_image *image)
{
    uint64_t bytes, weight_bytes;
    const uint8_t *p = qe_image_section(image, QE_SECTION_TENSORS, &bytes);
    const uint8_t *w = qe_image_section(image, QE_SECTION_WEIGHTS, &weight_bytes);
    const uint32_t count = qe_image_tensor_count(image);
    if (!p || !w || bytes < 8 || qe_load32(p) != count || qe_load32(p + 4) != TENSOR_BYTES ||
        bytes - 8 < (uint64_t)count * TENSOR_BYTES)
        return QE_ERR_IMAGE;
    const uint64_t start = (uint64_t)(w - image->base), end = start + weight_bytes;
    image->tensors = p + 8;
    for (uint32_t i = 0; i < count; i++) {
        const uint64_t offset = qe_load64(image->tensors + (size_t)i * TENSOR_BYTES + 24);
        const qe_tensor want = expected(&image->config, i);
        if (offset % 64 || offset < start || offset > end)
            return QE_ERR_IMAGE;
        const qe_tensor t = qe_image_tensor(image, i);
        if (t.kind != want.kind || t.layer != want.layer || t.rows != want.rows ||
            t.columns != want.columns || !t.bytes || t.bytes != tensor_bytes(&t) ||
            !inside(offset, t.bytes, end))
            return QE_ERR_IMAGE;
        if (t.rows == 1 && want.kind != 0 && want.kind != 2 && t.type != QE_F32 &&
            (want.kind == 1 || want.kind == 3 || want.kind == 8))
            return QE_ERR_IMAGE; /* norms are f32 */
    }
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
