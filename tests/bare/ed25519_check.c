/* ed25519_check.c - verifies what standard input gives, one line of hexadecimal a signature:
 * KEY MESSAGE SIGNATURE; prints 1 or 0 for each. MESSAGE may be - for none. */
#include <stdio.h>
#include <string.h>

#include "ed25519.h"

static uint32_t bytes_of(const char *text, uint8_t *out)
{
    uint32_t n = 0;
    unsigned byte;
    for (; text[0] && text[1] && sscanf(text, "%2x", &byte) == 1; text += 2)
        out[n++] = (uint8_t)byte;
    return n;
}

int main(void)
{
    static char key[80], message[2100], signature[160];
    uint8_t k[32], m[1024], s[64];
    while (scanf("%79s %2099s %159s", key, message, signature) == 3) {
        bytes_of(key, k);
        bytes_of(signature, s);
        printf("%d\n", qe_ed25519_verify(k, m, bytes_of(message, m), s));
    }
    return 0;
}
