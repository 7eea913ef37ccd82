/* tokens.c - see tokens.h. Times are of evaluating and drawing alone: hashing is outside. */
#include "tokens.h"

#include "port.h"

void tokens_begin(qf_tokens *t, uint32_t prompt, uint32_t limit, int hashing)
{
    const qe_sampler sampler = t->sampler;
    *t = (qf_tokens){.prompt = prompt, .limit = limit, .hashing = hashing, .sampler = sampler};
    qe_session_rewind(&model.session, 0);
    qe_sha256_init(&t->hash);
}

int tokens_prefill(qf_tokens *t, const uint32_t *tokens)
{
    const uint32_t left = t->prompt - t->at, batch = qe_session_batch(&model.session);
    const uint32_t count = left < batch ? left : batch;
    const uint64_t began = port_ticks();
    const int error = qe_session_eval(&model.session, tokens + t->at, count, NULL);
    t->prefill_ticks += port_ticks() - began;
    t->at += count;
    return error;
}

int tokens_draw(qf_tokens *t)
{
    const uint64_t began = port_ticks();
    int error = QE_OK;
    if (t->drawn)
        error = qe_session_eval(&model.session, &t->token, 1, NULL);
    uint64_t spent = port_ticks() - began;
    if (!error && t->hashing)
        qe_sha256_update(&t->hash, qe_session_logits(&model.session),
                         (size_t)model.image.config.vocab_size * 4);
    if (!error) {
        const uint64_t again = port_ticks();
        const int32_t token = qe_session_sample(&model.session, &t->sampler);
        spent += port_ticks() - again;
        error = token < 0 ? token : QE_OK;
        t->token = (uint32_t)token;
    }
    if (t->drawn)
        t->decode_ticks += spent;
    else
        t->first_ticks = t->prefill_ticks + spent;
    t->drawn++;
    return error;
}

uint32_t tokens_spread(uint32_t seed, uint32_t number)
{
    return (uint32_t)((uint64_t)(uint32_t)(seed + number * 2654435761u) *
                          model.image.config.vocab_size >>
                      32);
}
