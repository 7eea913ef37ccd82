/* session.c - the memory rule: one function lays out the arena, counting or carving (SPEC 4).
 */
#include "session.h"

/* Fills at[] with the offset of each array; at[AT_END] is the whole. The order is the arena's.
 */
static void lay_out(const qe_config *c, const qe_session_options *o, uint64_t at[AT_END + 1])
{
    const uint64_t B = o->batch, T = o->threads, C = qe_ceil(o->context, 32), M = qe_group(c);
    const uint64_t dim = qe_ceil(c->dim, 32), att = qe_ceil(c->heads * c->head_size, 32),
                   kv = qe_ceil(c->kv_heads * c->head_size, 32), ffn = qe_ceil(c->ffn, 32),
                   vocab = qe_ceil(c->vocab_size, 32), head = qe_ceil(c->head_size, 32);
    uint64_t wide = dim > att ? dim : att;
    wide = wide > ffn ? wide : ffn;
    /* what norms give, quantized, lies where there is room at that time: qe_act_of */
    const uint64_t normed = qe_act_bytes(B, dim);
    const uint64_t cache = c->layers * c->kv_heads * qe_head_kv_bytes(c, o);
    const uint64_t bytes[AT_END] = {
        [AT_X] = B * dim * 4,
        [AT_N] = B * dim * 4,
        [AT_Q] = B * att * 4 > normed ? B * att * 4 : normed,
        [AT_A] = B * att * 4,
        [AT_K] = B * kv * 4,
        [AT_V] = B * kv * 4,
        [AT_GATE] = B * ffn * 4 > normed ? B * ffn * 4 : normed,
        [AT_UP] = B * ffn * 4,
        [AT_ACT] = B * wide,
        [AT_ACT_D] = B * wide / 32 * 4,
        [AT_ACT_S] = B * wide / 32 * 4,
        [AT_LOGITS] = vocab * 4,
        [AT_WEIGHTS] = vocab * 4,
        [AT_SCORES] = T * M * C * 4,
        [AT_UQ] = T * C,
        [AT_DU] = T * C / 32 * 4,
        [AT_HQ] = T * M * head,
        [AT_HD] = T * M * head / 32 * 4,
        [AT_HS] = T * M * head / 32 * 4,
        [AT_HISTORY] = (uint64_t)o->context * 4,
        [AT_KEYS] = cache,
        [AT_VALUES] = cache,
    };
    at[0] = 0;
    for (int i = 0; i < AT_END; i++)
        at[i + 1] = at[i] + (bytes[i] + 63) / 64 * 64;
}

uint64_t qe_session_size(const qe_config *config, const qe_session_options *options)
{
    uint64_t at[AT_END + 1];
    if (!options->context || options->context > 1u << 24 || !options->batch ||
        options->batch > 512 || !options->threads || options->threads > 64 ||
        (options->kv != QE_KV_F32 && options->kv != QE_KV_F16 && options->kv != QE_KV_Q8_0))
        return 0;
    lay_out(config, options, at);
    return at[AT_END];
}

int qe_session_init(qe_session *session, const qe_image *image,
                    const qe_session_options *options, const void *kernels,
                    const qe_workers *workers, void *arena, uint64_t arena_bytes)
{
    uint64_t at[AT_END + 1];
    const uint64_t need = qe_session_size(&image->config, options);
    if (!need || !kernels || (uintptr_t)arena % 64 || options->context > image->rope_context ||
        (workers && (!workers->threads || workers->threads > options->threads)))
        return QE_ERR_USAGE;
    if (arena_bytes < need)
        return QE_ERR_ARENA;
    lay_out(&image->config, options, at);
    memset(session, 0, sizeof *session);
    memcpy(session->at, at, sizeof at);
    session->image = image;
    session->kernels = kernels;
    session->workers = workers;
    session->options = *options;
    session->arena = arena;
    session->arena_bytes = need;
    return QE_OK;
}

const float *qe_session_logits(const qe_session *session)
{
    return qe_floats(session, AT_LOGITS);
}

uint32_t *qe_session_tokens(const qe_session *session)
{
    return (uint32_t *)qe_at(session, AT_HISTORY) + session->position;
}

int qe_session_rewind(qe_session *session, uint32_t position)
{
    if (position > session->position)
        return QE_ERR_USAGE;
    session->position = position;
    return QE_OK;
}

void *qe_session_scratch(const qe_session *session, uint64_t *bytes)
{
    *bytes =
        session->at[AT_LOGITS]; /* everything before the logits is free between evaluations */
    return session->arena;
}

const char *qe_error_text(int error)
{
    switch (error) {
    case QE_OK: return "no error";
    case QE_ERR_IMAGE: return "a table or field of the image is broken";
    case QE_ERR_VERSION: return "the image is of a version that this engine does not know";
    case QE_ERR_HASH: return "a hash of the image does not match its bytes";
    case QE_ERR_ARENA: return "the arena is too small";
    case QE_ERR_CONTEXT: return "more tokens than the context holds";
    case QE_ERR_TEXT: return "the text is not UTF-8";
    case QE_ERR_SPACE: return "a buffer is too small";
    case QE_ERR_NUMERIC: return "a logit is not finite";
    case QE_ERR_USAGE: return "an argument is out of its range";
    case QE_ERR_KERNELS: return "no such kernel set on this machine";
    case QE_ERR_STOPPED: return "stopped by the caller";
    }
    return "unknown error";
}
