/* tokens.h - evaluates a prompt a batch at a time and then draws tokens one by one, on the open
 * model; counts and times both. What job.c's golden test, run and bench have in common. */
#ifndef QF_TOKENS_H
#define QF_TOKENS_H

#include "model.h"

typedef struct {
    uint32_t at, prompt;   /* tokens of the prompt: evaluated, and all */
    uint32_t drawn, limit; /* tokens drawn, and wanted */
    uint32_t token;        /* the last that was drawn */
    int hashing;           /* whether the logits of each draw go into hash */
    uint64_t prefill_ticks, decode_ticks, first_ticks; /* first: prefill and the first draw */
    qe_sampler sampler;
    qe_sha256 hash;
} qf_tokens;

/* Starts anew with a prompt of so many tokens, then `limit` drawn ones. */
void tokens_begin(qf_tokens *t, uint32_t prompt, uint32_t limit, int hashing);

/* Evaluates the next batch of the prompt, which begins at `tokens`. An engine error. */
int tokens_prefill(qf_tokens *t, const uint32_t *tokens);

/* Evaluates the token that was drawn before, if any, and draws the next one. An engine error.
 */
int tokens_draw(qf_tokens *t);

/* A token of a row that is spread over the vocabulary, the same on every machine. */
uint32_t tokens_spread(uint32_t seed, uint32_t number);

#endif
