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
#include "sampling.h"
#include "signature.h"
#include "tokens.h"

enum { LEAVES_A_STEP = 16, TEXT_BYTES = 960 };

typedef enum { NOTHING, VERIFY, TEST, ACTIVATE, RUN, BENCH } kind;
typedef enum { LEAVES, PREFILL, DECODE } phase;

static struct {
    kind kind;
    phase phase;
    int slot;
    const uint8_t *id; /* that the slot's image must have: 32 bytes, NULL for any */
    uint8_t wanted[32];
    uint32_t counter; /* of the image's signature */
    uint32_t at, of;  /* leaves of its hash tree */
    uint32_t ticket;  /* of whoever began it */
    uint32_t depth;   /* tokens before the bench's decoding */
    uint32_t
        text_at; /* where the rest of the run's last token's text begins; 0: all was said */
    const char *reason; /* why the run ends after that, or NULL */
    qe_golden golden;
    qf_tokens tokens;
} job;

void job_cancel(void)
{
    job.kind = NOTHING;
}

static int link_error_of(int error)
{
    return error < 0 ? LINK_ENGINE - error : error;
}

static void begin_tokens(uint32_t prompt, uint32_t limit, int hashing)
{
    job.phase = PREFILL;
    tokens_begin(&job.tokens, prompt, limit, hashing);
}

/* The next batch of a prompt; after its last, tokens are drawn. A link error. */
static int prefill_step(const uint32_t *tokens)
{
    const int error = tokens_prefill(&job.tokens, tokens);
    if (job.tokens.at == job.tokens.prompt)
        job.phase = DECODE;
    return link_error_of(error);
}

/* ---- golden ---- */

static int begin_golden(void)
{
    const int error = model_open(job.slot);
    if (error)
        return link_error_of(error);
    if (qe_image_golden(&model.image, &job.golden))
        return LINK_TEST;
    if (job.golden.prompt_count + job.golden.expected_count >
        qe_session_context(&model.session) + 1)
        return LINK_ENGINE - QE_ERR_CONTEXT;
    job.tokens.sampler = sampling_greedy;
    begin_tokens(job.golden.prompt_count, job.golden.expected_count, 1);
    return LINK_OK;
}

static int golden_step(void)
{
    const qf_tokens *t = &job.tokens;
    if (job.phase == PREFILL)
        return prefill_step(job.golden.prompt);
    const int error = tokens_draw(&job.tokens);
    if (error)
        return link_error_of(error);
    if (t->token != job.golden.expected[t->drawn - 1])
        return LINK_TEST;
    uint8_t digest[32];
    qe_sha256_digest(&t->hash, digest);
    return t->drawn < t->limit || memcmp(digest, job.golden.digest, sizeof digest) == 0
               ? LINK_OK
               : LINK_TEST;
}

static int golden_done(void)
{
    return job.phase == DECODE && job.tokens.drawn == job.tokens.limit;
}

/* ---- verify, activate ---- */

static int begin_leaves(void)
{
    static const uint8_t erased[8] = {0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF};
    qe_image image;
    if (memcmp(slot_image(job.slot), erased, sizeof erased) == 0)
        return LINK_NO_IMAGE;
    const int error = model_peek(job.slot, &image);
    if (error)
        return link_error_of(error);
    if (strcmp(image.board, QF_BOARD) != 0)
        return LINK_WRONG_BOARD;
    if (job.id && memcmp(job.id, image.id, sizeof image.id) != 0)
        return LINK_NO_IMAGE;
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
    const int error = (int)slot_activate(job.slot, &record);
    if (!error && job.counter)
        slot_raise_floor(job.counter); /* if it fails, the record has it, and the next start */
    return error;
}

/* ---- run, bench ---- */

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
    uint32_t length = 0, limit = 256;
    int bos = 1, special = 0, hashing = 0;
    const uint8_t *text = cbor_bytes(map, bytes, "prompt", &length);
    if (!text || !cbor_get_uint(map, bytes, "max", 1, UINT32_MAX, &limit) ||
        !cbor_get_bool(map, bytes, "bos", &bos) ||
        !cbor_get_bool(map, bytes, "special", &special) ||
        !cbor_get_bool(map, bytes, "hash", &hashing) ||
        !sampling_read(map, bytes, &job.tokens.sampler))
        return LINK_MESSAGE;
    uint64_t room;
    uint8_t *scratch = qe_session_scratch(&model.session, &room);
    const uint32_t flags = (bos ? QE_ENCODE_BOS : 0) | (special ? QE_ENCODE_SPECIAL : 0);
    const int32_t count = qe_vocab_encode(
        &model.image.vocab, text, length, flags, qe_session_tokens(&model.session),
        qe_session_context(&model.session), scratch, (size_t)room);
    if (count < 0)
        return link_error_of(count);
    if (!count)
        return LINK_MESSAGE;
    job.text_at = 0;
    begin_tokens((uint32_t)count, limit, hashing);
    return LINK_OK;
}

/* As much of the last token's text as an answer holds; what is left comes with the next step.
 */
static int put_text(cbor_writer *answer)
{
    static uint8_t text[TEXT_BYTES];
    const int32_t count = qe_vocab_decode_at(&model.image.vocab, job.tokens.token, 0,
                                             job.text_at, text, sizeof text);
    if (count < 0)
        return link_error_of(count);
    cbor_pair_bytes(answer, "text", text, (size_t)count);
    job.text_at = count == TEXT_BYTES ? job.text_at + (uint32_t)count : 0;
    return LINK_OK;
}

static int run_step(cbor_writer *answer, int *ended)
{
    const qe_session *s = &model.session;
    int error = LINK_OK;
    if (job.phase == PREFILL)
        return prefill_step(qe_session_tokens(s) - qe_session_position(s));
    if (job.text_at) {
        error = put_text(answer);
    } else {
        error = link_error_of(tokens_draw(&job.tokens));
        if (error)
            return error;
        const int stops = qe_vocab_is_stop(&model.image.vocab, job.tokens.token);
        job.reason = stops                                             ? "stop"
                     : job.tokens.drawn >= job.tokens.limit            ? "length"
                     : qe_session_position(s) >= qe_session_context(s) ? "context"
                                                                       : NULL;
        cbor_pair_uint(answer, "token", job.tokens.token);
        if (!stops)
            error = put_text(answer);
    }
    *ended = job.reason && !job.text_at;
    if (*ended)
        cbor_pair_text(answer, "reason", job.reason);
    return error;
}

static int begin_bench(const uint8_t *map, uint32_t bytes)
{
    const int error = open_active();
    const uint32_t context = qe_session_context(&model.session);
    if (error)
        return error;
    uint32_t prompt = 16, limit = 16;
    job.depth = 1;
    if (!cbor_get_uint(map, bytes, "prompt", 1, context, &prompt) ||
        !cbor_get_uint(map, bytes, "depth", 1, context, &job.depth) ||
        !cbor_get_uint(map, bytes, "decode", 1, context - job.depth, &limit) ||
        prompt > context || limit > context - job.depth)
        return LINK_MESSAGE;
    job.tokens.sampler = sampling_greedy;
    begin_tokens(prompt, limit, 0);
    return LINK_OK;
}

/* Tokens 0 .. prompt - 1 are timed as prefill; then, behind `depth` others, `limit` tokens one
 * by one as decode. */
static int bench_step(int *ended)
{
    qe_session *s = &model.session;
    qf_tokens *t = &job.tokens;
    if (job.phase == PREFILL) {
        uint32_t *tokens = qe_session_tokens(s) - qe_session_position(s);
        for (uint32_t i = t->at; i < t->prompt && i < t->at + qe_session_batch(s); i++)
            tokens[i] = tokens_spread(1, i);
        int error = prefill_step(tokens);
        if (!error && job.phase == DECODE) { /* a first token is drawn, and forgotten */
            error = link_error_of(tokens_draw(t));
            t->drawn = 0;
            qe_session_rewind(s, 0);
        }
        return error;
    }
    const int behind = qe_session_position(s) < job.depth;
    const uint32_t token =
        behind ? tokens_spread(2, qe_session_position(s)) : tokens_spread(3, t->drawn);
    const uint64_t began = port_ticks();
    const int error = qe_session_eval(s, &token, 1, NULL);
    if (!behind) {
        t->decode_ticks += port_ticks() - began;
        t->drawn++;
    }
    *ended = t->drawn == t->limit;
    return link_error_of(error);
}

/* ---- any ---- */

/* A slot that is not active, and turns out not to be what its record says, loses its record. */
static void forget_if_untrue(int error)
{
    const int proving = job.kind == VERIFY || job.kind == ACTIVATE;
    const int untrue = error == LINK_TEST || error == LINK_ENGINE - QE_ERR_HASH ||
                       error == LINK_ENGINE - QE_ERR_IMAGE;
    if (proving && untrue && job.slot != slot_active() && slot_read(job.slot).sequence)
        slot_clear(job.slot);
}

int job_begin(const uint8_t *map, uint32_t bytes)
{
    static const struct {
        const char *name;
        kind kind;
    } kinds[] = {{"verify", VERIFY},
                 {"test", TEST},
                 {"activate", ACTIVATE},
                 {"run", RUN},
                 {"bench", BENCH}};
    kind wanted = NOTHING;
    uint32_t length = 0;
    const uint8_t *name = cbor_bytes(map, bytes, "job", &length);
    for (size_t i = 0; name && i < sizeof kinds / sizeof *kinds; i++)
        if (strlen(kinds[i].name) == length && memcmp(name, kinds[i].name, length) == 0)
            wanted = kinds[i].kind;
    job.kind = NOTHING;
    int error = LINK_UNKNOWN;
    job.ticket = 0;
    if (!cbor_get_uint(map, bytes, "ticket", 0, UINT32_MAX, &job.ticket))
        return LINK_MESSAGE;
    if (wanted == VERIFY || wanted == ACTIVATE) {
        uint32_t slot = SLOT_COUNT;
        cbor_item item;
        const uint8_t *id = cbor_bytes(map, bytes, "id", &length);
        if (!cbor_get_uint(map, bytes, "slot", 0, SLOT_COUNT - 1, &slot) || slot >= SLOT_COUNT)
            return LINK_RANGE;
        if (id ? length != sizeof job.wanted
               : wanted == ACTIVATE || cbor_find(map, bytes, "id", &item))
            return LINK_MESSAGE; /* which image is meant must be said */
        if (id)
            memcpy(job.wanted, id, sizeof job.wanted);
        job.id = id ? job.wanted : NULL;
        job.slot = (int)slot;
        error = begin_leaves();
        if (error) {
            job.kind = wanted;
            forget_if_untrue(error);
            job.kind = NOTHING;
        }
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
            if (!error) /* every byte was read now, whatever was found at the start */
                model_distrust(job.slot, 0);
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

int job_step(const uint8_t *map, uint32_t bytes, cbor_writer *answer)
{
    int ended = 0;
    uint32_t ticket = 0;
    if (!cbor_get_uint(map, bytes, "ticket", 0, UINT32_MAX, &ticket))
        return LINK_MESSAGE;
    if (job.kind == NOTHING || ticket != job.ticket)
        return LINK_NO_JOB;
    const int error = advance(answer, &ended);
    if (error) {
        forget_if_untrue(error);
        job.kind = NOTHING;
        return error;
    }
    const qf_tokens *t = &job.tokens;
    cbor_pair_bool(answer, "done", ended);
    const int leaves = job.phase == LEAVES, prefill = job.phase == PREFILL;
    cbor_pair_uint(answer, "at", leaves ? job.at : prefill ? t->at : t->drawn);
    cbor_pair_uint(answer, "of", leaves ? job.of : prefill ? t->prompt : t->limit);
    /* a run may be left at any token, by a client that has read enough */
    if ((ended || job.kind == RUN) && job.phase == DECODE) {
        cbor_pair_uint(answer, "prompt", t->prompt);
        cbor_pair_uint(answer, "prefill_ticks", t->prefill_ticks);
        cbor_pair_uint(answer, "first_ticks", t->first_ticks);
        cbor_pair_uint(answer, "decode_ticks", t->decode_ticks);
        if (t->hashing) {
            uint8_t digest[32];
            qe_sha256_digest(&t->hash, digest);
            cbor_pair_bytes(answer, "hash", digest, sizeof digest);
        }
    }
    if (ended)
        job.kind = NOTHING;
    return LINK_OK;
}

static int run_to_its_end(kind wanted, int slot, const uint8_t *id)
{
    int error, ended = 0;
    cbor_writer none = {0};
    job.slot = slot;
    job.id = id;
    job.kind = wanted;
    error = begin_leaves();
    while (!error && !ended)
        error = advance(&none, &ended);
    if (error)
        forget_if_untrue(error);
    job.kind = NOTHING;
    return error;
}

int job_activate(int slot, const uint8_t id[32])
{
    return run_to_its_end(ACTIVATE, slot, id);
}

int job_verify(int slot, const uint8_t id[32])
{
    int error = run_to_its_end(VERIFY, slot, id);
    return error ? error : signature_check(slot, &model.image, &job.counter);
}
