/* arm_tokens.c - evaluates PROMPT tokens in batches, then DECODE tokens one by one, and prints
 * the kernel set and a hash of every decoded logits row: what bench/arm.py counts.
 *
 *   arm_tokens IMAGE KERNELS|- PROMPT DECODE */
#define _GNU_SOURCE
#include "../../runtime/host/host.h"

#include <stdio.h>
#include <stdlib.h>

static void check(int error, const char *what)
{
    if (!error)
        return;
    fprintf(stderr, "arm_tokens: %s: %s\n", what, qe_error_text(error));
    exit(1);
}

/* Any token will do; these are spread over the vocabulary. */
static uint32_t token_at(const qe_image *image, uint32_t position)
{
    return (uint32_t)(((uint64_t)position * 2654435761u + 12345u) % image->config.vocab_size);
}

int main(int argc, char **argv)
{
    const uint8_t *base;
    uint64_t bytes;
    qe_image image;
    qe_session s;
    qe_sha256 hash;
    void *arena;
    if (argc != 5 || qe_host_map(argv[1], &base, &bytes) != 0)
        check(QE_ERR_USAGE, "IMAGE KERNELS PROMPT DECODE");
    check(qe_image_open(&image, base, bytes), argv[1]);
    qe_host_float_enter();
    const char *name = argv[2][0] == '-' ? NULL : argv[2];
    const void *kernels = qe_kernels_find(name, qe_host_features());
    if (!kernels)
        check(QE_ERR_KERNELS, argv[2]);
    const uint32_t prompt = (uint32_t)atoi(argv[3]), decode = (uint32_t)atoi(argv[4]);
    qe_session_options options = image.plan;
    options.threads = 1;
    const uint64_t size = qe_session_size(&image.config, &options);
    if (prompt + decode > options.context || posix_memalign(&arena, 64, (size_t)size) != 0)
        check(QE_ERR_CONTEXT, "room for the tokens");
    check(qe_session_init(&s, &image, &options, kernels, NULL, arena, size), "session");
    qe_sha256_init(&hash);
    for (uint32_t done = 0, now; done < prompt; done += now) {
        uint32_t tokens[128];
        now = prompt - done < 128 ? prompt - done : 128;
        for (uint32_t i = 0; i < now; i++)
            tokens[i] = token_at(&image, done + i);
        check(qe_session_eval(&s, tokens, now, NULL), "prefill");
    }
    for (uint32_t i = 0; i < decode; i++) {
        const uint32_t token = token_at(&image, prompt + i);
        check(qe_session_eval(&s, &token, 1, NULL), "decode");
    }
    if (prompt + decode) /* of the last row: hashing is not what is counted */
        qe_sha256_update(&hash, qe_session_logits(&s), (size_t)image.config.vocab_size * 4);
    uint8_t digest[32];
    qe_sha256_digest(&hash, digest);
    printf("{\"kernels\": \"%s\", \"logits_hash\": \"", qe_kernels_name(kernels));
    for (int i = 0; i < 32; i++)
        printf("%02x", digest[i]);
    printf("\"}\n");
    free(arena);
    qe_host_unmap(base, bytes);
    return 0;
}
