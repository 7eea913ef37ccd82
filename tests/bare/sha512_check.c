/* sha512_check.c - hashes what standard input asks for, one line a message: STEP LENGTH and how
 * long its first and second parts are; the third is what is left. Byte i is 97 + i * STEP.
 * Parts of no bytes are left out, since they end the list. */
#include <stdio.h>
#include <stdlib.h>

#include "sha512.h"

int main(void)
{
    unsigned step;
    size_t length, cut[2];
    while (scanf("%u %zu %zu %zu", &step, &length, &cut[0], &cut[1]) == 4) {
        uint8_t *message = malloc(length + 1), digest[64];
        qe_sha512_part parts[4] = {{0}};
        size_t count = 0, at = 0;
        for (size_t i = 0; i < length; i++)
            message[i] = (uint8_t)(97 + i * step);
        const size_t bytes[3] = {cut[0], cut[1], length - cut[0] - cut[1]};
        for (int i = 0; i < 3; at += bytes[i++])
            if (bytes[i])
                parts[count++] = (qe_sha512_part){message + at, bytes[i]};
        qe_sha512(parts, digest);
        for (int i = 0; i < 64; i++)
            printf("%02x", digest[i]);
        putchar('\n');
        free(message);
    }
    return 0;
}
