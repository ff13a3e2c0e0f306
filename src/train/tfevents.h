/* TensorBoard event files: records of Event{wall_time, step, summary{value{tag, simple_value}}}, appended and flushed.
 * Framing (TFRecord): u64 length, masked CRC-32C of it, data, masked CRC-32C of data. The protobuf messages are written by hand. */
#ifndef NS_TRAIN_TFEVENTS_H
#define NS_TRAIN_TFEVENTS_H

#include <stdint.h>

#include "base/error.h"

typedef struct ns_tfevents ns_tfevents;
/* Creates dir/events.out.tfevents.<seconds>.<host>.<pid>. */
NS_MUST_USE ns_status ns_tfevents_open(ns_tfevents **out, const char *dir, ns_error *err);
NS_MUST_USE ns_status ns_tfevents_scalar(ns_tfevents *e, const char *tag, int64_t step, double value, ns_error *err);
void ns_tfevents_close(ns_tfevents **e);

#endif
