/* image_use.c - what opens is used: tokens decoded, texts encoded, tokens evaluated by two sets
 * of kernels, which must agree. */
#include <stdlib.h>

#include "host/host.h"
#include "image_fuzz.h"

#define ARENA_LIMIT (64ull << 20)
#define WORK_LIMIT (32ull << 20) /* weights read by one evaluation */

void decode_some(const qe_image *image)
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

void encode_some(const qe_image *image)
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
static void run_backwards(void *self, const qe_step *steps, uint32_t count)
{
    const uint32_t threads = *(const uint32_t *)self;
    for (uint32_t i = 0; i < count; i++)
        for (uint32_t chunk = steps[i].chunks; chunk--;)
            steps[i].task(steps[i].argument, chunk, chunk % threads);
}

static void sample_some(qe_session *session, int finite)
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
        if (!finite || (token < 0 && sampler.repeat_penalty != 1.0f)) {
            finite = 0; /* a penalty stays */
            require(token == QE_ERR_NUMERIC, "a sample of logits that are not finite");
            continue;
        }
        require(token >= 0 && (uint32_t)token < session->image->config.vocab_size,
                "a sample is not a token");
    }
    qe_sampler sampler = wrong;
    require(qe_session_sample(session, &sampler) == QE_ERR_USAGE, "a wrong sampler was taken");
}

/* Evaluates the tokens; leaves the logits in `logits`, exactly vocab_size of them. */
static int evaluate(const qe_image *image, const void *kernels, uint32_t batch,
                    uint32_t threads, uint32_t kv, const uint32_t *tokens, uint32_t count,
                    int backwards, int all, float *logits)
{
    const qe_workers workers = {&threads, threads, run_backwards};
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
    sample_some(&session, result == QE_OK);
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

void evaluate_some(const qe_image *image)
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
