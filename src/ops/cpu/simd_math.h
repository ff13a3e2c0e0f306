/* Denormals, exp, sigmoid and tanh on the vector type of the header that includes this (avx512.h, avx2.h). */

/* Denormal results and operands as 0 until restored: an operation that meets one takes a hundred cycles more. */
static inline unsigned flush_denormals(void)
{
    unsigned csr = _mm_getcsr();
    _mm_setcsr(csr | 0x8040);
    return csr;
}
static inline void restore_denormals(unsigned csr)
{
    _mm_setcsr(csr);
}

/* exp, error below 2 units in the last place: x = n ln2 + r, |r| <= ln2/2, Taylor polynomial of degree 7 in r (its error
 * there is 5e-9). -inf -> 0, +inf -> inf, NaN -> NaN; below the least normal number 0 (or denormal). */
static inline vf vexp(vf x)
{
    vf y = vmax(vset(-126.5f * 0.693147181f), vmin(vset(128.5f * 0.693147181f), x));
    vf n = vnearest(vmul(y, vset(1.44269504f)));
    vf r = vfnma(n, vset(1.42860677e-6f), vfnma(n, vset(0.693145752f), y));
    vf p = vset(1.0f / 5040);
    p = vfma(p, r, vset(1.0f / 720));
    p = vfma(p, r, vset(1.0f / 120));
    p = vfma(p, r, vset(1.0f / 24));
    p = vfma(p, r, vset(1.0f / 6));
    p = vfma(p, r, vset(0.5f));
    p = vfma(p, r, vset(1.0f));
    p = vfma(p, r, vset(1.0f));
    p = vscale2(p, n);
    p = vpick(vless(x, vset(-87.3365402f)), vzero(), p);
    return vpick(vunordered(x), x, p);
}

/* 1 / (1 + exp(-x)), error below 4 units in the last place; 0 below -88. */
static inline vf vsigmoid(vf x)
{
    vf one = vset(1.0f);
    return vreciprocal(vadd(one, vexp(vmin(vset(88.0f), vsub(vzero(), x)))));
}

/* tanh(x) = 1 - 2 / (exp(2x) + 1); near 0 the odd polynomial keeps relative accuracy. */
static inline vf vtanh(vf x)
{
    vf one = vset(1.0f), e = vexp(vadd(x, x)), big = vsub(one, vdiv(vset(2.0f), vadd(e, one)));
    vf s = vmul(x, x), p = vset(-0.0218694885f);
    p = vfma(p, s, vset(0.0539682540f));
    p = vfma(p, s, vset(-0.133333333f));
    p = vfma(p, s, vset(0.333333333f));
    return vpick(vless(vabs(x), vset(0.25f)), vmul(x, vfnma(p, s, one)), big);
}
