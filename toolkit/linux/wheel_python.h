/* wheel_python.h - comes before what Cython generates for the limited API. That asks module
 * `inspect`, whose import takes longer than all the rest of a start, for flags of code objects;
 * they have been the same since CPython 3.6, so they are given here and `inspect` stays out. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#define CO_OPTIMIZED 0x1
#define CO_NEWLOCALS 0x2
#define CO_VARARGS 0x4
#define CO_VARKEYWORDS 0x8
#define CO_GENERATOR 0x20
#define CO_COROUTINE 0x80
#define CO_ASYNC_GENERATOR 0x200

static inline PyObject *import_module(const char *name)
{
    return strcmp(name, "inspect") == 0 ? Py_NewRef(Py_None) : PyImport_ImportModule(name);
}
#define PyImport_ImportModule import_module
