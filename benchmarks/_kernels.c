/* What the machine allows: LR, FM and FFM by hand, for `kernels.py` and nobody else.

   One-hot rows of exactly FIELDS features of value 1, feature j in field j, whose records are found by `slot`; no scales, no
   hashing, no guard, no feature without a record. Float32, one interleaved record per feature, the next row prefetched
   while this one is learned; vector code works on LANES floats at once, 8 or 16.

   _native.py compiles this file with -DK=... -DFIELDS=... -DLANES=... */

#include <math.h>
#include <stdint.h>
#include <string.h>
#ifdef __AVX__
#include <immintrin.h>
#endif

#define HEAD 4                                               /* w, its state, padding: floats before the factors */
#define ROUND_UP(n, to) (((n) + (to) - 1) / (to) * (to))
#define WIDE ROUND_UP(FIELDS * K, LANES)                     /* FFM: floats of factors in a record */
#define FM_STRIDE (HEAD + 2 * K)                             /* floats from one record to the next */
#define FFM_STRIDE ROUND_UP(HEAD + 2 * WIDE, 16)

typedef float lanes __attribute__((vector_size(4 * LANES), aligned(4)));

static inline lanes load(const float *from) { return *(const lanes *)from; }
static inline void store(float *to, lanes x) { *(lanes *)to = x; }

static inline lanes root(lanes x) /* GCC's vectors have no root of their own */
{
#if defined(__AVX512F__) && LANES == 16
    return (lanes)_mm512_sqrt_ps((__m512)x);
#elif defined(__AVX__) && LANES == 8
    return (lanes)_mm256_sqrt_ps((__m256)x);
#else
    for (int c = 0; c < LANES; c++) x[c] = sqrtf(x[c]);
    return x;
#endif
}

static inline float total(lanes x)
{
    float sum = 0;
    for (int c = 0; c < LANES; c++) sum += x[c];
    return sum;
}

static inline float sigmoid(double m) { return (float)(1.0 / (1.0 + exp(-m))); }

/* Records of 4, 16 n or 16 n + 4 floats, aligned to 4: these are all their lines. */
static inline void ask(const float *record, int floats)
{
    for (int at = 0; at < floats; at += 16) __builtin_prefetch(record + at, 1, 3);
}

/* AdaGrad: A += g^2, w -= eta g / sqrt(a0 + A). */
static inline void adagrad(float *w, float *a, float g, float eta, float a0)
{
    *a += g * g;
    *w -= eta * g / sqrtf(a0 + *a);
}

static inline void adagrad_lanes(float *v, float *a, lanes g, float eta, float a0)
{
    const lanes sum = load(a) + g * g;
    store(a, sum);
    store(v, load(v) - eta * g / root(a0 + sum));
}

/* FTRL-Proximal, l1 = l2 = 0; a record is w z n _. Its 39 updates are one loop over columns. */
void lr_ftrl(int64_t n, const int32_t *slot, const float *y, float *records, float *w0, float alpha, float beta, float *p)
{
    float w[FIELDS + 1], z[FIELDS + 1], s[FIELDS + 1];
    for (int64_t i = 0; i < n; i++) {
        const int32_t *row = slot + i * FIELDS, *next = row + (i + 1 < n ? FIELDS : 0);
        float m = w0[0];
        for (int j = 0; j < FIELDS; j++) {
            __builtin_prefetch(records + 4 * (int64_t)next[j], 1, 3);
            const float *record = records + 4 * (int64_t)row[j];
            w[j] = record[0], z[j] = record[1], s[j] = record[2];
            m += w[j];
        }
        p[i] = sigmoid(m);
        const float g = p[i] - y[i], per_alpha = 1 / alpha;
        w[FIELDS] = w0[0], z[FIELDS] = w0[1], s[FIELDS] = w0[2];
        for (int j = 0; j <= FIELDS; j++) {
            const float new = s[j] + g * g, root = sqrtf(new);
            z[j] += g - g * g / (root + sqrtf(s[j]) + 1e-30f) * per_alpha * w[j];
            w[j] = -z[j] / ((beta + root) * per_alpha);
            s[j] = new;
        }
        for (int j = 0; j < FIELDS; j++) {
            float *record = records + 4 * (int64_t)row[j];
            record[0] = w[j], record[1] = z[j], record[2] = s[j];
        }
        w0[0] = w[FIELDS], w0[1] = z[FIELDS], w0[2] = s[FIELDS];
    }
}

#if K % LANES == 0
/* A record is w A _ _ | v[K] | A[K]. */
void fm_adagrad(int64_t n, const int32_t *slot, const float *y, float *records, float *w0, float eta, float a0, float *p)
{
    for (int64_t i = 0; i < n; i++) {
        const int32_t *row = slot + i * FIELDS, *next = row + (i + 1 < n ? FIELDS : 0);
        lanes z[K / LANES] = {0}, q[K / LANES] = {0};
        float m = w0[0];
        for (int j = 0; j < FIELDS; j++) {
            ask(records + FM_STRIDE * (int64_t)next[j], FM_STRIDE);
            const float *record = records + FM_STRIDE * (int64_t)row[j];
            m += record[0];
            for (int c = 0; c < K / LANES; c++) {
                const lanes v = load(record + HEAD + c * LANES);
                z[c] += v, q[c] += v * v;
            }
        }
        for (int c = 0; c < K / LANES; c++) m += 0.5f * total(z[c] * z[c] - q[c]);
        p[i] = sigmoid(m);
        const float e = p[i] - y[i];
        adagrad(w0, w0 + 1, e, eta, a0);
        for (int j = 0; j < FIELDS; j++) {
            float *record = records + FM_STRIDE * (int64_t)row[j], *v = record + HEAD;
            adagrad(record, record + 1, e, eta, a0);
            for (int c = 0; c < K; c += LANES) adagrad_lanes(v + c, v + K + c, e * (z[c / LANES] - load(v + c)), eta, a0);
        }
    }
}
#endif

/* A record is w A _ _ | v[WIDE] | A[WIDE], of which FIELDS * K are used; other[f] holds, for each field, the factors that
   its feature has towards f, so that dot products and updates run along whole records. */
void ffm_adagrad(int64_t n, const int32_t *slot, const float *y, float *records, float *w0, float eta, float a0, float *p)
{
    static float other[FIELDS][WIDE];
    for (int64_t i = 0; i < n; i++) {
        const int32_t *row = slot + i * FIELDS, *next = row + (i + 1 < n ? FIELDS : 0);
        lanes dot = {0};
        float m = w0[0];
        for (int j = 0; j < FIELDS; j++) {
            const float *record = records + FFM_STRIDE * (int64_t)row[j];
            m += record[0];
            for (int f = 0; f < FIELDS; f++) memcpy(&other[f][j * K], record + HEAD + f * K, K * sizeof(float));
            memset(&other[j][j * K], 0, K * sizeof(float));
        }
        for (int j = 0; j < FIELDS; j++) {
            const float *v = records + FFM_STRIDE * (int64_t)row[j] + HEAD;
            for (int c = 0; c < WIDE; c += LANES) dot += load(v + c) * load(other[j] + c);
        }
        p[i] = sigmoid(m + 0.5f * total(dot)); /* each pair came twice */
        const float e = p[i] - y[i];
        adagrad(w0, w0 + 1, e, eta, a0);
        for (int j = 0; j < FIELDS; j++) {
            float *record = records + FFM_STRIDE * (int64_t)row[j], *v = record + HEAD;
            ask(records + FFM_STRIDE * (int64_t)next[j], FFM_STRIDE);
            adagrad(record, record + 1, e, eta, a0);
            for (int c = 0; c < WIDE; c += LANES) adagrad_lanes(v + c, v + WIDE + c, e * load(other[j] + c), eta, a0);
        }
    }
}
