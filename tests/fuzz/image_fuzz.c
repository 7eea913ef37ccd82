/* image_fuzz.c - mutates an image, renews its hashes so that the damage reaches the tables, the
 * tokenizer and the forward pass, and uses whatever still opens. Built with ASan and UBSan; the
 * image, the arena and every buffer end where their memory ends. Any kernel set must agree with
 * portable on any bytes.
 *
 *   image_fuzz IMAGE FIRST_SEED COUNT
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "engine/kernels/kernels.h"
#include "host/host.h"

enum { HEADER = 128, ENTRY = 32, TENSOR = 40, TOKENS = 24, CASE_SECONDS = 20 };
#define ARENA_LIMIT (64ull << 20)
#define WORK_LIMIT (32ull << 20) /* weights read by one evaluation */

/* Read by the sanitizers: end in abort(), where the seed is named. */
const char *__asan_default_options(void);
const char *__ubsan_default_options(void);

const char *__asan_default_options(void)
{
    return "abort_on_error=1:handle_abort=0";
}

const char *__ubsan_default_options(void)
{
    return "abort_on_error=1:print_stacktrace=1";
}

static const uint8_t *whole; /* the undamaged image */
static uint64_t whole_bytes;
static uint64_t seed, state;
static unsigned long opened, encoded, evaluated, refused, compared;

static void name_the_seed(int number)
{
    fprintf(stderr, "image_fuzz: %s at seed %llu\n", number == SIGALRM ? "too slow" : "failed",
            (unsigned long long)seed);
    _exit(3);
}

static void require(int holds, const char *what)
{
    if (holds)
        return;
    fprintf(stderr, "image_fuzz: %s\n", what);
    abort();
}

static uint64_t draw(void) /* splitmix64 */
{
    uint64_t z = state += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

static uint64_t below(uint64_t n)
{
    return draw() % n;
}

static int chance(unsigned percent)
{
    return below(100) < percent;
}

/* Memory that ends exactly where it should: the next byte is ASan's. */
static void *exactly(size_t bytes)
{
    void *p = NULL;
    require(posix_memalign(&p, 64, bytes ? bytes : 1) == 0, "no memory");
    return p;
}

static void put32(uint8_t *p, uint32_t v)
{
    memcpy(p, &v, 4);
}

static void put64(uint8_t *p, uint64_t v)
{
    memcpy(p, &v, 8);
}

/* Where a section of the undamaged image lies. */
static uint64_t place(uint32_t type, uint64_t *bytes)
{
    const uint8_t *entry = whole + qe_load64(whole + 32);
    for (uint32_t n = qe_load32(whole + 24); n; n--, entry += ENTRY) {
        if (qe_load32(entry) == type) {
            *bytes = qe_load64(entry + 16);
            return qe_load64(entry + 8);
        }
    }
    *bytes = 0;
    return 0;
}

/* ---- damage ---- */

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

static uint64_t boundary(uint64_t was)
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

static uint64_t bytes_of(uint32_t type, uint32_t layout, uint64_t rows, uint64_t columns)
{
    const uint64_t R = layout & 255u, wide = (columns + 31) / 32;
    if (type == QE_F32 || type == QE_F16)
        return rows * wide * (type == QE_F16 ? 64 : 128);
    return R ? (rows + R - 1) / R * wide * R * (type == QE_Q4_0 ? 18 : 34) : 0;
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
        const uint32_t kind = i < first ? i : 3 + (i - first) % 9, type = qe_load32(e + 8);
        if ((type == QE_Q4_0 || type == QE_Q8_0) && chance(50)) {
            static const uint32_t rows[] = {1, 4, 8, 16};
            put32(e + 12, QE_LAYOUT(rows[below(4)], chance(50) ? 4 : 8));
        }
        put32(e + 16, shapes[kind][0]);
        put32(e + 20, shapes[kind][1]);
        put64(e + 32, bytes_of(type, qe_load32(e + 12), shapes[kind][0], shapes[kind][1]));
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

/* A damaged copy in memory of exactly its size. */
static uint8_t *damaged(uint64_t *size)
{
    uint8_t *image;
    *size = whole_bytes;
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

/* ---- use ---- */

static void decode_some(const qe_image *image)
{
    const uint32_t count = qe_vocab_token_count(&image->vocab);
    for (int i = 0; i < 40; i++) {
        const uint32_t id = i < 4 ? count - 2 + (uint32_t)i : (uint32_t)below(count);
        const size_t max = below(4) ? 64 : below(4);
        uint8_t *out = exactly(max);
        const int32_t n = qe_vocab_decode(&image->vocab, id, (int)below(2), out, max);
        require(n <= (int32_t)max, "decode wrote more than it may");
        require(id < count || n == QE_ERR_USAGE, "decode took an id that is none");
        (void)qe_vocab_is_stop(&image->vocab, id);
        free(out);
    }
}

static void encode_some(const qe_image *image)
{
    static const char *const texts[] = {
        "",
        " ",
        "a",
        "Once upon a time, in the rain",
        "<|im_start|>user\nhi<|im_end|>\n",
        "<s> </s><unk>",
        "\xE6\xBC\xA2\xE5\xAD\x97 \xF0\x9F\x98\x80 \xC3\xA9",
        "1234567 8\t\r\n\n  x'll don't  ",
        "\xFF\xFE",
        "\xE2\x96\x81\xE2\x96\x81the",
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"};
    for (int i = 0; i < 5; i++) {
        char noise[96];
        const char *from = texts[below(sizeof texts / sizeof texts[0])];
        size_t bytes = strlen(from);
        if (chance(40)) {
            bytes = below(sizeof noise);
            for (size_t j = 0; j < bytes; j++)
                noise[j] =
                    (char)(chance(90) ? " etaoinsrthe<|_>\n19"[below(19)] : (char)draw());
            from = noise;
        }
        uint8_t *text = exactly(bytes);
        memcpy(text, from, bytes);
        /* by a folder's rules, and damaged ones ask for much, what is enough is not all needed
         */
        const int is_exact = image->vocab.raw.entries == NULL;
        const size_t asked = qe_vocab_scratch_bytes(&image->vocab, bytes), most = bytes + 4;
        const size_t need = is_exact || asked < 1 << 20 ? asked : 1 << 20;
        uint8_t *scratch = exactly(need);
        uint32_t *ids = exactly(most * 4);
        const uint32_t flags = (uint32_t)below(8);
        const int32_t n =
            qe_vocab_encode(&image->vocab, text, bytes, flags, ids, most, scratch, need);
        require(n <= (int32_t)most, "encode wrote more than it may");
        for (int32_t j = 0; j < n; j++)
            require(ids[j] < qe_vocab_token_count(&image->vocab),
                    "encode gave an id that is none");
        require(!is_exact || qe_vocab_encode(&image->vocab, text, bytes, flags, ids, most,
                                             scratch, need - 1) == QE_ERR_SPACE,
                "encode took less scratch than it needs");
        encoded += n >= 0;
        free(ids);
        free(scratch);
        free(text);
    }
}

/* Chunks from the last to the first, on workers in turn: neither may matter. */
static void run_backwards(void *self, void (*task)(void *, uint32_t, uint32_t), void *argument,
                          uint32_t chunks)
{
    const uint32_t threads = *(const uint32_t *)self;
    for (uint32_t chunk = chunks; chunk--;)
        task(argument, chunk, chunk % threads);
}

static void sample_some(qe_session *session)
{
    const qe_sampler samplers[] = {{0.0f, 0, 1.0f, 0.0f, 1.0f, 1},
                                   {1.0f, 0, 1.0f, 0.0f, 1.0f, seed},
                                   {0.7f, 5, 0.9f, 0.05f, 1.1f, seed},
                                   {1e6f, 1, 0.0f, 1.0f, 1e6f, seed},
                                   {1e-6f, 1u << 30, 0.5f, 0.0f, 1e-6f, 0}};
    const qe_sampler wrong = {-1.0f, 0, 1.0f, 0.0f, 1.0f, 0};
    const uint32_t first = (uint32_t)below(5);
    for (uint32_t i = 0; i < 3; i++) {
        qe_sampler sampler = samplers[(first + i) % 5];
        const int32_t token = qe_session_sample(session, &sampler);
        require(token >= 0 && (uint32_t)token < session->image->config.vocab_size,
                "a sample is no token");
    }
    qe_sampler sampler = wrong;
    require(qe_session_sample(session, &sampler) == QE_ERR_USAGE, "a wrong sampler was taken");
}

/* Evaluates the tokens; leaves the logits in `logits`, exactly vocab_size of them. */
static int evaluate(const qe_image *image, const void *kernels, uint32_t batch,
                    uint32_t threads, uint32_t kv, const uint32_t *tokens, uint32_t count,
                    int backwards, int all, float *logits)
{
    const qe_workers workers = {&threads, run_backwards};
    const uint32_t vocab = image->config.vocab_size, spare = (uint32_t)below(3);
    qe_session_options options = {count + spare, batch, threads, kv};
    if (options.context > image->rope_context)
        options.context = image->rope_context;
    const uint64_t need = qe_session_size(&image->config, &options);
    qe_session session;
    if (!need || need > ARENA_LIMIT)
        return QE_ERR_USAGE;
    uint8_t *arena = exactly((size_t)need);
    memset(arena, chance(50) ? 0xFF : 0x7B,
           (size_t)need); /* nothing may depend on what was there */
    require(qe_session_init(&session, image, &options, kernels, NULL, arena, need - 1) ==
                QE_ERR_ARENA,
            "init took one byte less");
    require(qe_session_init(&session, image, &options, kernels, backwards ? &workers : NULL,
                            arena, need) == QE_OK,
            "init refused what size said");
    const size_t stride = qe_ceil(vocab, 32);
    float *rows = all ? exactly(count * stride * 4) : NULL;
    int result;
    if (all || chance(50)) {
        result = qe_session_eval(&session, tokens, count, rows);
    } else { /* in two parts */
        const uint32_t part = (count + 1) / 2;
        result = qe_session_eval(&session, tokens, part, NULL);
        if (count > part && (result == QE_OK || result == QE_ERR_NUMERIC))
            result = qe_session_eval(&session, tokens + part, count - part, NULL);
    }
    require(result == QE_OK || result == QE_ERR_NUMERIC, "eval failed on good tokens");
    memcpy(logits, qe_session_logits(&session), (size_t)vocab * 4);
    if (all)
        require(memcmp(logits, rows + (count - 1) * stride, (size_t)vocab * 4) == 0,
                "rows differ");
    sample_some(&session);
    const uint32_t none = vocab;
    require(qe_session_eval(&session, &none, 1, NULL) < 0, "eval took an id that is none");
    if (session.position == options.context)
        require(qe_session_eval(&session, tokens, 1, NULL) == QE_ERR_CONTEXT,
                "the context overflowed");
    require(qe_session_rewind(&session, 0) == QE_OK, "rewind");
    free(rows);
    free(arena);
    evaluated++;
    return result;
}

static void evaluate_some(const qe_image *image)
{
    static const uint32_t kinds[] = {QE_KV_F32, QE_KV_F16, QE_KV_Q8_0};
    const uint32_t vocab = image->config.vocab_size, features = qe_host_features();
    uint64_t weights = 0;
    for (uint32_t i = 0; i < qe_image_tensor_count(image); i++)
        weights += qe_image_tensor(image, i).bytes;
    uint32_t tokens[TOKENS], count = 1 + (uint32_t)below(chance(20) ? TOKENS : 6);
    if (weights > WORK_LIMIT || !image->rope_context)
        return;
    while (count > 1 && weights * count > WORK_LIMIT)
        count /= 2;
    if (count > image->rope_context)
        count = image->rope_context;
    for (uint32_t i = 0; i < count; i++)
        tokens[i] = (uint32_t)below(vocab);
    const uint32_t kv = chance(40) ? image->plan.kv : kinds[below(3)];
    const char *names[8];
    uint32_t sets = 0;
    int usable;
    for (const char *name; sets < 8 && (name = qe_kernels_list(sets, ~0u, &usable)) != NULL;)
        names[sets++] = name;
    const void *other = qe_kernels_find(names[seed % sets], features);
    if (!other)
        other = qe_kernels_find(NULL, features);
    float *a = exactly((size_t)vocab * 4), *b = exactly((size_t)vocab * 4);
    const int one =
        evaluate(image, qe_kernels_find("portable", 0), 1, 1, kv, tokens, count, 0, 0, a);
    const int two = evaluate(image, other, 1 + (uint32_t)below(9), 1 + (uint32_t)below(4), kv,
                             tokens, count, chance(70), chance(30), b);
    require(one == two, "two kernel sets do not agree on whether the logits are finite");
    if (one == QE_OK) {
        require(memcmp(a, b, (size_t)vocab * 4) == 0, "two kernel sets give different logits");
        compared++;
    }
    free(a);
    free(b);
}

static void run_case(void)
{
    uint64_t size;
    qe_image image;
    state = seed * 0xD1B54A32D192ED03u + 1;
    uint8_t *bytes = damaged(&size);
    const int error = qe_image_open(&image, bytes, size);
    if (error) {
        refused++;
        require(error >= QE_ERR_KERNELS && error < 0, "an error that is none");
        free(bytes);
        return;
    }
    opened++;
    for (uint32_t at = 0;;) {
        const int32_t n = qe_image_verify(&image, at, 3);
        if (n <= 0)
            break;
        at += (uint32_t)n;
    }
    for (uint32_t type = 0; type < 12; type++) {
        uint64_t n, sum = 0;
        const uint8_t *p = qe_image_section(&image, type, &n);
        for (uint64_t i = 0; p && i < n; i += 61)
            sum += p[i];
        require(sum < UINT64_MAX, "sum");
    }
    decode_some(&image);
    encode_some(&image);
    evaluate_some(&image);
    free(bytes);
}

int main(int count, char **arguments)
{
    if (count != 4) {
        fprintf(stderr, "usage: image_fuzz IMAGE FIRST_SEED COUNT\n");
        return 2;
    }
    if (qe_host_map(arguments[1], &whole, &whole_bytes) != 0) {
        fprintf(stderr, "image_fuzz: cannot read %s\n", arguments[1]);
        return 2;
    }
    const uint64_t first = strtoull(arguments[2], NULL, 10),
                   cases = strtoull(arguments[3], NULL, 10);
    signal(SIGABRT, name_the_seed);
    signal(SIGALRM, name_the_seed);
    qe_host_float_enter();
    for (seed = first; seed < first + cases; seed++) {
        alarm(CASE_SECONDS);
        run_case();
    }
    alarm(0);
    printf("{\"cases\": %llu, \"refused\": %lu, \"opened\": %lu, \"encoded\": %lu, "
           "\"evaluated\": %lu, "
           "\"compared\": %lu}\n",
           (unsigned long long)cases, refused, opened, encoded, evaluated, compared);
    qe_host_unmap(whole, whole_bytes);
    return 0;
}
