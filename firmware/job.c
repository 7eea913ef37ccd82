/* job.c - see job.h. The kinds:
 *   verify    every leaf of a slot's hash tree
 *   test      the golden section of the active image
 *   activate  both of a slot's image, and its signature where the board wants one; then its
 *             record
 *   run       tokens of a prompt
 *   bench     prefill and decode, timed */
#include "job.h"

#include "link.h"
#include "model.h"
#include "port.h"
#include "signature.h"

enum { LEAVES_A_STEP = 16, TEXT_BYTES = 256 };

typedef enum { NOTHING, VERIFY, TEST, ACTIVATE, RUN, BENCH } kind;
typedef enum { LEAVES, PREFILL, DECODE } phase;

static struct {
    kind kind;
    phase phase;
    int slot;
    uint32_t counter; /* of the image's signature */
    uint32_t at, of; /* progress of the phase: leaves, or tokens */
    uint32_t prompt, limit, depth;
    uint32_t token, drawn;
    int hashing;
    uint64_t prefill_ticks, decode_ticks, first_ticks;
    qf_golden golden;
    qe_sampler sampler;
    qe_sha256 hash;
} job;

void job_cancel(void)
{
    job.kind = NOTHING;
}

static int link_error_of(int error)
{
    return error < 0 ? LINK_ENGINE - error : error;
}

static float float_of(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* ---- evaluating ---- */

static void begin_tokens(uint32_t prompt, uint32_t limit)
{
    qe_session_rewind(&model.session, 0);
    qe_sha256_init(&job.hash);
    job.phase = PREFILL;
    job.at = 0;
    job.of = job.prompt = prompt;
    job.limit = limit;
    job.drawn = 0;
    job.prefill_ticks = job.decode_ticks = job.first_ticks = 0;
}

/* The next batch of `tokens`, of which job.at are done; returns an engine error. */
static int prefill_step(const uint32_t *tokens)
{
    const uint32_t left = job.of - job.at, batch = model.session.options.batch;
    const uint32_t count = left < batch ? left : batch;
    const uint64_t began = port_ticks();
    const int error = qe_session_eval(&model.session, tokens + job.at, count, NULL);
    job.prefill_ticks += port_ticks() - began;
    job.at += count;
    if (job.at == job.of)
        job.phase = DECODE;
    return error;
}

/* Evaluates the last token that was drawn, unless it is the first, and draws the next one. */
static int decode_step(void)
{
    const uint64_t began = port_ticks();
    int error = QE_OK;
    if (job.drawn)
        error = qe_session_eval(&model.session, &job.token, 1, NULL);
    uint64_t spent = port_ticks() - began;
    if (!error && job.hashing)
        qe_sha256_update(&job.hash, qe_session_logits(&model.session),
                         (size_t)model.image.config.vocab_size * 4);
    if (!error) {
        const uint64_t again = port_ticks();
        const int32_t token = qe_session_sample(&model.session, &job.sampler);
        spent += port_ticks() - again;
        error = token < 0 ? token : QE_OK;
        job.token = (uint32_t)token;
    }
    if (job.drawn)
        job.decode_ticks += spent;
    else
        job.first_ticks = job.prefill_ticks + spent;
    job.drawn++;
    return error;
}

/* ---- golden ---- */

static int begin_golden(void)
{
    const int error = model_open(job.slot);
    if (error)
        return link_error_of(error);
    if (!model_golden(&job.golden))
        return LINK_TEST;
    begin_tokens(job.golden.prompt_count, job.golden.expected_count);
    job.hashing = 1;
    job.sampler = (qe_sampler){.top_p = 1.0f, .repeat_penalty = 1.0f};
    return LINK_OK;
}

static int golden_step(void)
{
    const int error = job.phase == PREFILL ? prefill_step(job.golden.prompt) : decode_step();
    if (error)
        return link_error_of(error);
    if (!job.drawn || (job.token == job.golden.expected[job.drawn - 1] && job.drawn < job.limit))
        return LINK_OK;
    uint8_t digest[32];
    qe_sha256_digest(&job.hash, digest);
    return job.token == job.golden.expected[job.drawn - 1] &&
                   memcmp(digest, job.golden.digest, sizeof digest) == 0
               ? LINK_OK
               : LINK_TEST;
}

static int golden_done(void)
{
    return job.phase == DECODE && job.drawn == job.limit;
}

/* ---- verify, activate ---- */

static int begin_leaves(void)
{
    qe_image image;
    const int error = model_peek(job.slot, &image);
    if (error)
        return link_error_of(error);
    if (strcmp(image.board, QF_BOARD) != 0)
        return LINK_WRONG_BOARD;
    model.slot = SLOT_NONE; /* what is open now may be of this slot, or lose its arena */
    model.image = image;
    job.phase = LEAVES;
    job.at = 0;
    job.of = (uint32_t)((image.bytes + 4095) / 4096);
    return LINK_OK;
}

/* Returns a link error; the phase ends when nothing was left to verify. */
static int leaves_step(int *ended)
{
    const int32_t count = qe_image_verify(&model.image, job.at, LEAVES_A_STEP);
    if (count < 0)
        return link_error_of(count);
    job.at += (uint32_t)count;
    *ended = count < LEAVES_A_STEP;
    if (*ended)
        job.of = job.at;
    return LINK_OK;
}

static int record_activation(void)
{
    slot_record record = {.bytes = (uint32_t)model.image.bytes, .counter = job.counter};
    memcpy(record.id, model.image.id, sizeof record.id);
    return (int)slot_activate(job.slot, &record);
}

/* ---- run, bench ---- */

/* A token of a row that is spread over the vocabulary, the same on every machine. */
static uint32_t spread(uint32_t seed, uint32_t number)
{
    return (uint32_t)((uint64_t)(uint32_t)(seed + number * 2654435761u) *
                          model.image.config.vocab_size >>
                      32);
}

static int open_active(void)
{
    job.slot = slot_active();
    if (job.slot == SLOT_NONE)
        return LINK_NO_IMAGE;
    if (model.slot == job.slot) {
        qe_session_rewind(&model.session, 0);
        return LINK_OK;
    }
    return link_error_of(model_open(job.slot));
}

static int begin_run(const uint8_t *map, uint32_t bytes)
{
    int error = open_active();
    if (error)
        return error;
    uint32_t length = 0;
    const uint8_t *text = cbor_bytes(map, bytes, "prompt", &length);
    if (!text)
        return LINK_MESSAGE;
    uint32_t seed_bytes = 0;
    const uint8_t *seed = cbor_bytes(map, bytes, "seed", &seed_bytes);
    const float one = 1.0f;
    uint32_t one_bits;
    memcpy(&one_bits, &one, sizeof one_bits);
    job.sampler = (qe_sampler){
        .temperature = float_of(cbor_uint(map, bytes, "temperature", 0)),
        .top_k = cbor_uint(map, bytes, "top_k", 0),
        .top_p = float_of(cbor_uint(map, bytes, "top_p", one_bits)),
        .min_p = float_of(cbor_uint(map, bytes, "min_p", 0)),
        .repeat_penalty = float_of(cbor_uint(map, bytes, "repeat_penalty", one_bits)),
    };
    if (seed && seed_bytes == 8)
        memcpy(&job.sampler.random, seed, 8);
    uint64_t room;
    uint8_t *scratch = qe_session_scratch(&model.session, &room);
    const uint32_t flags =
        QE_ENCODE_BOS | (cbor_uint(map, bytes, "special", 0) ? QE_ENCODE_SPECIAL : 0);
    const int32_t count =
        qe_vocab_encode(&model.image.vocab, text, length, flags,
                        qe_session_tokens(&model.session), model.session.options.context,
                        scratch, (size_t)room);
    if (count < 0)
        return link_error_of(count);
    if (!count)
        return LINK_MESSAGE;
    begin_tokens((uint32_t)count, cbor_uint(map, bytes, "max", 256));
    job.hashing = (int)cbor_uint(map, bytes, "hash", 0);
    return LINK_OK;
}

static int run_step(cbor_writer *answer, int *ended)
{
    const qe_session *s = &model.session;
    if (job.phase == PREFILL)
        return link_error_of(prefill_step(qe_session_tokens(s) - s->position));
    const int error = decode_step();
    if (error)
        return link_error_of(error);
    const char *reason = NULL;
    if (qe_vocab_is_stop(&model.image.vocab, job.token))
        reason = "stop";
    else if (job.drawn >= job.limit)
        reason = "length";
    else if (s->position >= s->options.context)
        reason = "context";
    cbor_pair_uint(answer, "token", job.token);
    if (!reason || reason[0] != 's') {
        uint8_t text[TEXT_BYTES];
        const int32_t count =
            qe_vocab_decode(&model.image.vocab, job.token, 0, text, sizeof text);
        if (count < 0)
            return link_error_of(count);
        cbor_pair_bytes(answer, "text", text, (size_t)count);
    }
    if (reason)
        cbor_pair_text(answer, "reason", reason);
    *ended = reason != NULL;
    return LINK_OK;
}

static int begin_bench(const uint8_t *map, uint32_t bytes)
{
    const int error = open_active();
    const uint32_t context = model.session.options.context;
    if (error)
        return error;
    const uint32_t prompt = cbor_uint(map, bytes, "prompt", 16);
    job.depth = cbor_uint(map, bytes, "depth", 1);
    job.limit = cbor_uint(map, bytes, "decode", 16);
    if (!prompt || !job.depth || !job.limit || prompt > context || job.depth > context ||
        job.limit > context - job.depth)
        return LINK_MESSAGE;
    begin_tokens(prompt, job.limit);
    job.hashing = 0;
    return LINK_OK;
}

/* Tokens 0 .. prompt - 1 are timed as prefill; then, behind `depth` others, `limit` tokens one
 * by one as decode. */
static int bench_step(int *ended)
{
    qe_session *s = &model.session;
    if (job.phase == PREFILL) {
        uint32_t *tokens = qe_session_tokens(s) - s->position;
        for (uint32_t i = job.at; i < job.of && i < job.at + s->options.batch; i++)
            tokens[i] = spread(1, i);
        const int error = prefill_step(tokens);
        if (job.phase == DECODE)
            qe_session_rewind(s, 0);
        return link_error_of(error);
    }
    const int behind = s->position < job.depth;
    const uint32_t token = behind ? spread(2, s->position) : spread(3, job.drawn);
    const uint64_t began = port_ticks();
    const int error = qe_session_eval(s, &token, 1, NULL);
    if (!behind) {
        job.decode_ticks += port_ticks() - began;
        job.drawn++;
    }
    *ended = job.drawn == job.limit;
    return link_error_of(error);
}

/* ---- any ---- */

int job_begin(const uint8_t *map, uint32_t bytes)
{
    static const struct {
        const char *name;
        kind kind;
    } kinds[] = {{"verify", VERIFY}, {"test", TEST}, {"activate", ACTIVATE}, {"run", RUN},
                 {"bench", BENCH}};
    kind wanted = NOTHING;
    uint32_t length = 0;
    const uint8_t *name = cbor_bytes(map, bytes, "job", &length);
    for (size_t i = 0; name && i < sizeof kinds / sizeof *kinds; i++)
        if (strlen(kinds[i].name) == length && memcmp(name, kinds[i].name, length) == 0)
            wanted = kinds[i].kind;
    job.kind = NOTHING;
    int error = LINK_MESSAGE;
    if (wanted == VERIFY || wanted == ACTIVATE) {
        const uint32_t slot = cbor_uint(map, bytes, "slot", SLOT_COUNT);
        if (slot >= SLOT_COUNT)
            return LINK_RANGE;
        job.slot = (int)slot;
        error = begin_leaves();
    } else if (wanted == TEST) {
        job.slot = slot_active();
        error = job.slot == SLOT_NONE ? LINK_NO_IMAGE : begin_golden();
    } else if (wanted == RUN) {
        error = begin_run(map, bytes);
    } else if (wanted == BENCH) {
        error = begin_bench(map, bytes);
    }
    if (!error)
        job.kind = wanted;
    return error;
}

/* One step of the job; returns a link error and tells when it is done. */
static int advance(cbor_writer *answer, int *ended)
{
    if (job.kind == RUN)
        return run_step(answer, ended);
    if (job.kind == BENCH)
        return bench_step(ended);
    if (job.phase == LEAVES) {
        int error = leaves_step(ended);
        if (!error && *ended && job.kind == ACTIVATE) {
            *ended = 0;
            error = signature_check(job.slot, &model.image, &job.counter);
            error = error ? error : begin_golden();
        }
        return error;
    }
    int error = golden_step();
    *ended = golden_done();
    if (!error && *ended && job.kind == ACTIVATE)
        error = record_activation();
    return error;
}

int job_step(cbor_writer *answer)
{
    int ended = 0;
    if (job.kind == NOTHING)
        return LINK_NO_JOB;
    const int error = advance(answer, &ended);
    if (error) {
        job.kind = NOTHING;
        return error;
    }
    cbor_pair_bool(answer, "done", ended);
    cbor_pair_uint(answer, "at", job.phase == DECODE ? job.drawn : job.at);
    cbor_pair_uint(answer, "of", job.phase == DECODE ? job.limit : job.of);
    if (ended && job.phase == DECODE) {
        cbor_pair_uint(answer, "prompt", job.prompt);
        cbor_pair_uint(answer, "prefill_ticks", job.prefill_ticks);
        cbor_pair_uint(answer, "first_ticks", job.first_ticks);
        cbor_pair_uint(answer, "decode_ticks", job.decode_ticks);
        if (job.hashing) {
            uint8_t digest[32];
            qe_sha256_digest(&job.hash, digest);
            cbor_pair_bytes(answer, "hash", digest, sizeof digest);
        }
    }
    if (ended)
        job.kind = NOTHING;
    return LINK_OK;
}

int job_activate(int slot)
{
    int error, ended = 0;
    cbor_writer none = {0};
    job.slot = slot;
    job.kind = ACTIVATE;
    error = begin_leaves();
    while (!error && !ended)
        error = advance(&none, &ended);
    job.kind = NOTHING;
    return error;
}
