/* image_damage.c - damaged copies of an image: bytes anywhere, other shapes of its tensors, its
 * end cut off; with hashes and plan renewed, mostly, as a builder would have written them. */
#include <stdlib.h>

#include "image_fuzz.h"

static void region(uint64_t *start, uint64_t *bytes)
{
    static const uint32_t sections[] = {
        QE_SECTION_CONFIG,  QE_SECTION_PLAN,  QE_SECTION_TENSORS, QE_SECTION_VOCAB,
        QE_SECTION_VOCAB,   QE_SECTION_VOCAB, QE_SECTION_ROPE,    QE_SECTION_WEIGHTS,
        QE_SECTION_WEIGHTS, QE_SECTION_GOLDEN};
    const uint64_t kind = below(13);
    if (kind == 0) {
        *start = 0;
        *bytes = HEADER;
    } else if (kind == 1) {
        *start = qe_load64(whole + 32);
        *bytes = (uint64_t)qe_load32(whole + 24) * ENTRY;
    } else if (kind == 2) { /* the vocabulary's header */
        *start = place(QE_SECTION_VOCAB, bytes);
        *bytes = *bytes < 128 ? *bytes : 128;
    } else {
        *start = place(sections[kind - 3], bytes);
    }
    if (!*bytes) {
        *start = 0;
        *bytes = whole_bytes;
    }
}

uint64_t boundary(uint64_t was)
{
    static const uint64_t values[] = {0,
                                      1,
                                      2,
                                      3,
                                      4,
                                      31,
                                      32,
                                      33,
                                      63,
                                      64,
                                      127,
                                      128,
                                      255,
                                      256,
                                      512,
                                      0x7FFF,
                                      0x8000,
                                      0xFFFF,
                                      0x10000,
                                      0x10001,
                                      1u << 20,
                                      1u << 24,
                                      0x7C00,
                                      0x7E00,
                                      0xFC00,
                                      0x7F800000,
                                      0x7FC00000,
                                      0xFF800000,
                                      0x7F7FFFFF,
                                      1,
                                      0x80000000,
                                      0x7FFFFFFF,
                                      0xFFFFFFFF,
                                      0xFFFFFFFE,
                                      0x100000000,
                                      0x7FFFFFFFFFFFFFFF,
                                      0x8000000000000000,
                                      0xFFFFFFFFFFFFFFFF,
                                      0xFFFFFFFFFFFFFFC0,
                                      0xFFFFFFFFFFFFFFE0};
    switch (below(8)) {
    case 0: return was + 1;
    case 1: return was - 1;
    case 2: return was * 2;
    case 3: return whole_bytes + below(3) * 32 - 32;
    case 4: return was + 64 * (below(5) - 2);
    case 5: return below(1024);
    default: return values[below(sizeof values / sizeof values[0])];
    }
}

static void damage_bytes(uint8_t *image, uint64_t size)
{
    uint64_t start, bytes, at;
    region(&start, &bytes);
    if (start + bytes > size)
        return;
    at = start + below(bytes);
    const uint64_t left = start + bytes - at;
    switch (below(6)) {
    case 0: image[at] ^= (uint8_t)(1u << below(8)); return;
    case 1: image[at] = (uint8_t)draw(); return;
    case 2:
        if (left >= 2)
            qe_store16(image + at, (uint16_t)boundary(qe_load16(image + at)));
        return;
    case 3:
        at = at / 4 * 4;
        if (start + bytes - at >= 4)
            put32(image + at, (uint32_t)boundary(qe_load32(image + at)));
        return;
    case 4:
        at = at / 8 * 8;
        if (start + bytes - at >= 8)
            put64(image + at, boundary(qe_load64(image + at)));
        return;
    default: {
        uint64_t count = 1 + below(left < 64 ? left : 64), from = start + below(bytes);
        if (from + count <= start + bytes)
            memmove(image + at, image + from, (size_t)count);
    }
    }
}

static int config_is_sane(const uint8_t *c)
{
    const uint32_t heads = qe_load32(c + 12), kv = qe_load32(c + 16), head = qe_load32(c + 20);
    return qe_load32(c + 4) - 1 < 65536 && qe_load32(c + 8) - 1 < 512 && heads - 1 < 1024 &&
           kv - 1 < 1024 && heads % kv == 0 && heads / kv <= QE_MAX_GROUP &&
           head - 1 < QE_MAX_HEAD && heads * head <= 65536 && qe_load32(c + 24) - 1 < 65536 &&
           qe_load32(c + 28) <= 1u << 20;
}

/* Another shape that the same bytes can have: odd sizes that no builder would choose. The
 * tensor table, the plan and the vocabulary's count follow. */
static void reshape(uint8_t *image)
{
    uint64_t size;
    uint8_t *c = image + place(QE_SECTION_CONFIG, &size),
            *plan = image + place(QE_SECTION_PLAN, &size);
    uint8_t *table = image + place(QE_SECTION_TENSORS, &size);
    uint8_t *vocab = image + place(QE_SECTION_VOCAB, &size);
    uint32_t dim = qe_load32(c + 4), heads = qe_load32(c + 12), kv = qe_load32(c + 16),
             head = qe_load32(c + 20), ffn = qe_load32(c + 24), words = qe_load32(c + 28);
    if (chance(50))
        dim = 1 + (uint32_t)below(dim);
    if (chance(50))
        ffn = 1 + (uint32_t)below(ffn);
    if (chance(30))
        words = 1 + (uint32_t)below(words);
    switch (below(4)) {
    case 0: /* fewer heads of more values */
        if (heads % 2 == 0 && kv % 2 == 0)
            heads /= 2, kv /= 2, head *= 2;
        break;
    case 1:
        if (head % 8 == 0)
            heads *= 2, kv *= 2, head /= 2;
        break;
    case 2: kv = 1; break;
    default: break;
    }
    const uint32_t values[] = {dim, qe_load32(c + 8), heads, kv, head, ffn, words};
    for (int i = 0; i < 7; i++)
        put32(c + 4 + 4 * i, values[i]);
    put32(vocab + 28, words);
    if (chance(80))
        put32(plan + 4, 1 + (uint32_t)below(16));
    const uint32_t first = 3 - qe_load32(c + 40), count = qe_load32(table);
    const uint32_t q = heads * head, k = kv * head;
    const uint32_t shapes[12][2] = {{words, dim}, {1, dim},   {words, dim}, {1, dim},
                                    {q, dim},     {k, dim},   {k, dim},     {dim, q},
                                    {1, dim},     {ffn, dim}, {ffn, dim},   {dim, ffn}};
    for (uint32_t i = 0; i < count; i++) {
        uint8_t *e = table + 8 + (uint64_t)i * TENSOR;
        const uint32_t kind = i < first ? i : 3 + (i - first) % 9;
        uint32_t type = qe_load32(e + 8);
        if (qe_format_of(type) && chance(50)) {
            static const uint32_t rows[] = {1, 4, 16};
            put32(e + 12, rows[below(3)]);
        }
        if (qe_format_of(type) && chance(30)) { /* any other type of no more bytes */
            const uint32_t other = (uint32_t)below(QE_A6 + 1);
            const uint64_t size =
                qe_tensor_bytes(other, qe_load32(e + 12), shapes[kind][0], shapes[kind][1]);
            if (size && size <= qe_load64(e + 32))
                put32(e + 8, type = other);
        }
        put32(e + 16, shapes[kind][0]);
        put32(e + 20, shapes[kind][1]);
        put64(e + 32,
              qe_tensor_bytes(type, qe_load32(e + 12), shapes[kind][0], shapes[kind][1]));
    }
}

/* What a builder would have written for the damaged configuration. */
static void repair_plan(uint8_t *image, uint64_t size)
{
    uint64_t bytes;
    const uint64_t c = place(QE_SECTION_CONFIG, &bytes), p = place(QE_SECTION_PLAN, &bytes);
    if (c + 64 > size || p + 128 > size || !config_is_sane(image + c))
        return;
    const qe_config config = {.dim = qe_load32(image + c + 4),
                              .layers = qe_load32(image + c + 8),
                              .heads = qe_load32(image + c + 12),
                              .kv_heads = qe_load32(image + c + 16),
                              .head_size = qe_load32(image + c + 20),
                              .ffn = qe_load32(image + c + 24),
                              .vocab_size = qe_load32(image + c + 28)};
    const qe_session_options options = {qe_load32(image + p + 4), qe_load32(image + p + 8),
                                        qe_load32(image + p + 12), qe_load32(image + p + 16)};
    put64(image + p + 24, qe_session_size(&config, &options));
}

static void hash_of(const uint8_t *data, uint64_t bytes, uint8_t *out)
{
    qe_sha256 hash;
    qe_sha256_init(&hash);
    qe_sha256_update(&hash, data, (size_t)bytes);
    qe_sha256_digest(&hash, out);
}

static void renew_hashes(uint8_t *image, uint64_t size)
{
    if (size < HEADER)
        return;
    const uint64_t tree = qe_load64(image + 48), leaf = qe_load32(image + 44),
                   leaves = qe_load32(image + 56);
    if (!leaf || leaves > size / 32 || tree > size || leaves * 32 + 32 > size - tree ||
        (leaves && (leaves - 1) * leaf >= tree))
        return;
    for (uint64_t i = 0; i < leaves; i++)
        hash_of(image + i * leaf, tree - i * leaf < leaf ? tree - i * leaf : leaf,
                image + tree + 32 * i);
    hash_of(image + tree, 32 * leaves, image + tree + 32 * leaves);
}

uint8_t *damaged(int only_golden, uint64_t *size)
{
    uint8_t *image;
    *size = whole_bytes;
    if (only_golden) {
        image = exactly((size_t)*size);
        memcpy(image, whole, (size_t)*size);
        damage_golden(image);
        renew_hashes(image, *size);
        return image;
    }
    if (chance(6))
        *size = below(whole_bytes + 1);
    else if (chance(2))
        *size = whole_bytes + below(200);
    image = exactly((size_t)*size);
    memset(image, 0, (size_t)*size);
    memcpy(image, whole, (size_t)(*size < whole_bytes ? *size : whole_bytes));
    const int short_of = *size < whole_bytes;
    if (!short_of && chance(40))
        reshape(image);
    if (chance(85))
        for (uint64_t n = chance(50) ? 1 : 1 + below(12); n; n--)
            damage_bytes(image, *size);
    if (!short_of && chance(10))
        damage_golden(image);
    if (short_of && *size >= HEADER && chance(70)) { /* a header that fits what is left */
        const uint64_t leaf = qe_load32(whole + 44);
        uint64_t leaves = *size > 64 ? (*size - 32) / (leaf + 32) : 0;
        const uint64_t tree = leaves * leaf;
        put64(image + 16, *size = tree + 32 * leaves + 32);
        put64(image + 48, tree);
        put32(image + 56, (uint32_t)leaves);
        if (chance(50) && qe_load64(image + 64) > tree)
            put64(image + 64, tree);
        uint8_t *smaller = exactly((size_t)*size);
        memcpy(smaller, image, (size_t)*size);
        free(image);
        image = smaller;
    }
    if (chance(85)) {
        if (chance(85))
            repair_plan(image, *size);
        renew_hashes(image, *size);
    }
    return image;
}
