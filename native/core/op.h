// SPDX-License-Identifier: Apache-2.0
// check → plan → run, the same three steps for every op; DEFINE_OP makes the three exports.
#pragma once

#include "core/context.h"
#include "core/guard.h"
#include "core/tensor_check.h"

#include <cstring>

namespace strata {

/// What a check may look at.
struct CheckMode {
    const char *op;    // name for sentences
    bool data;         // pointers are there and must be valid (run); false: shapes only (supported, workspace)
    bool read_indices; // tables and lengths are host memory and must be checked here (cpu, run)
};

/// Copies the caller's args, whatever their age: missing fields are zero, unknown ones must be.
template <class Args>
Status read_args(const char *op, const Args *from, Args *to) {
    if (from == nullptr) {
        return fail(STRATA_E_ARGUMENT, op, ": args is NULL, must point to the op's argument block; pass its address");
    }
    constexpr std::size_t kLargest = sizeof(Args) + 1024; // room to grow; a garbage size must not send us reading far
    const std::uint32_t size = from->struct_size;
    if (size < 2 * sizeof(std::uint32_t) || size > kLargest) {
        return fail(STRATA_E_VERSION, op, ": struct_size is ", size, ", must be sizeof of the argument block (", sizeof(Args),
                    " in this version); set it before the call");
    }
    const auto *bytes = reinterpret_cast<const unsigned char *>(from);
    for (std::size_t i = sizeof(Args); i < size; ++i) {
        if (bytes[i] != 0) {
            return fail(STRATA_E_VERSION, op, ": struct_size is ", size, " and byte ", i, " is set, must be zero past the ", sizeof(Args),
                        " bytes that this version knows; use a newer library or leave the new fields zero");
        }
    }
    *to = Args{};
    std::memcpy(to, from, size < sizeof(Args) ? size : sizeof(Args));
    return STRATA_OK;
}

template <class Args, class Problem>
struct OpCall {
    const char *name;
    OpId id;
    Status (*check)(const CheckMode &mode, const Args &args, Problem *problem);

    Status prepare(strata_context *context, const Args *args, bool data, Problem *problem) const {
        if (context == nullptr) {
            return fail(STRATA_E_ARGUMENT, name, ": context is NULL, must be an open context; call strata_context_create first");
        }
        Args known;
        TRY(read_args(name, args, &known));
        return check(CheckMode{name, data, data && context->traits.host_checks_indices}, known, problem);
    }

    Status dispatch(strata_context *context, Exec &exec, const Problem &problem) const {
        exec.pool = context->traits.pool;
        exec.fault = context->traits.fault;
        exec.multiprocessors = context->traits.multiprocessors;
        exec.architecture = context->traits.architecture;
        const Status status = context->traits.ops[static_cast<std::int32_t>(id)](exec, &problem);
        return carry(*context->backend, status);
    }

    Status plan(strata_context *context, const Problem &problem, std::size_t *bytes) const {
        Exec exec{Planner(nullptr), true};
        TRY(dispatch(context, exec, problem));
        if (exec.planner.overflow()) {
            return fail(STRATA_E_SHAPE, name, ": the workspace would exceed the address space, must fit in memory; split the problem");
        }
        *bytes = exec.planner.bytes();
        return STRATA_OK;
    }

    Status supported(strata_context *context, const Args *args) const {
        Problem problem;
        std::size_t bytes = 0;
        TRY(prepare(context, args, false, &problem));
        return plan(context, problem, &bytes);
    }

    Status workspace(strata_context *context, const Args *args, std::size_t *bytes) const {
        if (bytes == nullptr) {
            return fail(STRATA_E_ARGUMENT, name, ": bytes is NULL, must point to a size_t; pass its address");
        }
        Problem problem;
        std::size_t needed = 0;
        TRY(prepare(context, args, false, &problem));
        TRY(plan(context, problem, &needed));
        *bytes = needed;
        return STRATA_OK;
    }

    Status run(strata_context *context, const Args *args, void *workspace, std::size_t workspace_bytes, strata_stream stream) const {
        Problem problem;
        std::size_t needed = 0;
        TRY(prepare(context, args, true, &problem));
        TRY(plan(context, problem, &needed));
        if (needed > workspace_bytes || (needed > 0 && workspace == nullptr)) {
            return fail(STRATA_E_WORKSPACE, name, ": workspace has ", workspace == nullptr ? 0 : workspace_bytes, " bytes, must have ", needed,
                        "; ask strata_", name, "_workspace");
        }
        if (needed > 0 && reinterpret_cast<std::uintptr_t>(workspace) % Planner::kAlignment != 0) {
            return fail(STRATA_E_ALIGNMENT, name, ": workspace is not 64-byte aligned, must be; use memory of strata_buffer_create");
        }
        Exec exec{Planner(workspace), false};
        exec.stream = stream;
        context->backend->enter(context->state, &exec);
        TRY(dispatch(context, exec, problem));
        set_last_impl(exec.impl);
        return STRATA_OK;
    }
};

} // namespace strata

/// The three exports of op `name`, whose check is strata::check_<name>(const CheckMode&, const strata_<name>_args&, <Type>Problem*).
#define DEFINE_OP(name, Type)                                                                                                                  \
    static constexpr ::strata::OpCall<strata_##name##_args, ::strata::Type##Problem> name##_call{#name, ::strata::OpId::name,                  \
                                                                                                 &::strata::check_##name};                     \
    strata_status strata_##name##_supported(strata_context *context, const strata_##name##_args *args) {                                       \
        return ::strata::guard([&] { return name##_call.supported(context, args); });                                                          \
    }                                                                                                                                          \
    strata_status strata_##name##_workspace(strata_context *context, const strata_##name##_args *args, std::size_t *bytes) {                   \
        return ::strata::guard([&] { return name##_call.workspace(context, args, bytes); });                                                   \
    }                                                                                                                                          \
    strata_status strata_##name##_run(strata_context *context, const strata_##name##_args *args, void *workspace, std::size_t workspace_bytes, \
                                      strata_stream stream) {                                                                                  \
        return ::strata::guard([&] { return name##_call.run(context, args, workspace, workspace_bytes, stream); });                            \
    }
