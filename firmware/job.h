/* job.h - work that takes longer than an answer may: begun by one message, carried on by
 * others, a step each, so that the line is never silent for long and progress can be shown. */
#ifndef QF_JOB_H
#define QF_JOB_H

#include "cbor.h"

/* Begins the job that a message asks for and ends the one before. Returns a link error. */
int job_begin(const uint8_t *map, uint32_t bytes);

/* Does the next step and writes what it found. Returns a link error, which ends the job; but
 * LINK_NO_JOB for a message with another ticket than the job was begun with, which leaves it.
 */
int job_step(const uint8_t *map, uint32_t bytes, cbor_writer *answer);

/* In one go: verifies every byte of a slot's image, its signature too where the board wants
 * one; or verifies, tests and activates it. id: the image's, NULL for any. Return a link error.
 */
int job_verify(int slot, const uint8_t id[32]);
int job_activate(int slot, const uint8_t id[32]);

/* Ends the job, as its slot is about to change. */
void job_cancel(void);

#endif
