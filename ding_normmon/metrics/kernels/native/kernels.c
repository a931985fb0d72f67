/* Sums of squares of many tensors, and the row of one tensor's valid entries, each in one call.

Inside a learner step what costs time is not the arithmetic but the Python between one small tensor and the next. What
these functions cannot read (another device, sparse, a subclass, a row with gaps) they leave to whoever called. */

#include "sums.h"
#include "tensor.h"

/* -- sums of squares ---------------------------------------------------------------------------------------------- */

typedef struct {
    const char *data;
    int64_t numel;
    Py_ssize_t index;
    Kind kind;
} Job;

enum { WORTH_RELEASING = 1 << 18 };

/* A float64 tensor to write into, of the length of the list. */
static double *output_of(PyObject *object, Py_ssize_t length) {
    Tensor tensor;
    if (!look_into(object, &tensor) || tensor.kind != KIND_FLOAT64 || tensor.ndim != 1 || !is_row(&tensor, 0) ||
        tensor.shape[0] != length) {
        PyErr_SetString(PyExc_ValueError, "expected a float64 tensor on the CPU, as long as the list");
        return NULL;
    }
    return (double *)tensor.data;
}

/* squares(tensors, numels, sums, nonfinite, start, stop) -> [index] */
static PyObject *squares(PyObject *module, PyObject *const *arguments, Py_ssize_t count) {
    (void)module;
    if (count != 6 || !PyList_Check(arguments[0]) || !PyList_Check(arguments[1])) {
        PyErr_SetString(PyExc_TypeError, "squares takes two lists, two tensors and two numbers");
        return NULL;
    }
    PyObject *tensors = arguments[0], *numels = arguments[1];
    Py_ssize_t length = PyList_Size(tensors);
    Py_ssize_t start = PyLong_AsSsize_t(arguments[4]), stop = PyLong_AsSsize_t(arguments[5]);
    if (PyErr_Occurred()) return NULL;
    if (PyList_Size(numels) != length || start < 0 || start > stop || stop > length) {
        PyErr_SetString(PyExc_ValueError, "the lists differ in length, or the range is not within them");
        return NULL;
    }
    double *sums = output_of(arguments[2], length);
    double *nonfinite = sums == NULL ? NULL : output_of(arguments[3], length);
    if (nonfinite == NULL) return NULL;
    PyObject *left = PyList_New(0);
    Job *jobs = PyMem_Malloc(((size_t)(stop - start) + 1) * sizeof(Job));
    if (left == NULL || jobs == NULL) {
        Py_XDECREF(left);
        PyMem_Free(jobs);
        return PyErr_NoMemory();
    }
    Py_ssize_t found = 0;
    int64_t elements = 0;
    bool failed = false;
    for (Py_ssize_t index = start; index < stop; index++) {
        sums[index] = nonfinite[index] = 0.0;
        PyObject *object = PyList_GetItem(tensors, index);
        if (object == Py_None) continue;
        int64_t expected = PyLong_AsLongLong(PyList_GetItem(numels, index));
        failed = expected == -1 && PyErr_Occurred();
        if (failed) break;
        Tensor tensor;
        if (look_into(object, &tensor) && is_floating(&tensor) && numel_of(&tensor) == expected && is_dense(&tensor)) {
            jobs[found++] = (Job){tensor.data, expected, index, tensor.kind};
            elements += expected;
            continue;
        }
        PyObject *number = PyLong_FromSsize_t(index);
        failed = number == NULL || PyList_Append(left, number) != 0;
        Py_XDECREF(number);
        if (failed) break;
    }
    if (failed) {
        Py_DECREF(left);
        PyMem_Free(jobs);
        return NULL;
    }
    /* The list keeps the tensors alive. */
    PyThreadState *state = elements >= WORTH_RELEASING ? PyEval_SaveThread() : NULL;
    for (Py_ssize_t job = 0; job < found; job++) {
        const Job *this = jobs + job;
        double sum = sum_of_squares(this->kind, this->data, this->numel);
        int64_t odd = 0;
        if (!isfinite(sum)) sum = finite_sum_of_squares(this->kind, this->data, this->numel, &odd);
        sums[this->index] = sum;
        nonfinite[this->index] = (double)odd;
    }
    if (state != NULL) PyEval_RestoreThread(state);
    PyMem_Free(jobs);
    return left;
}

/* -- sums of bit patterns ------------------------------------------------------------------------------------------ */

/* Neighbours have different odd weights, so that two entries that have changed places are seen. Everything is modulo
   2^64: the sum is the same in whatever order it is added. */
enum { WEIGHTS = 1 << 16 };
static uint32_t weights[WEIGHTS];

static void make_weights(void) {
    for (uint32_t i = 0; i < WEIGHTS; i++) weights[i] = (i * 2654435761u) | 1u;
}

#define DEFINE_BIT_SUM(NAME, TYPE)                                                                  \
    FOR_EACH_PROCESSOR static uint64_t NAME(const TYPE *restrict words, int64_t count) {            \
        uint64_t sum = 0;                                                                           \
        for (int64_t start = 0; start < count; start += WEIGHTS) {                                  \
            int64_t length = count - start < WEIGHTS ? count - start : WEIGHTS;                     \
            uint64_t piece = 0;                                                                     \
            for (int64_t i = 0; i < length; i++) piece += (uint64_t)words[start + i] * weights[i];  \
            sum += piece * (uint64_t)(2 * (start / WEIGHTS) + 1);                                   \
        }                                                                                           \
        return sum;                                                                                 \
    }                                                                                               \
    static uint64_t NAME##_sampled(const TYPE *words, int64_t count, int64_t most) {                \
        uint64_t sum = 0;                                                                           \
        int64_t stride = (count + most - 1) / most;                                                 \
        for (int64_t i = 0; i * stride < count; i++) sum += (uint64_t)words[i * stride] * weights[i]; \
        return sum;                                                                                 \
    }

DEFINE_BIT_SUM(bit_sum_of_words, uint32_t)
DEFINE_BIT_SUM(bit_sum_of_halves, uint16_t)

/* A prime: what is left of a sum modulo it is a float64 to the last bit. */
static const uint64_t FOLD = (1ull << 53) - 111;

/* bit_sums(tensors, most, folded) -> [int or None]; of each tensor at most so many words, evenly spread; all for 0.
   With a float64 tensor `folded` the sums are written there, modulo FOLD, and the list has the indices of the tensors
   that are left. */
static PyObject *bit_sums(PyObject *module, PyObject *args) {
    (void)module;
    PyObject *tensors, *folded;
    Py_ssize_t most;
    if (!PyArg_ParseTuple(args, "O!nO", &PyList_Type, &tensors, &most, &folded)) return NULL;
    if (most < 0 || most > WEIGHTS) {
        PyErr_Format(PyExc_ValueError, "most must be from 0 to %d, got %zd", WEIGHTS, most);
        return NULL;
    }
    Py_ssize_t length = PyList_Size(tensors);
    double *numbers = NULL;
    if (folded != Py_None && (numbers = output_of(folded, length)) == NULL) return NULL;
    PyObject *sums = PyList_New(0);
    if (sums == NULL) return NULL;
    for (Py_ssize_t index = 0; index < length; index++) {
        PyObject *object = PyList_GetItem(tensors, index), *entry = NULL;
        Tensor tensor;
        if (look_into(object, &tensor) && is_floating(&tensor) && is_row(&tensor, 0)) {
            int64_t numel = numel_of(&tensor), size = size_of(tensor.kind), count = size == 2 ? numel : numel * size / 4;
            const uint16_t *halves = (const uint16_t *)tensor.data;
            const uint32_t *words = (const uint32_t *)tensor.data;
            bool all = most == 0 || count <= most;
            /* The list keeps the tensor alive. */
            PyThreadState *state = all && numel >= WORTH_RELEASING ? PyEval_SaveThread() : NULL;
            uint64_t found;
            if (size == 2) found = all ? bit_sum_of_halves(halves, count) : bit_sum_of_halves_sampled(halves, count, most);
            else found = all ? bit_sum_of_words(words, count) : bit_sum_of_words_sampled(words, count, most);
            if (state != NULL) PyEval_RestoreThread(state);
            if (numbers != NULL) {
                numbers[index] = (double)(found % FOLD);
                continue;
            }
            entry = PyLong_FromUnsignedLongLong(found);
        } else {
            PyErr_Clear();
            entry = numbers != NULL ? PyLong_FromSsize_t(index) : Py_NewRef(Py_None);
        }
        bool failed = entry == NULL || PyList_Append(sums, entry) != 0;
        Py_XDECREF(entry);
        if (failed) {
            Py_DECREF(sums);
            return NULL;
        }
    }
    return sums;
}

/* -- distances ----------------------------------------------------------------------------------------------------- */

static bool lie_alike(const Tensor *first, const Tensor *second) {
    if (first->kind != second->kind || first->ndim != second->ndim) return false;
    for (int32_t dim = 0; dim < first->ndim; dim++) {
        if (first->shape[dim] != second->shape[dim]) return false;
        if (first->shape[dim] > 1 && first->strides[dim] != second->strides[dim]) return false;
    }
    return true;
}

/* distance(online, target) -> (sum of squared differences, sum of squares of `online`), or None if not all can be read */
static PyObject *distance(PyObject *module, PyObject *const *arguments, Py_ssize_t count) {
    (void)module;
    if (count != 2 || !PyList_Check(arguments[0]) || !PyList_Check(arguments[1]) ||
        PyList_Size(arguments[0]) != PyList_Size(arguments[1])) {
        PyErr_SetString(PyExc_TypeError, "distance takes two lists of the same length");
        return NULL;
    }
    double sums[2] = {0.0, 0.0};
    for (Py_ssize_t index = 0; index < PyList_Size(arguments[0]); index++) {
        Tensor mine, followed;
        if (!look_into(PyList_GetItem(arguments[0], index), &mine) || !is_floating(&mine) || !is_dense(&mine)) {
            Py_RETURN_NONE;
        }
        if (!look_into(PyList_GetItem(arguments[1], index), &followed) || !lie_alike(&mine, &followed)) Py_RETURN_NONE;
        /* The lists keep the tensors alive. */
        int64_t numel = numel_of(&mine);
        PyThreadState *state = numel >= WORTH_RELEASING ? PyEval_SaveThread() : NULL;
        add_distance(mine.kind, mine.data, followed.data, numel, sums);
        if (state != NULL) PyEval_RestoreThread(state);
    }
    return Py_BuildValue("(dd)", sums[0], sums[1]);
}

/* -- rows --------------------------------------------------------------------------------------------------------- */

/* The valid entries of a tensor: steps, in one or two strided dimensions, each of which is one row of `inner` numbers. */
typedef struct {
    Kind kind;
    const char *data;
    int64_t outer[2], strides[2], inner, vector;
    Kind mask_kind;
    const char *mask;
    int64_t mask_strides[2], mask_steps, repeats;
    bool is_flat;
} Entries;

/* Lay out (B, n*T, ...) or (B*T, ...) under a mask (B, T); false where that is not what was given. */
static bool lay_out(Entries *entries, PyObject *object, PyObject *mask_object, bool is_norm) {
    Tensor tensor, mask;
    if (!look_into(object, &tensor) || !is_floating(&tensor) || !is_literal(object)) return false;
    int64_t numel = numel_of(&tensor);
    if (numel == 0 || (is_norm && tensor.ndim < 1)) return false;
    entries->kind = tensor.kind;
    entries->data = tensor.data;
    entries->mask = NULL;
    entries->is_flat = false;
    int32_t outer = tensor.ndim - (is_norm ? 1 : 0);
    if (outer > 2) outer = 2;
    if (mask_object != Py_None) {
        if (!look_into(mask_object, &mask) || mask.kind == KIND_OTHER || mask.ndim != 2) return false;
        int64_t batch = mask.shape[0], steps = mask.shape[1];
        if (steps == 0 || tensor.ndim == 0) return false;
        /* With one step a (B, E) tensor is (B*T, E) and not E tokens of one step. */
        bool is_tokens = tensor.ndim >= 2 && tensor.shape[0] == batch && tensor.shape[1] % steps == 0 &&
                         !(tensor.ndim == 2 && steps == 1);
        entries->is_flat = !is_tokens;
        if (!is_tokens && tensor.shape[0] != batch * steps) return false;
        outer = is_tokens ? 2 : 1;
        if (tensor.ndim - outer < (is_norm ? 1 : 0)) return false;
        entries->mask = mask.data;
        entries->mask_kind = mask.kind;
        entries->mask_strides[0] = mask.strides[0];
        entries->mask_strides[1] = mask.strides[1];
        entries->mask_steps = steps;
        entries->repeats = is_tokens ? tensor.shape[1] / steps : 1;
    } else if (!is_norm && is_dense(&tensor)) {
        entries->outer[0] = entries->outer[1] = 1;
        entries->strides[0] = entries->strides[1] = 0;
        entries->inner = numel;
        return true;
    }
    if (!is_row(&tensor, outer)) return false;
    entries->inner = 1;
    for (int32_t dim = outer; dim < tensor.ndim; dim++) entries->inner *= tensor.shape[dim];
    entries->vector = is_norm ? tensor.shape[tensor.ndim - 1] : 0;
    for (int32_t dim = 0; dim < 2; dim++) {
        entries->outer[dim] = dim < outer ? tensor.shape[dim] : 1;
        entries->strides[dim] = dim < outer ? tensor.strides[dim] * size_of(entries->kind) : 0;
    }
    return true;
}

static bool is_valid(const Entries *entries, int64_t first, int64_t second) {
    if (entries->mask == NULL) return true;
    int64_t step = second / entries->repeats;
    if (entries->is_flat) {
        step = first % entries->mask_steps;
        first /= entries->mask_steps;
    }
    int64_t index = first * entries->mask_strides[0] + step * entries->mask_strides[1];
    return number_at(entries->mask_kind, entries->mask, index) != 0.0;
}

/* Who gets the numbers: sums of all of them or, once these have turned out not to be finite, of the finite ones. */
typedef struct {
    Moments moments;
    bool careful;
    double nonfinite;
    double norms[PIECE];
    int64_t waiting;
} Sink;

static void take(Sink *sink, Kind kind, const char *x, int64_t count) {
    if (!sink->careful) {
        add_moments(&sink->moments, kind, x, count);
        return;
    }
    for (int64_t i = 0; i < count; i++) {
        double value = number_at(kind, x, i);
        if (isfinite(value)) add_moments_float64(&sink->moments, &value, 1);
        else sink->nonfinite += 1.0;
    }
}

static void take_norms(Sink *sink, const Entries *entries, const char *x, int64_t count) {
    for (int64_t start = 0; start < count; start += entries->vector) {
        if (sink->waiting == PIECE) {
            take(sink, KIND_FLOAT64, (const char *)sink->norms, PIECE);
            sink->waiting = 0;
        }
        const char *vector = x + start * size_of(entries->kind);
        sink->norms[sink->waiting++] = sqrt(sum_of_squares(entries->kind, vector, entries->vector));
    }
}

static void visit(Sink *sink, const Entries *entries) {
    int64_t size = size_of(entries->kind), length = 0;
    const char *run = NULL; /* steps that lie side by side are one row */
    begin_moments(&sink->moments);
    sink->waiting = 0;
    for (int64_t first = 0; first < entries->outer[0]; first++) {
        for (int64_t second = 0; second < entries->outer[1]; second++) {
            if (!is_valid(entries, first, second)) continue;
            const char *x = entries->data + first * entries->strides[0] + second * entries->strides[1];
            if (length > 0 && x == run + length * size) {
                length += entries->inner;
                continue;
            }
            if (length > 0 && entries->vector) take_norms(sink, entries, run, length);
            else if (length > 0) take(sink, entries->kind, run, length);
            run = x;
            length = entries->inner;
        }
    }
    if (length > 0 && entries->vector) take_norms(sink, entries, run, length);
    else if (length > 0) take(sink, entries->kind, run, length);
    if (sink->waiting) take(sink, KIND_FLOAT64, (const char *)sink->norms, sink->waiting);
}

/* row(tensor, mask or None, is_norm) -> (count, mean, m2, minimum, maximum, nonfinite) or None */
static PyObject *row(PyObject *module, PyObject *const *arguments, Py_ssize_t count) {
    (void)module;
    if (count != 3) {
        PyErr_SetString(PyExc_TypeError, "row takes a tensor, a mask or None, and whether norms are wanted");
        return NULL;
    }
    int is_norm = PyObject_IsTrue(arguments[2]);
    if (is_norm < 0) return NULL;
    Entries entries = {0};
    if (!lay_out(&entries, arguments[0], arguments[1], is_norm)) Py_RETURN_NONE;
    Sink sink = {0};
    double figures[6];
    PyThreadState *state = NULL;
    if (entries.outer[0] * entries.outer[1] * entries.inner >= WORTH_RELEASING) state = PyEval_SaveThread();
    visit(&sink, &entries);
    bool finished = finish_moments(&sink.moments, figures);
    if (!finished) {
        sink.careful = true;
        visit(&sink, &entries);
        finished = finish_moments(&sink.moments, figures);
    }
    if (state != NULL) PyEval_RestoreThread(state);
    if (!finished) Py_RETURN_NONE; /* squares that even float64 cannot hold */
    return Py_BuildValue(
        "(dddddd)", figures[0], figures[1], figures[2], figures[3], figures[4], figures[5] + sink.nonfinite
    );
}

/* number(tensor) -> float or None */
static PyObject *number(PyObject *module, PyObject *object) {
    (void)module;
    Tensor tensor;
    if (!look_into(object, &tensor) || !is_floating(&tensor) || numel_of(&tensor) != 1 || !is_literal(object)) {
        Py_RETURN_NONE;
    }
    return PyFloat_FromDouble(number_at(tensor.kind, tensor.data, 0));
}

static PyMethodDef functions[] = {
    {"connect", (PyCFunction)(void (*)(void))connect, METH_FASTCALL,
     "Take torch's types and dtypes; return whether DLPack is used."},
    {"squares", (PyCFunction)(void (*)(void))squares, METH_FASTCALL,
     "Write the sum of squares and the number of non-finite entries of each tensor; return the indices of the others."},
    {"bit_sums", (PyCFunction)bit_sums, METH_VARARGS,
     "Return the sum of the bit patterns, or of a sample of them, of each tensor of a list, or None."},
    {"distance", (PyCFunction)(void (*)(void))distance, METH_FASTCALL,
     "Return the sums of squares of the differences of two lists of tensors and of the first list, or None."},
    {"row", (PyCFunction)(void (*)(void))row, METH_FASTCALL, "Return the row of a tensor's valid entries, or None."},
    {"number", (PyCFunction)number, METH_O, "Return the one number of a tensor, or None."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_kernels", "Sums over tensors on the CPU.", -1, functions, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__kernels(void) {
    make_weights();
    return PyModule_Create(&definition);
}
