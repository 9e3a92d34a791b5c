// SPDX-License-Identifier: Apache-2.0
// bitstack: checks and exports.
#include "ops/bitstack/bitstack.h"

namespace strata {

namespace {

// Where the level is host memory, its header must say what the view says.
Status check_header(const CheckMode &mode, std::int32_t index, const strata_bitstack_level &level) {
    BitStackHeader header;
    std::memcpy(&header, level.data, sizeof header);
    if (header.magic == kBitStackMagic && header.layout == level.layout && header.n == level.n && header.k == level.k && header.rank == level.rank &&
        header.bytes == level.bytes) {
        return STRATA_OK;
    }
    return fail(STRATA_E_FORMAT, mode.op, ": levels[", index,
                "].data does not begin with the header of this level, must be what strata_bitstack_pack wrote; "
                "open the level again");
}

Status check_level(const CheckMode &mode, std::int32_t index, const strata_bitstack_level &first, const strata_bitstack_level &level,
                   BitStackProblem *problem) {
    Text name;
    name << "levels[" << index << "].";
    BitStackLayout layout;
    TRY(bitstack_layout(mode.op, name.c_str(), level.n, level.k, level.rank, &layout));
    if (level.n != first.n || level.k != first.k) {
        return fail(STRATA_E_SHAPE, mode.op, ": levels[", index, "] is [", level.n, ", ", level.k, "], must be of the shape of levels[0], [", first.n,
                    ", ", first.k, "]; pass levels of one matrix");
    }
    if (level.layout != kBitStackLayoutId || level.bytes != layout.bytes) {
        return fail(STRATA_E_FORMAT, mode.op, ": levels[", index, "] has layout ", level.layout, " and ", level.bytes, " bytes, must have ",
                    kBitStackLayoutId, " and ", layout.bytes, "; take the view from strata_bitstack_pack or strata_bitstack_open");
    }
    problem->panels = layout.panels;
    problem->blocks = layout.blocks;
    problem->max_rank = problem->max_rank < level.rank ? level.rank : problem->max_rank;
    BitStackLevelView &view = problem->levels[index];
    view = BitStackLevelView{nullptr, nullptr, nullptr, level.rank};
    if (!mode.data) {
        return STRATA_OK;
    }
    if (level.data == nullptr) {
        return fail(STRATA_E_ARGUMENT, mode.op, ": levels[", index, "].data is NULL, must point to ", level.bytes, " packed bytes; load the level");
    }
    if (reinterpret_cast<std::uintptr_t>(level.data) % STRATA_PACKED_HEADER_BYTES != 0) {
        return fail(STRATA_E_ALIGNMENT, mode.op, ": levels[", index, "].data is not 64-byte aligned, must be; use memory of strata_buffer_create");
    }
    if (mode.read_indices) {
        TRY(check_header(mode, index, level));
    }
    const auto *bytes = static_cast<const unsigned char *>(level.data);
    view.u = reinterpret_cast<const std::uint16_t *>(bytes + layout.u);
    view.v = reinterpret_cast<const std::uint16_t *>(bytes + layout.v);
    view.signs = reinterpret_cast<const std::uint32_t *>(bytes + layout.signs);
    return STRATA_OK;
}

} // namespace

Status check_bitstack(const CheckMode &mode, const strata_bitstack_args &args, BitStackProblem *problem) {
    *problem = BitStackProblem{};
    BitStackProblem &p = *problem;
    TRY(check_range(mode, "flags", args.flags, 0, 0, "no flag is known"));
    TRY(check_range(mode, "level_count", args.level_count, 1, STRATA_MAX_LEVELS, "pass the levels that are loaded"));
    if (args.levels == nullptr) {
        return fail(STRATA_E_ARGUMENT, mode.op, ": levels is NULL, must point to ", args.level_count, " views; pass the loaded levels");
    }
    p.level_count = args.level_count;
    for (std::int32_t i = 0; i < args.level_count; ++i) {
        TRY(check_level(mode, i, args.levels[0], args.levels[i], problem));
    }
    p.n = args.levels[0].n;
    p.k = args.levels[0].k;
    TRY(check_optional_tensor(mode, "x", args.x, 2, kFloats, Access::kRead, &p.x));
    TRY(check_tensor(mode, "y", args.y, 2, kFloats, Access::kWrite, &p.y));
    if (!p.x.present()) {
        TRY(check_equal(mode, "y.shape[0]", p.y.shape[0], "n", p.n, "a decode (x absent) writes W [n, k]"));
        return check_equal(mode, "y.shape[1]", p.y.shape[1], "k", p.k, "a decode (x absent) writes W [n, k]");
    }
    p.m = p.x.shape[0];
    TRY(check_equal(mode, "x.shape[1]", p.x.shape[1], "k", p.k, "pass activations of the weight's width"));
    TRY(check_equal(mode, "y.shape[0]", p.y.shape[0], "x.shape[0]", p.m, "give y the rows of x"));
    TRY(check_equal(mode, "y.shape[1]", p.y.shape[1], "n", p.n, "give y the weight's rows as columns"));
    return check_no_partial_overlap(mode, "y", p.y, "x", p.x, false);
}

} // namespace strata

DEFINE_OP(bitstack, BitStack)
