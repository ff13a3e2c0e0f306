/* Do two models answer alike? Both run on the same tokens through the same network, one after the other; the next-token logits of
 * every position are compared.
 *     ns_parity p; NS_TRY(ns_parity_check(&p, "input", "output", &arch_of_input, err), "parity");
 *     if (p.skipped[0]) ... why ...; else p.relative: RMS of the difference over RMS of the input's logits. */
#ifndef NS_EXPORT_PARITY_H
#define NS_EXPORT_PARITY_H

#include "arch/arch.h"

typedef struct ns_parity {
    char skipped[256]; /* why it was not done; "" : it was */
    int n_tokens, n_same_top;
    double relative, largest; /* largest difference */
} ns_parity;

/* always: also when it takes long (more than 10^9 parameters). Memory that is not there is never asked for. */
NS_MUST_USE ns_status ns_parity_check(ns_parity *p, const char *a_path, const ns_arch *a, const char *b_path,
                                      const ns_arch *b, int always, ns_error *err);

#endif
