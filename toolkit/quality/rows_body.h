/* rows_body.h - the sums of one row of logits; included by rows.c once for each instruction
 * set, with QR_NAME and QR_TARGET. Eight lanes, added up in one order at the end. */
#ifndef QEDGE_QUALITY_ROWS_BODY_H
#define QEDGE_QUALITY_ROWS_BODY_H

typedef double v4d __attribute__((vector_size(32)));
typedef int64_t v4i __attribute__((vector_size(32)));
typedef float v4f __attribute__((vector_size(16)));
typedef int32_t v4w __attribute__((vector_size(16)));

/* a = base - largest base, b the same of other. */
struct sums {
    float top_base, top_other;
    double base, other, distance; /* sum exp a, sum exp b, sum exp(a) (a - b) */
};

#define QR_JOIN(a, b) a##b
#define QR_JOINED(a, b) QR_JOIN(a, b)
#define QR_OWN(part) QR_JOINED(QR_NAME, part)
#define QR_FOUR(x) {x, x, x, x}

#endif

/* exp x to a relative 1e-13, x <= 0; below -700 as exp(-700). 2^n times a polynomial in the
 * rest (Cody and Waite, Software Manual for the Elementary Functions, chapter 6). */
QR_TARGET static inline void QR_OWN(_exp)(v4d *to)
{
    v4d x = *to; /* by pointer: how wide vectors are passed depends on the instruction set */
    const v4d low = QR_FOUR(-700.0), magic = QR_FOUR(6755399441055744.0); /* 1.5 * 2^52 */
    v4i below = x < low;
    x = (v4d)(((v4i)low & below) | ((v4i)x & ~below));
    v4d shifted = x * 1.4426950408889634 + magic;
    v4d n = shifted - magic;
    v4d r = x - n * 0.693147180369123816490 - n * 1.90821492927058770002e-10;
    v4d p = r * (1.0 / 3628800) + 1.0 / 362880;
    p = p * r + 1.0 / 40320;
    p = p * r + 1.0 / 5040;
    p = p * r + 1.0 / 720;
    p = p * r + 1.0 / 120;
    p = p * r + 1.0 / 24;
    p = p * r + 1.0 / 6;
    p = p * r + 0.5;
    p = p * r + 1.0;
    p = p * r + 1.0;
    *to = p * (v4d)(((v4i)shifted + 1023) << 52);
}

QR_TARGET static inline float QR_OWN(_largest)(const float *row, uint32_t size)
{
    float top = row[0];
    uint32_t at = 0;
    if (size >= 4) {
        v4f most;
        memcpy(&most, row, 16);
        for (at = 4; at + 4 <= size; at += 4) {
            v4f x;
            memcpy(&x, row + at, 16);
            v4w more = x > most;
            most = (v4f)(((v4w)x & more) | ((v4w)most & ~more));
        }
        for (int32_t lane = 0; lane < 4; lane++)
            top = most[lane] > top ? most[lane] : top;
    }
    for (; at < size; at++)
        top = row[at] > top ? row[at] : top;
    return top;
}

/* Adds four columns to the sums. */
QR_TARGET static inline void QR_OWN(_add)(const v4d *a, const v4d *b, int alone, v4d *base,
                                          v4d *other, v4d *distance)
{
    v4d weight = *b;
    QR_OWN(_exp)(&weight);
    *other += weight;
    if (!alone) {
        weight = *a;
        QR_OWN(_exp)(&weight);
        *base += weight;
        *distance += weight * (*a - *b);
    }
}

QR_TARGET static void QR_OWN(_row)(const float *base, const float *other, uint32_t size,
                                   struct sums *found)
{
    int alone = base == other;
    float top_a = QR_OWN(_largest)(base, size);
    float top_b = alone ? top_a : QR_OWN(_largest)(other, size);
    v4d sum_a[2] = {QR_FOUR(0.0), QR_FOUR(0.0)}, sum_b[2] = {QR_FOUR(0.0), QR_FOUR(0.0)};
    v4d sum_d[2] = {QR_FOUR(0.0), QR_FOUR(0.0)};
    uint32_t at = 0;
    for (; at + 8 <= size; at += 8) {
        for (int32_t half = 0; half < 2; half++) {
            v4f a, b;
            memcpy(&a, base + at + 4 * half, 16);
            memcpy(&b, other + at + 4 * half, 16);
            v4d x = __builtin_convertvector(a, v4d) - top_a;
            v4d y = __builtin_convertvector(b, v4d) - top_b;
            QR_OWN(_add)(&x, &y, alone, &sum_a[half], &sum_b[half], &sum_d[half]);
        }
    }
    for (int32_t half = 0; at < size; half++, at += 4) {
        v4d a = QR_FOUR(-1e30), b = QR_FOUR(-1e30); /* weigh nothing, and do not differ */
        for (uint32_t lane = 0; lane < 4 && at + lane < size; lane++) {
            a[lane] = (double)base[at + lane] - top_a;
            b[lane] = (double)other[at + lane] - top_b;
        }
        QR_OWN(_add)(&a, &b, alone, &sum_a[half], &sum_b[half], &sum_d[half]);
    }
    found->top_base = top_a;
    found->top_other = top_b;
    found->base = found->other = found->distance = 0;
    for (int32_t lane = 0; lane < 8; lane++) {
        found->base += sum_a[lane / 4][lane % 4];
        found->other += sum_b[lane / 4][lane % 4];
        found->distance += sum_d[lane / 4][lane % 4];
    }
}
