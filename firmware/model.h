/* model.h - the image in a slot, opened for the engine in the board's one arena. */
#ifndef QF_MODEL_H
#define QF_MODEL_H

#include "engine/qedge.h"
#include "slots.h"

typedef struct {
    int slot; /* SLOT_NONE: nothing is open */
    qe_image image;
    qe_session session;
} qf_model;

extern qf_model model;

/* Opens the image in a slot, and a session as its plan says, at position 0. Returns 0, a
 * QE_ERR_*, or a link_error: when it is for another board, or what model_distrust said. */
int model_open(int slot);

/* From now on a slot's image is not opened, for this reason (as of model_open; 0: it may be).
 */
void model_distrust(int slot, int error);

/* As much of it as reading needs: the image, without a session. */
int model_peek(int slot, qe_image *image);

#endif
