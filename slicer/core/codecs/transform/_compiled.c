/* The loops that numpy is slow at. `compiled.py` says where each one's numpy is; both give the same.

Nothing is read or written outside the buffers, whatever is in them: every index is compared with a size that the caller
gave. Buffers are C-contiguous arrays of the host's integers; only a message's words are little-endian bytes. The GIL is
released meanwhile, so nobody else may write to them. Whoever changes what a function takes gives it another name: a
checkout may still hold what was built before. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <string.h>

enum { PRECISION = 12, SLOTS = 1 << PRECISION, FREQUENCY_BITS = PRECISION + 1, GROUP = 4, WIDE = 16 };

static const uint32_t LOWEST = 1u << 16, FREQUENCIES = (1u << FREQUENCY_BITS) - 1;

/* What a loop returns where it gave up. Only the first one is for users. */
enum { USED_UP = -1, BAD_BUFFERS = -2, NO_MEMORY = -3 };

enum { MOST_BUFFERS = 6 };

/* The buffers of a call, to be released together. */
typedef struct {
    Py_buffer view[MOST_BUFFERS];
    int count;
} Buffers;

/* Elements of buffer `i`; -1: it does not hold whole, aligned ones of `size` bytes. */
static Py_ssize_t elements(const Buffers *all, int i, size_t size)
{
    const Py_buffer *view = &all->view[i];
    return (size_t)view->len % size || (uintptr_t)view->buf % size ? -1 : view->len / (Py_ssize_t)size;
}

static PyObject *finished(Buffers *all, Py_ssize_t found)
{
    for (int i = 0; i < all->count; i++)
        PyBuffer_Release(&all->view[i]);
    if (found == NO_MEMORY)
        return PyErr_NoMemory();
    if (found == BAD_BUFFERS) {
        PyErr_SetString(PyExc_ValueError, "the sizes or contents of the buffers do not fit each other");
        return NULL;
    }
    return PyLong_FromSsize_t(found);
}

/* --- rans.Decoder.read ------------------------------------------------------------------------------------------- */

/* `symbol_at`: [tables, SLOTS]. `intervals`: [tables, symbols], where a symbol starts and, in the lower FREQUENCY_BITS, its
frequency. */
static Py_ssize_t read_symbols(const unsigned char *words, Py_ssize_t words_count, Py_ssize_t at, uint32_t *state,
                               Py_ssize_t lanes, Py_ssize_t lane, const uint8_t *symbol_at, Py_ssize_t tables,
                               const uint32_t *intervals, Py_ssize_t symbols, const uint8_t *which, uint8_t *out,
                               Py_ssize_t count)
{
    for (Py_ssize_t i = 0; i < count; i++) {
        const Py_ssize_t table = which[i];
        if (table >= tables)
            return BAD_BUFFERS;
        uint32_t x = state[lane];
        const uint32_t slot = x & (SLOTS - 1);
        const uint8_t symbol = symbol_at[table * SLOTS + slot];
        if (symbol >= symbols)
            return BAD_BUFFERS;
        const uint32_t interval = intervals[table * symbols + symbol];
        out[i] = symbol;
        x = (interval & FREQUENCIES) * (x >> PRECISION) + slot - (interval >> FREQUENCY_BITS);
        if (x < LOWEST) {
            if (at >= words_count)
                return USED_UP;
            x = x << 16 | (uint32_t)words[2 * at] | (uint32_t)words[2 * at + 1] << 8;
            at++;
        }
        state[lane] = x;
        if (++lane == lanes)
            lane = 0;
    }
    return at;
}

static PyObject *read_method(PyObject *Py_UNUSED(self), PyObject *args)
{
    Buffers b = {.count = 6};
    Py_buffer *const v = b.view;
    Py_ssize_t at, lane, found = BAD_BUFFERS;
    if (!PyArg_ParseTuple(args, "y*nw*ny*y*y*w*:read", &v[0], &at, &v[1], &lane, &v[2], &v[3], &v[4], &v[5]))
        return NULL;
    const Py_ssize_t words = v[0].len / 2, lanes = elements(&b, 1, 4), tables = v[2].len / SLOTS;
    const Py_ssize_t symbols = tables ? elements(&b, 3, 4) / tables : 0;
    if (at >= 0 && at <= words && lane >= 0 && lane < lanes && v[4].len == v[5].len) {
        Py_BEGIN_ALLOW_THREADS
        found = read_symbols(v[0].buf, words, at, v[1].buf, lanes, lane, v[2].buf, tables, v[3].buf, symbols, v[4].buf,
                             v[5].buf, v[4].len);
        Py_END_ALLOW_THREADS
    }
    return finished(&b, found);
}

/* --- rans.encode ------------------------------------------------------------------------------------------------- */

/* From the end of `words` towards its beginning: the decoder asks for the last one first. A symbol writes one at most,
so there is room. */
static Py_ssize_t write_words(const uint32_t *intervals, Py_ssize_t count, uint32_t *state, Py_ssize_t lanes,
                              uint16_t *words)
{
    Py_ssize_t written = 0, lane = count % lanes;
    for (Py_ssize_t i = count - 1; i >= 0; i--) {
        lane = (lane ? lane : lanes) - 1;
        const uint32_t frequency = intervals[i] & FREQUENCIES, start = intervals[i] >> FREQUENCY_BITS;
        if (frequency == 0 || frequency > SLOTS)
            return BAD_BUFFERS;
        uint32_t x = state[lane];
        if (x >> (32 - PRECISION) >= frequency) {
            words[count - ++written] = (uint16_t)x;
            x >>= 16;
        }
        state[lane] = (x / frequency << PRECISION) + x % frequency + start;
    }
    return written;
}

static PyObject *write_method(PyObject *Py_UNUSED(self), PyObject *args)
{
    Buffers b = {.count = 3};
    Py_buffer *const v = b.view;
    Py_ssize_t found = BAD_BUFFERS;
    if (!PyArg_ParseTuple(args, "y*w*w*:write", &v[0], &v[1], &v[2]))
        return NULL;
    const Py_ssize_t count = elements(&b, 0, 4), lanes = elements(&b, 1, 4);
    if (count >= 0 && lanes > 0 && elements(&b, 2, 2) == count) {
        Py_BEGIN_ALLOW_THREADS
        found = write_words(v[0].buf, count, v[1].buf, lanes, v[2].buf);
        Py_END_ALLOW_THREADS
    }
    return finished(&b, found);
}

/* --- groups.places_of, groups.patterns_of ------------------------------------------------------------------------ */

static PyObject *expand_method(PyObject *Py_UNUSED(self), PyObject *args)
{
    Buffers b = {.count = 2};
    Py_buffer *const v = b.view;
    Py_ssize_t found = BAD_BUFFERS;
    if (!PyArg_ParseTuple(args, "y*w*:expand", &v[0], &v[1]))
        return NULL;
    /* One more than there can be: it is written to before it is known whether it counts. */
    if (elements(&b, 1, sizeof(Py_ssize_t)) == GROUP * v[0].len + 1) {
        const uint8_t *const patterns = v[0].buf;
        Py_ssize_t *const places = v[1].buf;
        found = 0;
        Py_BEGIN_ALLOW_THREADS
        for (Py_ssize_t group = 0; group < v[0].len; group++)
            for (int i = 0; i < GROUP; i++) {
                places[found] = GROUP * group + i;
                found += patterns[group] >> i & 1;
            }
        Py_END_ALLOW_THREADS
    }
    return finished(&b, found);
}

static PyObject *gather_method(PyObject *Py_UNUSED(self), PyObject *args)
{
    Buffers b = {.count = 3};
    Py_buffer *const v = b.view;
    Py_ssize_t found = BAD_BUFFERS;
    if (!PyArg_ParseTuple(args, "y*w*w*:gather", &v[0], &v[1], &v[2]))
        return NULL;
    if (elements(&b, 0, 4) == GROUP * v[1].len && elements(&b, 2, sizeof(Py_ssize_t)) == GROUP * v[1].len + 1) {
        const int32_t *const integers = v[0].buf;
        uint8_t *const patterns = v[1].buf;
        Py_ssize_t *const places = v[2].buf;
        found = 0;
        Py_BEGIN_ALLOW_THREADS
        for (Py_ssize_t group = 0; group < v[1].len; group++) {
            unsigned pattern = 0;
            for (int i = 0; i < GROUP; i++) {
                const unsigned present = integers[GROUP * group + i] != 0;
                places[found] = GROUP * group + i;
                found += present;
                pattern |= present << i;
            }
            patterns[group] = (uint8_t)pattern;
        }
        Py_END_ALLOW_THREADS
    }
    return finished(&b, found);
}

/* --- linear.LinearTransform.synthesise: rows with few coefficients times a matrix -------------------------------- */

typedef struct {
    uint32_t channel;
    float value;
} Coefficient;

/* A strip of WIDE columns of one row; `strip` is [channels, WIDE]. A constant number of columns, so that they stay in
registers. */
static void strip_of_row(const Coefficient *restrict coded, const Coefficient *end, const float *restrict strip, float *restrict out)
{
    float s0[4] = {0}, s1[4] = {0}, s2[4] = {0}, s3[4] = {0};
    for (; coded < end; coded++) {
        const float value = coded->value, *const row = strip + (size_t)coded->channel * WIDE;
        for (int i = 0; i < 4; i++) {
            s0[i] += value * row[i + 0];
            s1[i] += value * row[i + 4];
            s2[i] += value * row[i + 8];
            s3[i] += value * row[i + 12];
        }
    }
    memcpy(out + 0, s0, sizeof s0);
    memcpy(out + 4, s1, sizeof s1);
    memcpy(out + 8, s2, sizeof s2);
    memcpy(out + 12, s3, sizeof s3);
}

/* `spots`: of each coefficient its row and, in the lower `shift` bits, its channel; `which` of them have `values`. The first `prefix` rows take the first of
the two matrices, each of which lies as strips [strips, channels, WIDE], the last one filled up. */
static Py_ssize_t mix(const Py_ssize_t *which, const float *values, Py_ssize_t count, const uint32_t *spots,
                      Py_ssize_t spots_count, int shift, Py_ssize_t prefix, const float *matrices, float *out,
                      Py_ssize_t rows, Py_ssize_t channels)
{
    const Py_ssize_t strips = (channels + WIDE - 1) / WIDE;
    const uint32_t mask = ((uint32_t)1 << shift) - 1;
    Py_ssize_t *const end = PyMem_RawCalloc((size_t)rows + 1, sizeof *end);
    uint32_t *const spot_of = PyMem_RawMalloc((size_t)count * sizeof *spot_of + 1);
    Coefficient *const coded = PyMem_RawMalloc((size_t)count * sizeof *coded + 1);
    Py_ssize_t found = NO_MEMORY;
    if (!end || !spot_of || !coded)
        goto done;
    found = BAD_BUFFERS;
    for (Py_ssize_t i = 0; i < count; i++) {
        const Py_ssize_t one = which[i];
        if (one < 0 || one >= spots_count)
            goto done;
        const uint32_t spot = spots[one];
        if (spot >> shift >= (size_t)rows || (spot & mask) >= (size_t)channels)
            goto done;
        spot_of[i] = spot;
        end[(spot >> shift) + 1]++;
    }
    for (Py_ssize_t row = 0; row < rows; row++)
        end[row + 1] += end[row];
    /* end[row] is where the row begins, and moves to where it ends. */
    for (Py_ssize_t i = 0; i < count; i++)
        coded[end[spot_of[i] >> shift]++] = (Coefficient){spot_of[i] & mask, values[i]};
    for (Py_ssize_t s = 0; s < strips; s++)
        for (Py_ssize_t row = 0; row < rows; row++) {
            float sum[WIDE];
            const Py_ssize_t matrix = row < prefix ? 0 : 1, left = channels - s * WIDE;
            strip_of_row(coded + (row ? end[row - 1] : 0), coded + end[row],
                         matrices + (size_t)((matrix * strips + s) * channels * WIDE), sum);
            memcpy(out + row * channels + s * WIDE, sum, (size_t)(left < WIDE ? left : WIDE) * sizeof *sum);
        }
    found = 0;
done:
    PyMem_RawFree(end);
    PyMem_RawFree(spot_of);
    PyMem_RawFree(coded);
    return found;
}

static PyObject *mix_method(PyObject *Py_UNUSED(self), PyObject *args)
{
    Buffers b = {.count = 5};
    Py_buffer *const v = b.view;
    Py_ssize_t prefix, channels, found = BAD_BUFFERS;
    int shift;
    if (!PyArg_ParseTuple(args, "y*y*y*iny*nw*:mix", &v[0], &v[1], &v[2], &shift, &prefix, &v[3], &channels, &v[4]))
        return NULL;
    const Py_ssize_t count = elements(&b, 0, sizeof(Py_ssize_t)), spots = elements(&b, 2, 4), size = elements(&b, 4, 4);
    if (count >= 0 && elements(&b, 1, 4) == count && spots >= 0 && size >= 0 && shift >= 0 && shift < 32 && channels > 0 &&
        channels <= 1 << 24 && size % channels == 0 &&
        elements(&b, 3, 4) / WIDE / channels == 2 * ((channels + WIDE - 1) / WIDE)) {
        Py_BEGIN_ALLOW_THREADS
        found = mix(v[0].buf, v[1].buf, count, v[2].buf, spots, shift, prefix, v[3].buf, v[4].buf, size / channels,
                    channels);
        Py_END_ALLOW_THREADS
    }
    return finished(&b, found);
}

static PyMethodDef methods[] = {
    {"read", read_method, METH_VARARGS, NULL},     {"write", write_method, METH_VARARGS, NULL},
    {"expand", expand_method, METH_VARARGS, NULL}, {"gather", gather_method, METH_VARARGS, NULL},
    {"mix", mix_method, METH_VARARGS, NULL},       {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot slots[] = {{0, NULL}};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_compiled",
    .m_size = 0,
    .m_methods = methods,
    .m_slots = slots,
};

PyMODINIT_FUNC PyInit__compiled(void)
{
    return PyModuleDef_Init(&module);
}
