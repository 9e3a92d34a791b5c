// SPDX-License-Identifier: Apache-2.0
// Packed weights: sizes, checks and the three exports.
#include "core/weight.h"

#include "core/xxh64.h"

namespace strata {

namespace {

constexpr FormatInfo kFormats[] = {
    {"F32", 1, 4, 0, 4, 0},          {"F16", 1, 2, 0, 2, 0},           {"BF16", 1, 2, 0, 2, 0},
    {"Q4_0", 32, 18, 2, 256, 64},    {"Q4_1", 32, 20, 1, 256, 64},     {"Q8_0", 32, 34, 2, 512, 64},
    {"Q4_K", 256, 144, 8, 256, 320}, {"Q6_K", 256, 210, 8, 256, 1344}, {"I4", 32, 16, 2, 256, 64},
};

// Sizes that no weight needs, so that sums of a few of them stay in 64 bits.
constexpr std::int64_t kMaxExtent = std::int64_t{1} << 40;
constexpr std::int64_t kMaxBytes = std::int64_t{1} << 60;

std::int32_t natural_group(std::int32_t format) {
    switch (format) {
    case STRATA_FORMAT_Q4_0:
    case STRATA_FORMAT_Q4_1:
    case STRATA_FORMAT_Q8_0:
    case STRATA_FORMAT_Q4_K: return 32;
    case STRATA_FORMAT_Q6_K: return 16;
    default: return 0;
    }
}

std::uint64_t packed_hash(const PackedHeader &header, const unsigned char *rest) {
    const std::uint64_t seed = xxh64(&header, offsetof(PackedHeader, hash), 0);
    return xxh64(rest, static_cast<std::size_t>(header.bytes) - sizeof header, seed);
}

strata_weight describe(const PackedHeader &header, const void *data) {
    strata_weight weight{};
    weight.data = data;
    weight.bytes = header.bytes;
    weight.n = header.n;
    weight.k = header.k;
    weight.format = header.format;
    weight.group = header.group;
    weight.layout = header.layout;
    return weight;
}

// The group a source's weights will have; also checks the source's own group field.
Status source_group(const char *op, const strata_weight_source &source, std::int32_t *group) {
    const FormatInfo *info = format_info(source.format);
    if (info == nullptr) {
        return fail(STRATA_E_FORMAT, op, ": source.format is ", source.format, ", must be a strata_format (1 to 9); set the format of the blocks");
    }
    if (source.format == STRATA_FORMAT_I4) {
        *group = source.group;
        return STRATA_OK;
    }
    if (source.group != 0) {
        return fail(STRATA_E_ARGUMENT, op, ": source.group is ", source.group, ", must be 0 for ", info->name,
                    ", whose blocks fix it; leave it zero");
    }
    *group = natural_group(source.format);
    return STRATA_OK;
}

Status check_source_bytes(const char *op, const strata_weight_source &source) {
    const FormatInfo &info = *format_info(source.format);
    const std::int64_t want = source.n * (source.k / info.block) * info.source_bytes;
    if (source.data_bytes != want) {
        return fail(STRATA_E_SHAPE, op, ": source.data_bytes is ", source.data_bytes, ", must be ", want, " for ", source.n, " x ", source.k, " ",
                    info.name, "; pass exactly the matrix");
    }
    const std::int64_t want_scales = source.format == STRATA_FORMAT_I4 ? 2 * source.n * (source.k / source.group) : 0;
    if (source.scales_bytes != want_scales) {
        return fail(STRATA_E_SHAPE, op, ": source.scales_bytes is ", source.scales_bytes, ", must be ", want_scales, " for ", source.n, " x ",
                    source.k, " ", info.name, "; pass one fp16 scale per group of I4, none for other formats");
    }
    if (source.data == nullptr) {
        return fail(STRATA_E_ARGUMENT, op, ": source.data is NULL, must point to ", want, " bytes; pass the blocks");
    }
    if (want_scales > 0 && source.scales == nullptr) {
        return fail(STRATA_E_ARGUMENT, op, ": source.scales is NULL, must point to ", want_scales, " bytes; pass the scales");
    }
    return STRATA_OK;
}

Status measure_source(const char *op, const strata_weight_source *from, strata_weight_source *source, std::int32_t *group, std::int64_t *panel_bytes,
                      std::int64_t *packed_bytes) {
    if (from == nullptr) {
        return fail(STRATA_E_ARGUMENT, op, ": source is NULL, must describe the weights; pass its address");
    }
    TRY(read_args(op, from, source));
    TRY(source_group(op, *source, group));
    return measure_weight(op, "source", source->format, *group, source->n, source->k, panel_bytes, packed_bytes);
}

bool ranges_meet(const void *a, std::int64_t a_bytes, const void *b, std::int64_t b_bytes) {
    const auto first = reinterpret_cast<std::uintptr_t>(a);
    const auto second = reinterpret_cast<std::uintptr_t>(b);
    return a_bytes > 0 && b_bytes > 0 && first < second + static_cast<std::uintptr_t>(b_bytes) &&
           second < first + static_cast<std::uintptr_t>(a_bytes);
}

Status pack(const strata_weight_source *from, void *destination, std::size_t destination_bytes, strata_weight *weight) {
    constexpr const char *kOp = "weight_pack";
    strata_weight_source source{};
    std::int32_t group = 0;
    std::int64_t panel_bytes = 0;
    std::int64_t bytes = 0;
    TRY(measure_source(kOp, from, &source, &group, &panel_bytes, &bytes));
    TRY(check_source_bytes(kOp, source));
    if (weight == nullptr) {
        return fail(STRATA_E_ARGUMENT, kOp, ": weight is NULL, must point to a strata_weight to fill; pass its address");
    }
    if (destination == nullptr || destination_bytes < static_cast<std::size_t>(bytes)) {
        return fail(STRATA_E_WORKSPACE, kOp, ": destination has ", destination == nullptr ? 0 : destination_bytes, " bytes, must have ", bytes,
                    "; ask strata_weight_packed_bytes");
    }
    if (reinterpret_cast<std::uintptr_t>(destination) % 64 != 0) {
        return fail(STRATA_E_ALIGNMENT, kOp, ": destination is not 64-byte aligned, must be; use memory of strata_buffer_create");
    }
    if (ranges_meet(destination, bytes, source.data, source.data_bytes) || ranges_meet(destination, bytes, source.scales, source.scales_bytes)) {
        return fail(STRATA_E_ARGUMENT, kOp, ": destination overlaps the source, must be separate memory; pack into a buffer of its own");
    }
    auto *panels = static_cast<unsigned char *>(destination) + sizeof(PackedHeader);
    pack_panels(source, panel_bytes, panels);
    PackedHeader header{kPackedMagic, STRATA_ABI_VERSION >> 16, source.format, group, kPanelLayout, source.n, source.k, bytes, 0, 0};
    header.hash = packed_hash(header, panels);
    std::memcpy(destination, &header, sizeof header);
    *weight = describe(header, destination);
    return STRATA_OK;
}

Status open(const void *data, std::size_t bytes, strata_weight *weight) {
    constexpr const char *kOp = "weight_open";
    if (data == nullptr || weight == nullptr) {
        return fail(STRATA_E_ARGUMENT, kOp, ": ", data == nullptr ? "data" : "weight", " is NULL, must point to memory; pass its address");
    }
    if (reinterpret_cast<std::uintptr_t>(data) % 64 != 0) {
        return fail(STRATA_E_ALIGNMENT, kOp, ": data is not 64-byte aligned, must be; read the file into memory of strata_buffer_create");
    }
    PackedHeader header;
    if (bytes < sizeof header) {
        return fail(STRATA_E_FORMAT, kOp, ": data has ", bytes, " bytes, must have the 64 of a header; pass the whole packed weight");
    }
    std::memcpy(&header, data, sizeof header);
    if (header.magic != kPackedMagic) {
        return fail(STRATA_E_FORMAT, kOp,
                    ": data does not begin with the packed weight's mark, must be what strata_weight_pack wrote; pack the weights");
    }
    if (header.abi_major != STRATA_ABI_VERSION >> 16 || header.layout != kPanelLayout) {
        return fail(STRATA_E_FORMAT, kOp, ": data is of ABI ", header.abi_major, ", layout ", header.layout, ", must be of ABI ",
                    STRATA_ABI_VERSION >> 16, ", layout ", kPanelLayout, "; pack the weights again with this library");
    }
    std::int64_t panel_bytes = 0;
    std::int64_t want = 0;
    TRY(measure_weight(kOp, "header", header.format, header.group, header.n, header.k, &panel_bytes, &want));
    if (header.bytes != want || static_cast<std::uint64_t>(want) != bytes) {
        return fail(STRATA_E_FORMAT, kOp, ": data has ", bytes, " bytes and its header says ", header.bytes, ", both must be ", want,
                    "; read the packed weight whole");
    }
    if (header.reserved != 0 || header.hash != packed_hash(header, static_cast<const unsigned char *>(data) + sizeof header)) {
        return fail(STRATA_E_FORMAT, kOp,
                    ": data does not have the hash of its header, must be unchanged since it was packed; pack the weights again");
    }
    *weight = describe(header, data);
    return STRATA_OK;
}

} // namespace

const FormatInfo *format_info(std::int32_t format) {
    return format < STRATA_FORMAT_F32 || format > STRATA_FORMAT_I4 ? nullptr : &kFormats[format - STRATA_FORMAT_F32];
}

std::int32_t groups_per_step(const FormatInfo &info, std::int32_t format, std::int32_t group) {
    return format == STRATA_FORMAT_I4 ? info.groups_per_step * (group / 32) : info.groups_per_step;
}

Status measure_weight(const char *op, const char *name, std::int32_t format, std::int32_t group, std::int64_t n, std::int64_t k,
                      std::int64_t *panel_bytes, std::int64_t *packed_bytes) {
    const FormatInfo *info = format_info(format);
    if (info == nullptr) {
        return fail(STRATA_E_FORMAT, op, ": ", name, ".format is ", format,
                    ", must be a strata_format (1 to 9); pass what strata_weight_pack filled in");
    }
    std::int64_t block = info->block;
    if (format == STRATA_FORMAT_I4) {
        if (group != 32 && group != 64 && group != 128) {
            return fail(STRATA_E_SHAPE, op, ": ", name, ".group is ", group, ", must be 32, 64 or 128 for I4; quantise with such a group");
        }
        block = group;
    } else if (group != natural_group(format)) {
        return fail(STRATA_E_FORMAT, op, ": ", name, ".group is ", group, ", must be ", natural_group(format), " for ", info->name,
                    "; pass what strata_weight_pack filled in");
    }
    if (n < 1 || n > kMaxExtent || k < 1 || k > kMaxExtent) {
        return fail(STRATA_E_SHAPE, op, ": ", name, " is ", n, " x ", k, ", must be 1 to 2^40 each way; pass the real extents");
    }
    if (k % block != 0) {
        return fail(STRATA_E_SHAPE, op, ": ", name, ".k is ", k, ", must be a multiple of ", block, " for ", info->name,
                    "; pad the columns with zero weights");
    }
    std::int64_t panel = 0;
    if (info->groups_per_step == 0) {
        panel = (k * kPanelRows * info->code_bytes + 63) / 64 * 64;
    } else {
        const std::int64_t step = groups_per_step(*info, format, group);
        panel = k / 32 * info->code_bytes + (k / 32 + step - 1) / step * info->tail_bytes;
    }
    std::int64_t bytes = 0;
    if (__builtin_mul_overflow(panel, (n + kPanelRows - 1) / kPanelRows, &bytes) || bytes > kMaxBytes) {
        return fail(STRATA_E_SHAPE, op, ": ", name, " is ", n, " x ", k, ", must pack into at most 2^60 bytes; pass the real extents");
    }
    *panel_bytes = panel;
    *packed_bytes = bytes + static_cast<std::int64_t>(sizeof(PackedHeader));
    return STRATA_OK;
}

Status check_weight(const CheckMode &mode, const char *name, const strata_weight &weight, WeightView *view) {
    *view = WeightView{};
    std::int64_t bytes = 0;
    TRY(measure_weight(mode.op, name, weight.format, weight.group, weight.n, weight.k, &view->panel_bytes, &bytes));
    if (weight.layout != kPanelLayout || weight.reserved != 0) {
        return fail(STRATA_E_FORMAT, mode.op, ": ", name, ".layout is ", weight.layout, ", must be ", kPanelLayout,
                    " with reserved 0; pass what strata_weight_pack filled in");
    }
    view->n = weight.n;
    view->k = weight.k;
    view->panel_count = (weight.n + kPanelRows - 1) / kPanelRows;
    view->format = weight.format;
    view->group = weight.group;
    const FormatInfo &info = *format_info(weight.format);
    view->groups_per_step = groups_per_step(info, weight.format, weight.group);
    view->code_bytes = info.code_bytes;
    view->tail_bytes = info.tail_bytes;
    if (weight.bytes != bytes && (mode.data || weight.bytes != 0)) {
        return fail(STRATA_E_FORMAT, mode.op, ": ", name, ".bytes is ", weight.bytes, ", must be ", bytes,
                    " for its format and shape; pass the packed weight whole");
    }
    if (!mode.data) {
        return STRATA_OK;
    }
    if (weight.data == nullptr) {
        return fail(STRATA_E_ARGUMENT, mode.op, ": ", name, ".data is NULL, must point to ", bytes, " packed bytes; pass the weight's memory");
    }
    if (reinterpret_cast<std::uintptr_t>(weight.data) % 64 != 0) {
        return fail(STRATA_E_ALIGNMENT, mode.op, ": ", name, ".data is not 64-byte aligned, must be; use memory of strata_buffer_create");
    }
    view->panels = static_cast<const unsigned char *>(weight.data) + sizeof(PackedHeader);
    if (mode.read_indices) {
        PackedHeader header;
        std::memcpy(&header, weight.data, sizeof header);
        if (header.magic != kPackedMagic || header.abi_major != STRATA_ABI_VERSION >> 16 || header.layout != weight.layout ||
            header.format != weight.format || header.group != weight.group || header.n != weight.n || header.k != weight.k ||
            header.bytes != weight.bytes) {
            return fail(STRATA_E_FORMAT, mode.op, ": ", name,
                        ".data has a header that differs from the fields, must be the same weight; pass what "
                        "strata_weight_pack or strata_weight_open filled in");
        }
    }
    return STRATA_OK;
}

} // namespace strata

using strata::fail;
using strata::guard;

strata_status strata_weight_packed_bytes(const strata_weight_source *source, std::size_t *bytes) {
    return guard([&]() -> strata::Status {
        constexpr const char *kOp = "weight_packed_bytes";
        if (bytes == nullptr) {
            return fail(STRATA_E_ARGUMENT, kOp, ": bytes is NULL, must point to a size_t; pass its address");
        }
        strata_weight_source known{};
        std::int32_t group = 0;
        std::int64_t panel = 0;
        std::int64_t packed = 0;
        TRY(strata::measure_source(kOp, source, &known, &group, &panel, &packed));
        *bytes = static_cast<std::size_t>(packed);
        return STRATA_OK;
    });
}

strata_status strata_weight_pack(const strata_weight_source *source, void *destination, std::size_t destination_bytes, strata_weight *weight) {
    return guard([&] { return strata::pack(source, destination, destination_bytes, weight); });
}

strata_status strata_weight_open(const void *data, std::size_t bytes, strata_weight *weight) {
    return guard([&] { return strata::open(data, bytes, weight); });
}
