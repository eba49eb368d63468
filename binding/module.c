/* SPDX-License-Identifier: MIT */
/*
 * module.c - uslub._engine: multi-phase initialisation, one state per interpreter.
 */
#include "binding.h"

/* ---- functions ---- */

static PyObject *module_geometry(PyObject *module, PyObject *const *args,
                                 Py_ssize_t nargs, PyObject *kwnames)
{
    static const struct parameters expected = {
        "geometry",
        1,
        1,
        {"object_size", "align", "flags", "ctor", "order", "min_partial", "cpu_partial",
         "useroffset", "usersize", "cpus"},
    };
    static const char image[1];
    struct state *state = PyModule_GetState(module);
    struct us_cache_config config = US_CACHE_CONFIG_INIT;
    int64_t align = 0, order = -1, min_partial = -1, cpu_partial = -1;
    int64_t useroffset = 0, usersize = 0, cpus = 0;
    struct us_geometry geometry;
    PyObject *values[10];
    bool ctor;
    us_err code;

    if (!parse_arguments(&expected, args, nargs, kwnames, values) ||
        !convert_size_positive(state, values[0], "object_size", &config.object_size) ||
        !convert_int(state, values[1], "align", 0, UINT32_MAX, &align) ||
        !convert_flags(state, values[2], &config.flags) ||
        !convert_bool(values[3], &ctor) ||
        !convert_int(state, values[4], "order", 0, INT32_MAX, &order) ||
        !convert_int(state, values[5], "min_partial", 0, INT32_MAX, &min_partial) ||
        !convert_int(state, values[6], "cpu_partial", 0, INT32_MAX, &cpu_partial) ||
        !convert_int(state, values[7], "useroffset", 0, INT32_MAX, &useroffset) ||
        !convert_int(state, values[8], "usersize", 0, INT32_MAX, &usersize) ||
        !convert_int(state, values[9], "cpus", 1, UINT32_MAX, &cpus)) {
        return NULL;
    }
    config.align = (uint32_t)align;
    config.image = ctor ? image : NULL; /* that there is one is all that counts */
    config.order = (int32_t)order;
    config.min_partial = (int32_t)min_partial;
    config.cpu_partial = (int32_t)cpu_partial;
    config.useroffset = (int32_t)useroffset;
    config.usersize = (int32_t)usersize;
    code = us_geometry(&config, (uint32_t)cpus, &geometry);
    return code != US_OK ? raise_engine(state, code)
                         : geometry_record(state, &geometry);
}

static PyObject *module_size_bytes(PyObject *module, PyObject *value)
{
    uint64_t bytes = 0;

    if (value == Py_None) {
        return PyErr_Format(PyExc_TypeError, "size must be an int or text, not None");
    }
    if (!convert_size(PyModule_GetState(module), value, "size", &bytes)) {
        return NULL;
    }
    return PyLong_FromUnsignedLongLong(bytes);
}

static PyMethodDef module_functions[] = {
    {"geometry", (PyCFunction)(void (*)(void))module_geometry,
     METH_FASTCALL | METH_KEYWORDS,
     "geometry(object_size, *, align=0, flags=0, ctor=False, order=None, min_partial=None, "
     "cpu_partial=None, useroffset=0, usersize=0, cpus=None)\n--\n\n"
     "What a cache with these parameters would look like, without an arena."},
    {"size_bytes", module_size_bytes, METH_O,
     "size_bytes(size, /)\n--\n\n"
     "Read a size as every call here does: 4096, '64KiB', '1.5G'."},
    {"_gather", module_gather, METH_VARARGS,
     "_gather(obj, addresses, nbytes, /)\n--\n\n"},
    {"_examine", module_examine, METH_O, "_examine(name, /)\n--\n\n"},
    {NULL, NULL, 0, NULL},
};

/* ---- state ---- */

static PyObject *attribute_of(const char *module, const char *name)
{
    PyObject *imported = PyImport_ImportModule(module), *value;

    value = imported == NULL ? NULL : PyObject_GetAttrString(imported, name);
    Py_XDECREF(imported);
    return value;
}

/* Statistics come out in the order of uslub.snapshot.STATS, whatever the engine's is.
 */
static bool order_stats(struct state *state)
{
    PyObject *names = attribute_of("uslub.snapshot", "STATS");
    bool good = names != NULL && PyTuple_Check(names) &&
                PyTuple_GET_SIZE(names) == (Py_ssize_t)US_STAT_ITEMS;

    for (Py_ssize_t i = 0; good && i < (Py_ssize_t)US_STAT_ITEMS; i++) {
        PyObject *name = PyTuple_GET_ITEM(names, i);
        int item = 0;

        while (item < US_STAT_ITEMS &&
               PyUnicode_CompareWithASCIIString(
                   name, us_stat_name((enum us_stat)item)) != 0) {
            item++;
        }
        good = item < US_STAT_ITEMS;
        state->stat_order[i] = (uint8_t)item;
    }
    Py_XDECREF(names);
    if (!good && !PyErr_Occurred()) {
        PyErr_SetString(PyExc_ImportError,
                        "uslub.snapshot.STATS and the engine name different counters");
    }
    return good;
}

static PyTypeObject *add_type(PyObject *module, PyType_Spec *spec)
{
    PyObject *type = PyType_FromModuleAndSpec(module, spec, NULL);

    if (type != NULL && PyModule_AddType(module, (PyTypeObject *)type) != 0) {
        Py_CLEAR(type);
    }
    return (PyTypeObject *)type;
}

static int module_exec(PyObject *module)
{
    struct state *state = PyModule_GetState(module);
    PyTypeObject *probe;

    if (!errors_import(state) || !order_stats(state) ||
        (state->empty_text = PyUnicode_FromString("")) == NULL ||
        (state->stdlib = attribute_of("sys", "stdlib_module_names")) == NULL ||
        (state->flags_type = attribute_of("uslub.flags", "Flags")) == NULL ||
        (state->handle_type = attribute_of("uslub.handle", "Handle")) == NULL ||
        (state->arena_info = attribute_of("uslub.info", "ArenaInfo")) == NULL ||
        (state->process_info = attribute_of("uslub.info", "ProcessInfo")) == NULL ||
        (state->thread_info = attribute_of("uslub.info", "ThreadInfo")) == NULL ||
        (state->health = attribute_of("uslub.info", "Health")) == NULL ||
        (state->reaped = attribute_of("uslub.info", "Reaped")) == NULL ||
        (state->cache_info = attribute_of("uslub.info", "CacheInfo")) == NULL ||
        (state->geometry = attribute_of("uslub.info", "Geometry")) == NULL ||
        (state->arena_type = add_type(module, &arena_spec)) == NULL ||
        (state->cache_type = add_type(module, &cache_spec)) == NULL ||
        (state->object_type = add_type(module, &object_spec)) == NULL ||
        (state->channel_type = add_type(module, &channel_spec)) == NULL ||
        (probe = add_type(module, &probe_spec)) == NULL) {
        return -1;
    }
    Py_DECREF(probe); /* the module keeps it */
    return PyModule_AddStringConstant(module, "__version__", US_VERSION_STRING);
}

static int module_traverse(PyObject *module, visitproc visit, void *arg)
{
    struct state *state = PyModule_GetState(module);

    Py_VISIT(state->arena_type);
    Py_VISIT(state->cache_type);
    Py_VISIT(state->object_type);
    Py_VISIT(state->channel_type);
    for (int code = US_OK; code <= US_ESYSTEM; code++) {
        Py_VISIT(state->errors[code]);
    }
    for (int which = 0; which < OWN_ERRORS; which++) {
        Py_VISIT(state->own_errors[which]);
    }
    Py_VISIT(state->flags_type);
    Py_VISIT(state->handle_type);
    Py_VISIT(state->arena_info);
    Py_VISIT(state->process_info);
    Py_VISIT(state->thread_info);
    Py_VISIT(state->health);
    Py_VISIT(state->reaped);
    Py_VISIT(state->cache_info);
    Py_VISIT(state->geometry);
    return 0;
}

static int module_clear(PyObject *module)
{
    struct state *state = PyModule_GetState(module);

    Py_CLEAR(state->arena_type);
    Py_CLEAR(state->cache_type);
    Py_CLEAR(state->object_type);
    Py_CLEAR(state->channel_type);
    for (int code = US_OK; code <= US_ESYSTEM; code++) {
        Py_CLEAR(state->errors[code]);
    }
    for (int which = 0; which < OWN_ERRORS; which++) {
        Py_CLEAR(state->own_errors[which]);
    }
    Py_CLEAR(state->empty_text);
    Py_CLEAR(state->stdlib);
    Py_CLEAR(state->flags_type);
    Py_CLEAR(state->handle_type);
    Py_CLEAR(state->arena_info);
    Py_CLEAR(state->process_info);
    Py_CLEAR(state->thread_info);
    Py_CLEAR(state->health);
    Py_CLEAR(state->reaped);
    Py_CLEAR(state->cache_info);
    Py_CLEAR(state->geometry);
    return 0;
}

static void module_free(void *module)
{
    (void)module_clear(module);
}

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, module_exec},
#ifdef Py_mod_multiple_interpreters
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#endif
#ifdef Py_mod_gil
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};

static struct PyModuleDef module_definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "uslub._engine",
    .m_doc = "The binding: Arena, Cache and Object over the C engine (libuslub).",
    .m_size = sizeof(struct state),
    .m_methods = module_functions,
    .m_slots = module_slots,
    .m_traverse = module_traverse,
    .m_clear = module_clear,
    .m_free = module_free,
};

PyMODINIT_FUNC PyInit__engine(void);

PyMODINIT_FUNC PyInit__engine(void)
{
    return PyModuleDef_Init(&module_definition);
}
