/* The arithmetic: sums of squares and moments of rows of numbers, added in float64 in a fixed number of lanes.

A square of a float32 number is exact in float64, so such a sum of squares has only the rounding of its additions, and
is the same to the last bit on every processor. The lanes are what compilers turn into vector instructions. */

#ifndef DING_NORMMON_SUMS_H
#define DING_NORMMON_SUMS_H

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "tensor.h"

#if defined(__x86_64__) && defined(__linux__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__)
/* One copy for each generation of processors, chosen when the module is loaded. */
#define FOR_EACH_PROCESSOR __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define FOR_EACH_PROCESSOR
#endif

#if defined(__GNUC__)
#define FETCH(pointer) __builtin_prefetch((pointer), 0, 2)
#else
#define FETCH(pointer) ((void)(pointer))
#endif

enum { STREAMS = 8, STREAM_LANES = 8, CACHE_LINE = 64, AHEAD = 1024, MOMENT_LANES = 16, PIECE = 512 };

/* A row is read in eight places at once, each of which is fetched 1 KiB ahead: in one place alone a core gets three
quarters of what memory has for it, since every page has to be found before its first line can be fetched. */
#define DEFINE_SUM_OF_SQUARES(NAME, TYPE)                                                          \
    FOR_EACH_PROCESSOR static double NAME(const TYPE *restrict x, int64_t count) {                 \
        enum { LINE = CACHE_LINE / sizeof(TYPE) };                                                 \
        double lanes[STREAMS * STREAM_LANES] = {0.0}, tail = 0.0;                                  \
        int64_t length = count / (STREAMS * STREAM_LANES) * STREAM_LANES, i = 0;                   \
        while (i < length) {                                                                       \
            int64_t stop = i + LINE < length ? i + LINE : length;                                  \
            for (int stream = 0; stream < STREAMS; stream++) {                                     \
                FETCH((const char *)(x + stream * length + i) + AHEAD);                            \
            }                                                                                      \
            for (; i < stop; i += STREAM_LANES) {                                                  \
                for (int stream = 0; stream < STREAMS; stream++) {                                 \
                    const TYPE *place = x + stream * length + i;                                   \
                    for (int j = 0; j < STREAM_LANES; j++) {                                       \
                        double value = place[j];                                                   \
                        lanes[stream * STREAM_LANES + j] += value * value;                         \
                    }                                                                              \
                }                                                                                  \
            }                                                                                      \
        }                                                                                          \
        for (i = STREAMS * length; i < count; i++) tail += (double)x[i] * (double)x[i];            \
        if (length == 0) return tail;                                                              \
        for (int half = STREAMS * STREAM_LANES / 2; half > 0; half /= 2) {                         \
            for (int j = 0; j < half; j++) lanes[j] += lanes[j + half];                            \
        }                                                                                          \
        return lanes[0] + tail;                                                                    \
    }

DEFINE_SUM_OF_SQUARES(sum_of_squares_float32, float)
DEFINE_SUM_OF_SQUARES(sum_of_squares_float64, double)

/* Two sums at once: of the squares of x - y, and of those of x. */
#define DEFINE_ADD_DISTANCE(NAME, TYPE)                                                                  \
    FOR_EACH_PROCESSOR static void NAME(                                                                 \
        const TYPE *restrict x, const TYPE *restrict y, int64_t count, double *restrict sums             \
    ) {                                                                                                  \
        double away[STREAM_LANES] = {0.0}, size[STREAM_LANES] = {0.0};                                   \
        int64_t i = 0;                                                                                   \
        for (; i + STREAM_LANES <= count; i += STREAM_LANES) {                                           \
            for (int j = 0; j < STREAM_LANES; j++) {                                                     \
                double value = x[i + j], difference = value - (double)y[i + j];                          \
                away[j] += difference * difference;                                                      \
                size[j] += value * value;                                                                \
            }                                                                                            \
        }                                                                                                \
        for (int j = 0; i < count; i++, j++) {                                                           \
            double value = x[i], difference = value - (double)y[i];                                      \
            away[j] += difference * difference;                                                          \
            size[j] += value * value;                                                                    \
        }                                                                                                \
        for (int j = 0; j < STREAM_LANES; j++) {                                                         \
            sums[0] += away[j];                                                                          \
            sums[1] += size[j];                                                                          \
        }                                                                                                \
    }

DEFINE_ADD_DISTANCE(add_distance_float32, float)
DEFINE_ADD_DISTANCE(add_distance_float64, double)

/* Sums of the numbers of a set, as distances from one of them. */
typedef struct {
    double shift, count;
    double sum[MOMENT_LANES], squares[MOMENT_LANES], low[MOMENT_LANES], high[MOMENT_LANES];
} Moments;

static void begin_moments(Moments *moments) {
    memset(moments, 0, sizeof *moments);
    for (int j = 0; j < MOMENT_LANES; j++) {
        moments->low[j] = INFINITY;
        moments->high[j] = -INFINITY;
    }
}

#define DEFINE_ADD_MOMENTS(NAME, TYPE)                                                       \
    FOR_EACH_PROCESSOR static void NAME(Moments *moments, const TYPE *restrict x, int64_t count) { \
        double sum[MOMENT_LANES], squares[MOMENT_LANES], low[MOMENT_LANES], high[MOMENT_LANES]; \
        if (moments->count == 0.0 && count > 0) moments->shift = x[0];                       \
        const double shift = moments->shift;                                                 \
        memcpy(sum, moments->sum, sizeof sum);                                               \
        memcpy(squares, moments->squares, sizeof squares);                                   \
        memcpy(low, moments->low, sizeof low);                                               \
        memcpy(high, moments->high, sizeof high);                                            \
        int64_t i = 0;                                                                       \
        for (; i + MOMENT_LANES <= count; i += MOMENT_LANES) {                               \
            for (int j = 0; j < MOMENT_LANES; j++) {                                         \
                double value = x[i + j], distance = value - shift;                           \
                sum[j] += distance;                                                          \
                squares[j] += distance * distance;                                           \
                low[j] = value < low[j] ? value : low[j];                                    \
                high[j] = value > high[j] ? value : high[j];                                 \
            }                                                                                \
        }                                                                                    \
        for (int j = 0; i < count; i++, j++) {                                               \
            double value = x[i], distance = value - shift;                                   \
            sum[j] += distance;                                                              \
            squares[j] += distance * distance;                                               \
            low[j] = value < low[j] ? value : low[j];                                        \
            high[j] = value > high[j] ? value : high[j];                                     \
        }                                                                                    \
        memcpy(moments->sum, sum, sizeof sum);                                               \
        memcpy(moments->squares, squares, sizeof squares);                                   \
        memcpy(moments->low, low, sizeof low);                                               \
        memcpy(moments->high, high, sizeof high);                                            \
        moments->count += (double)count;                                                     \
    }

DEFINE_ADD_MOMENTS(add_moments_float32, float)
DEFINE_ADD_MOMENTS(add_moments_float64, double)

static float float_of_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static float float_of_bfloat16(uint16_t bits) { return float_of_bits((uint32_t)bits << 16); }

static float float_of_float16(uint16_t bits) {
    uint32_t magnitude = bits & 0x7fffu;
    float value;
    if (magnitude < 0x0400u) value = (float)magnitude * 0x1p-24f; /* subnormal */
    else value = float_of_bits((magnitude << 13) + (magnitude < 0x7c00u ? 112u << 23 : 224u << 23));
    return bits & 0x8000u ? -value : value;
}

static int64_t size_of(Kind kind) { return kind == KIND_FLOAT64 ? 8 : kind == KIND_FLOAT32 ? 4 : 2; }

/* Convert up to PIECE numbers of half precision. */
static void widen(Kind kind, const void *restrict from, float *restrict to, int64_t count) {
    const uint16_t *bits = from;
    if (kind == KIND_BFLOAT16) for (int64_t i = 0; i < count; i++) to[i] = float_of_bfloat16(bits[i]);
    else for (int64_t i = 0; i < count; i++) to[i] = float_of_float16(bits[i]);
}

static double number_at(Kind kind, const char *x, int64_t index) {
    switch (kind) {
        case KIND_FLOAT32: return ((const float *)x)[index];
        case KIND_FLOAT64: return ((const double *)x)[index];
        case KIND_BOOL: return ((const uint8_t *)x)[index];
        case KIND_BFLOAT16: return float_of_bfloat16(((const uint16_t *)x)[index]);
        default: return float_of_float16(((const uint16_t *)x)[index]);
    }
}

static double sum_of_squares(Kind kind, const char *x, int64_t count) {
    if (kind == KIND_FLOAT32) return sum_of_squares_float32((const float *)x, count);
    if (kind == KIND_FLOAT64) return sum_of_squares_float64((const double *)x, count);
    float piece[PIECE];
    double sum = 0.0;
    for (int64_t start = 0; start < count; start += PIECE) {
        int64_t length = count - start < PIECE ? count - start : PIECE;
        widen(kind, x + 2 * start, piece, length);
        sum += sum_of_squares_float32(piece, length);
    }
    return sum;
}

static void add_distance(Kind kind, const char *x, const char *y, int64_t count, double sums[2]) {
    if (kind == KIND_FLOAT32) add_distance_float32((const float *)x, (const float *)y, count, sums);
    else if (kind == KIND_FLOAT64) add_distance_float64((const double *)x, (const double *)y, count, sums);
    else {
        float first[PIECE], second[PIECE];
        for (int64_t start = 0; start < count; start += PIECE) {
            int64_t length = count - start < PIECE ? count - start : PIECE;
            widen(kind, x + 2 * start, first, length);
            widen(kind, y + 2 * start, second, length);
            add_distance_float32(first, second, length, sums);
        }
    }
}

/* The sum of the finite squares, and how many numbers are not finite. */
static double finite_sum_of_squares(Kind kind, const char *x, int64_t count, int64_t *nonfinite) {
    double sum = 0.0;
    for (int64_t i = 0; i < count; i++) {
        double value = number_at(kind, x, i);
        if (isfinite(value)) sum += value * value;
        else ++*nonfinite;
    }
    return sum;
}

static void add_moments(Moments *moments, Kind kind, const char *x, int64_t count) {
    if (kind == KIND_FLOAT32) add_moments_float32(moments, (const float *)x, count);
    else if (kind == KIND_FLOAT64) add_moments_float64(moments, (const double *)x, count);
    else {
        float piece[PIECE];
        for (int64_t start = 0; start < count; start += PIECE) {
            int64_t length = count - start < PIECE ? count - start : PIECE;
            widen(kind, x + 2 * start, piece, length);
            add_moments_float32(moments, piece, length);
        }
    }
}

/* count, mean, m2, minimum, maximum, nonfinite; false where a sum is not finite. */
static bool finish_moments(Moments *moments, double row[6]) {
    for (int j = 1; j < MOMENT_LANES; j++) {
        moments->sum[0] += moments->sum[j];
        moments->squares[0] += moments->squares[j];
        moments->low[0] = fmin(moments->low[0], moments->low[j]);
        moments->high[0] = fmax(moments->high[0], moments->high[j]);
    }
    double total = moments->sum[0], squares = moments->squares[0], count = moments->count;
    if (!isfinite(total) || !isfinite(squares)) return false;
    double average = count > 0.0 ? total / count : 0.0;
    double m2 = squares - total * average;
    row[0] = count;
    row[1] = count > 0.0 ? moments->shift + average : 0.0;
    row[2] = m2 > 0.0 ? m2 : 0.0;
    row[3] = moments->low[0];
    row[4] = moments->high[0];
    row[5] = 0.0;
    return true;
}

#endif
