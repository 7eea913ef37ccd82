/* rows_check.c - prints the bits of rows.c's figures for rows made from a seed. */
#include "../../toolkit/quality/rows.h"

#include <stdio.h>
#include <string.h>

enum { ROWS = 40, MOST = 1037 };

static float base[ROWS * MOST], other[ROWS * MOST];

static uint32_t draw(void)
{
    static uint32_t state = 1;
    state = state * 1664525u + 1013904223u;
    return state >> 8;
}

int main(void)
{
    static const uint32_t sizes[] = {1, 3, 8, 300, MOST};
    for (uint32_t n = 0; n < sizeof sizes / sizeof *sizes; n++) {
        int32_t target[ROWS];
        double out[ROWS * QR_COLUMNS];
        for (uint32_t at = 0; at < ROWS * MOST; at++) {
            base[at] = ((float)(int32_t)draw() - 8388608.0f) / 400000.0f;
            other[at] = base[at] + ((float)(int32_t)draw() - 8388608.0f) / 9000000.0f;
        }
        for (uint32_t row = 0; row < ROWS; row++)
            target[row] = (int32_t)(draw() % sizes[n]);
        qr_compare(base, other, MOST, sizes[n], target, 0, ROWS, out);
        for (uint32_t at = 0; at < ROWS * QR_COLUMNS; at++) {
            uint64_t bits;
            memcpy(&bits, &out[at], 8);
            printf("%016llx\n", (unsigned long long)bits);
        }
    }
    return 0;
}
