/* search_fit.h - inside search: the best scale, or scale and minimum, of one group of columns.
 * Levels l are whole numbers from bottom to top, a value is scale * l + min. Candidates lie in
 * lanes beside each other and columns are taken in order, so that sums need no order of their
 * own and every compiler makes vectors of them. */
#ifndef QEDGE_SEARCH_FIT_H
#define QEDGE_SEARCH_FIT_H

#include <stdint.h>

enum { QS_LANES = 16, QS_WIDEST = 32 };

/* Columns of a group, at most QS_WIDEST: values of size at most 1, and their weights. */
typedef struct {
    float x[QS_WIDEST], w[QS_WIDEST];
    int columns;
    float w1, wx; /* sums of w and w x */
} qs_group;

typedef struct {
    float bottom, top; /* levels */
} qs_range;

typedef struct {
    float scale[QS_LANES], min[QS_LANES];
} qs_lanes;

/* How a row is looked at: values in parts of unit, a power of two that none exceeds;
 * importance (or NULL) times factor, plus ridge. */
typedef struct {
    const float *importance;
    float unit, factor, ridge;
} qs_frame;

/* Columns first to stop of a row to a group of so many; the missing ones are zeros of no
 * weight. Where nothing has weight everything has. */
void qs_load(const qs_frame *frame, const float *row, uint32_t first, uint32_t stop,
             int columns, qs_group *g);

/* What least squares needs of chosen levels: sums of w l, w l^2, w x l. */
typedef struct {
    float l, ll, xl;
} qs_sums;

typedef struct {
    float scale, min, error;
    qs_sums sums;
} qs_fit;

/* What a minimum may be. */
typedef enum {
    QS_FREE,
    QS_NOT_ABOVE_0,
    QS_ZERO_POINT /* -min / scale is from 0 to 127 / 128 of 2^bits: top + 1 */
} qs_bound;

/* Levels chosen for every lane, and the weighted squared error that is left. */
void qs_errors(const qs_group *g, qs_range range, const qs_lanes *lanes, float *error);

/* The sums for one scale and minimum. */
qs_sums qs_sums_of(const qs_group *g, qs_range range, float scale, float min);

/* Least squares for the levels of fit->sums within the bound; 0, and nothing changed, where
 * they do not tell. */
int qs_solve(const qs_group *g, qs_bound bound, float top, qs_fit *fit);

/* Error of scale and min while the levels of sums stay, less the sum of w x^2. */
float qs_error_kept(const qs_group *g, qs_sums sums, float scale, float min);

/* The levels of one scale and minimum. */
void qs_levels(const qs_group *g, qs_range range, float scale, float min, int8_t *levels);

/* Scale and minimum, scale >= 0; levels from 0. */
qs_fit qs_fit_affine(const qs_group *g, float top, qs_bound bound);

/* A scale of either sign, min = 0; levels from below 0. */
qs_fit qs_fit_symmetric(const qs_group *g, qs_range range);

/* The lane with the least error. */
int qs_best(const float *error);

#endif
