// SPDX-License-Identifier: Apache-2.0
// The exports that are not ops: library, devices, contexts, memory, streams, events.
#include "core/context.h"
#include "core/guard.h"
#include "core/op.h"

#include <cstdlib>
#include <cstring>
#include <memory>

/// The opaque handles of strata.h. Each remembers its context, which must outlive it.
struct strata_buffer {
    strata_context *context;
    void *data;
    std::size_t bytes;
};
struct strata_event {
    strata_context *context;
    void *event;
    bool recorded;
};

namespace strata {

namespace {
thread_local const char *last_impl = "";

Status need(const void *pointer, const char *where, const char *what) {
    if (pointer != nullptr) {
        return STRATA_OK;
    }
    return fail(STRATA_E_ARGUMENT, where, ": ", what, " is NULL, must not be; pass a valid pointer");
}

// "cuda:1" → slot 2, index 1.
Status parse_device(const char *device, const BackendSlot **slot, std::int32_t *index) {
    const BackendSlot *slots = backend_slots();
    for (std::int32_t i = 0; i < kBackendSlots; ++i) {
        const std::size_t length = std::strlen(slots[i].kind);
        if (std::strncmp(device, slots[i].kind, length) != 0) {
            continue;
        }
        const char *rest = device + length;
        if (*rest == '\0' && std::strcmp(slots[i].kind, "cuda") != 0) {
            *slot = &slots[i];
            *index = 0;
            return STRATA_OK;
        }
        if (*rest == ':' && rest[1] >= '0' && rest[1] <= '9' && std::strlen(rest) <= 4 && std::strcmp(slots[i].kind, "cuda") == 0) {
            char *end = nullptr;
            const long number = std::strtol(rest + 1, &end, 10);
            if (*end == '\0') {
                *slot = &slots[i];
                *index = static_cast<std::int32_t>(number);
                return STRATA_OK;
            }
        }
    }
    return fail(STRATA_E_ARGUMENT, "context: device is ", Quote{device},
                ", must be cpu, simt or cuda:N; see strata_device_describe for those that are there");
}

} // namespace

void set_last_impl(const char *impl) { last_impl = impl; }

Status carry(const Backend &backend, Status status) {
    if (status != STRATA_OK && &backend != &cpu_backend()) {
        Text &text = error_text();
        text.clear();
        text << backend.last_error();
    }
    return status;
}

} // namespace strata

using strata::backend_slots;
using strata::BackendSlot;
using strata::carry;
using strata::copy_text;
using strata::fail;
using strata::guard;
using strata::need;

std::uint32_t strata_abi_version(void) { return STRATA_ABI_VERSION; }

const char *strata_build_info(void) { return "strata " STRATA_VERSION ", " STRATA_COMPILER ", cpu: scalar avx2 avx512 avx512vnni"; }

const char *strata_last_error(void) { return strata::error_text().c_str(); }

const char *strata_status_name(strata_status status) { return strata::status_name(status); }

const char *strata_last_impl(void) { return strata::last_impl; }

strata_status strata_device_count(std::int32_t *count) {
    return guard([&]() -> strata::Status {
        TRY(need(count, "device_count", "count"));
        std::int32_t total = 0;
        for (std::int32_t i = 0; i < strata::kBackendSlots; ++i) {
            const BackendSlot &slot = backend_slots()[i];
            total += slot.backend != nullptr ? slot.backend->device_count() : 1;
        }
        *count = total;
        return STRATA_OK;
    });
}

strata_status strata_device_describe(std::int32_t index, strata_device_info *info) {
    return guard([&]() -> strata::Status {
        TRY(need(info, "device_describe", "info"));
        if (info->struct_size != sizeof(strata_device_info)) {
            return fail(STRATA_E_VERSION, "device_describe: struct_size is ", info->struct_size, ", must be ", sizeof(strata_device_info),
                        "; set it to sizeof(strata_device_info)");
        }
        std::int32_t first = 0;
        for (std::int32_t i = 0; i < strata::kBackendSlots; ++i) {
            const BackendSlot &slot = backend_slots()[i];
            const std::int32_t count = slot.backend != nullptr ? slot.backend->device_count() : 1;
            if (index >= first && index < first + count) {
                strata_device_info found{};
                found.struct_size = sizeof found;
                if (slot.backend != nullptr) {
                    slot.backend->describe(index - first, &found);
                } else {
                    strata::Text id;
                    id << slot.kind << (std::strcmp(slot.kind, "cuda") == 0 ? ":0" : "");
                    copy_text(found.id, id.c_str());
                    copy_text(found.reason, slot.reason);
                }
                *info = found;
                return STRATA_OK;
            }
            first += count;
        }
        return fail(STRATA_E_ARGUMENT, "device_describe: index is ", index, ", must be 0 to ", first - 1, "; ask strata_device_count");
    });
}

strata_status strata_context_create(const strata_context_desc *desc, strata_context **context) {
    return guard([&]() -> strata::Status {
        TRY(need(context, "context_create", "context"));
        strata_context_desc known;
        TRY(strata::read_args("context_create", desc, &known));
        const BackendSlot *slot = nullptr;
        strata::OpenOptions options{0, known.threads, known.isa};
        TRY(strata::parse_device(known.device != nullptr ? known.device : "cpu", &slot, &options.index));
        if (known.threads < 0 || known.threads > 1024) {
            return fail(STRATA_E_ARGUMENT, "context_create: threads is ", known.threads, ", must be 0 to 1024; pass 0 for all cores");
        }
        if (slot->backend == nullptr) {
            return fail(STRATA_E_DEVICE, slot->reason);
        }
        auto made = std::make_unique<strata_context>();
        made->backend = slot->backend;
        TRY(carry(*made->backend, made->backend->open(options, &made->state, &made->traits)));
        strata::Text id;
        id << slot->kind;
        if (std::strcmp(slot->kind, "cuda") == 0) {
            id << ":" << options.index;
        }
        copy_text(made->device, id.c_str());
        *context = made.release();
        return STRATA_OK;
    });
}

void strata_context_destroy(strata_context *context) {
    if (context != nullptr) {
        context->backend->close(context->state);
        delete context;
    }
}

const char *strata_context_device(const strata_context *context) { return context != nullptr ? context->device : ""; }

const char *strata_context_isa(const strata_context *context) { return context != nullptr ? context->traits.isa : ""; }

strata_status strata_buffer_create(strata_context *context, std::size_t bytes, strata_buffer **buffer) {
    return guard([&]() -> strata::Status {
        TRY(need(context, "buffer_create", "context"));
        TRY(need(buffer, "buffer_create", "buffer"));
        if (bytes == 0 || bytes > (std::size_t{1} << 47)) {
            return fail(STRATA_E_ARGUMENT, "buffer_create: bytes is ", bytes, ", must be 1 to 2^47; ask for what is needed");
        }
        auto made = std::make_unique<strata_buffer>(strata_buffer{context, nullptr, bytes});
        TRY(carry(*context->backend, context->backend->allocate(context->state, bytes, &made->data)));
        *buffer = made.release();
        return STRATA_OK;
    });
}

void strata_buffer_destroy(strata_buffer *buffer) {
    if (buffer != nullptr) {
        buffer->context->backend->release(buffer->context->state, buffer->data, buffer->bytes);
        delete buffer;
    }
}

void *strata_buffer_data(const strata_buffer *buffer) { return buffer != nullptr ? buffer->data : nullptr; }

std::size_t strata_buffer_bytes(const strata_buffer *buffer) { return buffer != nullptr ? buffer->bytes : 0; }

strata_status strata_copy(strata_context *context, void *destination, const void *source, std::size_t bytes, std::int32_t kind,
                          strata_stream stream) {
    return guard([&]() -> strata::Status {
        TRY(need(context, "copy", "context"));
        if (kind < STRATA_COPY_TO_DEVICE || kind > STRATA_COPY_ON_DEVICE) {
            return fail(STRATA_E_ARGUMENT, "copy: kind is ", kind, ", must be a strata_copy_kind (1 to 3); say where the bytes come from");
        }
        if (bytes == 0) {
            return STRATA_OK;
        }
        TRY(need(destination, "copy", "destination"));
        TRY(need(source, "copy", "source"));
        return carry(*context->backend, context->backend->copy(context->state, destination, source, bytes, kind, stream));
    });
}

strata_status strata_fill(strata_context *context, void *destination, std::int32_t value, std::size_t bytes, strata_stream stream) {
    return guard([&]() -> strata::Status {
        TRY(need(context, "fill", "context"));
        if (bytes == 0) {
            return STRATA_OK;
        }
        TRY(need(destination, "fill", "destination"));
        return carry(*context->backend, context->backend->fill(context->state, destination, value, bytes, stream));
    });
}

strata_status strata_stream_create(strata_context *context, strata_stream *stream) {
    return guard([&]() -> strata::Status {
        TRY(need(context, "stream_create", "context"));
        TRY(need(stream, "stream_create", "stream"));
        return carry(*context->backend, context->backend->stream_create(context->state, stream));
    });
}

strata_status strata_stream_destroy(strata_context *context, strata_stream stream) {
    return guard([&]() -> strata::Status {
        TRY(need(context, "stream_destroy", "context"));
        return stream == nullptr ? strata_status{STRATA_OK} : carry(*context->backend, context->backend->stream_destroy(context->state, stream));
    });
}

strata_status strata_stream_sync(strata_context *context, strata_stream stream) {
    return guard([&]() -> strata::Status {
        TRY(need(context, "stream_sync", "context"));
        return carry(*context->backend, context->backend->stream_sync(context->state, stream));
    });
}

strata_status strata_event_create(strata_context *context, strata_event **event) {
    return guard([&]() -> strata::Status {
        TRY(need(context, "event_create", "context"));
        TRY(need(event, "event_create", "event"));
        auto made = std::make_unique<strata_event>(strata_event{context, nullptr, false});
        TRY(carry(*context->backend, context->backend->event_create(context->state, &made->event)));
        *event = made.release();
        return STRATA_OK;
    });
}

void strata_event_destroy(strata_event *event) {
    if (event != nullptr) {
        event->context->backend->event_destroy(event->context->state, event->event);
        delete event;
    }
}

strata_status strata_event_record(strata_event *event, strata_stream stream) {
    return guard([&]() -> strata::Status {
        TRY(need(event, "event_record", "event"));
        TRY(carry(*event->context->backend, event->context->backend->event_record(event->context->state, event->event, stream)));
        event->recorded = true;
        return STRATA_OK;
    });
}

strata_status strata_event_wait(strata_event *event, strata_stream stream) {
    return guard([&]() -> strata::Status {
        TRY(need(event, "event_wait", "event"));
        return carry(*event->context->backend, event->context->backend->event_wait(event->context->state, event->event, stream));
    });
}

strata_status strata_event_sync(strata_event *event) {
    return guard([&]() -> strata::Status {
        TRY(need(event, "event_sync", "event"));
        return carry(*event->context->backend, event->context->backend->event_sync(event->context->state, event->event));
    });
}

strata_status strata_event_elapsed(strata_event *start, strata_event *end, double *microseconds) {
    return guard([&]() -> strata::Status {
        TRY(need(start, "event_elapsed", "start"));
        TRY(need(end, "event_elapsed", "end"));
        TRY(need(microseconds, "event_elapsed", "microseconds"));
        if (start->context != end->context || !start->recorded || !end->recorded) {
            return fail(
                STRATA_E_ARGUMENT,
                "event_elapsed: one event was not recorded or is of another context, must be two recorded events of one context; record both first");
        }
        return carry(*start->context->backend, start->context->backend->event_elapsed(start->context->state, start->event, end->event, microseconds));
    });
}

strata_status strata_limit_measure(strata_context *context, std::int32_t limit, double *per_second) {
    return guard([&]() -> strata::Status {
        TRY(need(context, "limit_measure", "context"));
        TRY(need(per_second, "limit_measure", "per_second"));
        if (limit < STRATA_LIMIT_READ || limit > STRATA_LIMIT_AMX_INT8) {
            return fail(STRATA_E_ARGUMENT, "limit_measure: limit is ", limit, ", must be a strata_limit (1 to 6); choose one");
        }
        return carry(*context->backend, context->backend->limit_measure(context->state, limit, per_second));
    });
}
