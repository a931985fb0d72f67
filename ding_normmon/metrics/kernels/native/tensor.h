/* How a tensor lies in memory, read from a Python object.

Since version 2.10 torch hands out a function that tells in `torch.Tensor.__dlpack_c_exchange_api__`; its structures are
those of DLPack 1.x (https://dmlc.github.io/dlpack), whose layout is a stable ABI. An older torch is asked by the names
of Python, which takes ten times as long and still a tenth of what a sum in Python takes. */

#ifndef DING_NORMMON_TENSOR_H
#define DING_NORMMON_TENSOR_H

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030A0000
#include <Python.h>
#include <stdbool.h>
#include <stdint.h>

enum { DEVICE_CPU = 1 };
enum { CODE_FLOAT = 2, CODE_BFLOAT = 4, CODE_BOOL = 6 };

typedef struct {
    void *data;
    struct {
        int32_t type, id;
    } device;
    int32_t ndim;
    struct {
        uint8_t code, bits;
        uint16_t lanes;
    } dtype;
    int64_t *shape, *strides;
    uint64_t byte_offset;
} DlpackTensor;

typedef struct {
    struct {
        uint32_t major, minor;
    } version;
    void *previous;
    void *allocate, *own_from_object, *object_from_own;
    int (*borrow_from_object)(void *object, DlpackTensor *tensor);
} ExchangeApi;

/* The kinds of numbers, in the order in which `connect` takes their dtypes. */
typedef enum { KIND_FLOAT32, KIND_FLOAT64, KIND_FLOAT16, KIND_BFLOAT16, KIND_BOOL, KIND_OTHER } Kind;

enum { MOST_DIMS = 8, FIRST_PAGES = 1 << 22 };

typedef struct {
    Kind kind;
    const char *data;
    int32_t ndim;
    int64_t shape[MOST_DIMS], strides[MOST_DIMS];
} Tensor;

static const ExchangeApi *exchange_api;
static PyTypeObject *tensor_type, *parameter_type;
static PyObject *dtypes[KIND_OTHER];
static PyObject *is_functional;

/* connect(torch.Tensor, torch.nn.Parameter, (float32, float64, float16, bfloat16, bool), torch._is_functional_tensor,
   whether to use DLPack) */
static PyObject *connect(PyObject *module, PyObject *const *arguments, Py_ssize_t count) {
    (void)module;
    if (count != 5 || !PyType_Check(arguments[0]) || !PyType_Check(arguments[1]) || !PyTuple_Check(arguments[2]) ||
        PyTuple_Size(arguments[2]) != KIND_OTHER) {
        PyErr_SetString(PyExc_TypeError, "connect takes two types, five dtypes, a function and a bool");
        return NULL;
    }
    const ExchangeApi *found = NULL;
    PyObject *capsule = NULL;
    if (PyObject_IsTrue(arguments[4]) == 1) capsule = PyObject_GetAttrString(arguments[0], "__dlpack_c_exchange_api__");
    if (capsule != NULL) found = PyCapsule_GetPointer(capsule, "dlpack_exchange_api");
    Py_XDECREF(capsule);
    PyErr_Clear(); /* an older torch */
    if (found != NULL && (found->version.major != 1 || found->borrow_from_object == NULL)) found = NULL;
    /* They stay for as long as the process. */
    for (Py_ssize_t i = 0; i < 2; i++) Py_INCREF(arguments[i]);
    for (int kind = 0; kind < KIND_OTHER; kind++) {
        dtypes[kind] = PyTuple_GetItem(arguments[2], kind);
        Py_INCREF(dtypes[kind]);
    }
    is_functional = arguments[3];
    Py_INCREF(is_functional);
    exchange_api = found;
    tensor_type = (PyTypeObject *)arguments[0];
    parameter_type = (PyTypeObject *)arguments[1];
    return PyBool_FromLong(found != NULL);
}

static Kind kind_of(uint8_t code, uint8_t bits) {
    if (code == CODE_FLOAT && bits == 32) return KIND_FLOAT32;
    if (code == CODE_FLOAT && bits == 64) return KIND_FLOAT64;
    if (code == CODE_FLOAT && bits == 16) return KIND_FLOAT16;
    if (code == CODE_BFLOAT && bits == 16) return KIND_BFLOAT16;
    return code == CODE_BOOL && bits == 8 ? KIND_BOOL : KIND_OTHER;
}

static bool borrow(PyObject *object, Tensor *tensor) {
    DlpackTensor found;
    if (exchange_api->borrow_from_object(object, &found) != 0) return false;
    if (found.device.type != DEVICE_CPU || found.dtype.lanes != 1 || found.ndim > MOST_DIMS) return false;
    tensor->kind = kind_of(found.dtype.code, found.dtype.bits);
    tensor->data = found.data == NULL ? NULL : (const char *)found.data + found.byte_offset;
    tensor->ndim = found.ndim;
    for (int32_t dim = 0; dim < found.ndim; dim++) {
        tensor->shape[dim] = found.shape[dim];
        tensor->strides[dim] = found.strides[dim];
    }
    return true;
}

/* Read a tuple of at most MOST_DIMS numbers; their count, or -1. Takes the reference. */
static int32_t read_numbers(PyObject *tuple, int64_t *numbers) {
    Py_ssize_t count = tuple != NULL && PyTuple_Check(tuple) ? PyTuple_Size(tuple) : -1;
    if (count > MOST_DIMS) count = -1;
    for (Py_ssize_t i = 0; i < count; i++) numbers[i] = PyLong_AsLongLong(PyTuple_GetItem(tuple, i));
    Py_XDECREF(tuple);
    return PyErr_Occurred() ? -1 : (int32_t)count;
}

static bool ask(PyObject *object, Tensor *tensor) {
    PyObject *answer = PyObject_GetAttrString(object, "is_cpu");
    bool is_cpu = answer == Py_True;
    Py_XDECREF(answer);
    if (!is_cpu) return false;
    answer = PyObject_GetAttrString(object, "dtype");
    tensor->kind = KIND_FLOAT32;
    while (tensor->kind < KIND_OTHER && dtypes[tensor->kind] != answer) tensor->kind++;
    Py_XDECREF(answer);
    tensor->ndim = read_numbers(PyObject_GetAttrString(object, "shape"), tensor->shape);
    if (tensor->ndim < 0) return false;
    /* A sparse tensor has no strides, and raises. */
    if (read_numbers(PyObject_CallMethod(object, "stride", NULL), tensor->strides) != tensor->ndim) return false;
    answer = PyObject_CallMethod(object, "data_ptr", NULL);
    if (answer == NULL) return false;
    tensor->data = PyLong_AsVoidPtr(answer);
    Py_DECREF(answer);
    return !PyErr_Occurred();
}

/* Whether an object is a strided tensor on the CPU; subclasses may mean anything, and are nobody's here. */
static bool look_into(PyObject *object, Tensor *tensor) {
    if (tensor_type == NULL || (Py_TYPE(object) != tensor_type && Py_TYPE(object) != parameter_type)) return false;
    bool found = exchange_api != NULL ? borrow(object, tensor) : ask(object, tensor);
    if (!found) PyErr_Clear(); /* sparse and the like: whoever asked has another way */
    /* A tensor of zeros that were never written begins at null, and a part of it somewhat later. */
    return found && (uintptr_t)tensor->data >= FIRST_PAGES;
}

static bool is_false(PyObject *answer) {
    bool is = answer == Py_False;
    Py_XDECREF(answer);
    PyErr_Clear();
    return is;
}

/* Whether the numbers are what memory holds: not of a tensor of zeros that were never written, nor one whose signs are
turned (the imaginary part of a conjugate), nor one that stands for another (inside `torch.func.functionalize`). */
static bool is_literal(PyObject *object) {
    return is_false(PyObject_CallMethod(object, "is_neg", NULL)) &&
           is_false(PyObject_CallMethod(object, "_is_zerotensor", NULL)) &&
           is_false(PyObject_CallFunctionObjArgs(is_functional, object, NULL));
}

static bool is_floating(const Tensor *tensor) { return tensor->kind < KIND_BOOL; }

static int64_t numel_of(const Tensor *tensor) {
    int64_t numel = 1;
    for (int32_t dim = 0; dim < tensor->ndim; dim++) numel *= tensor->shape[dim];
    return numel;
}

/* Whether the dimensions from `first` on are one row in their order. */
static bool is_row(const Tensor *tensor, int32_t first) {
    int64_t expected = 1;
    for (int32_t dim = tensor->ndim - 1; dim >= first; dim--) {
        if (tensor->shape[dim] == 1) continue;
        if (tensor->strides[dim] != expected) return false;
        expected *= tensor->shape[dim];
    }
    return true;
}

/* Whether the elements lie side by side in whatever order, as those of a transposed or channels_last tensor do. */
static bool is_dense(const Tensor *tensor) {
    if (is_row(tensor, 0)) return true;
    int64_t expected = 1;
    /* Each turn finds the dimension of the next larger stride; there are few dimensions. */
    for (int32_t turn = 0; turn < tensor->ndim; turn++) {
        if (expected == numel_of(tensor)) return true;
        int32_t found = -1;
        for (int32_t dim = 0; dim < tensor->ndim; dim++) {
            if (tensor->shape[dim] > 1 && tensor->strides[dim] == expected) found = dim;
        }
        if (found < 0) return false;
        expected *= tensor->shape[found];
    }
    return expected == numel_of(tensor);
}

#endif
